"""Tokens on their way to a worker, from who asks for a download: through pipes, and never on a command line, in
another's environment or on the disk.

A worker that starts gets one on its standard input. To one that runs they come through a pipe with a name, each with
the number of its download (Unix alone: elsewhere a running worker has what it was started with).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from typing_extensions import Self

from llm_hf_models import paths
from llm_hf_models.context import Context
from llm_hf_models.errors import HfModelsError
from llm_hf_models.hub import tokens

MAX_LINE_BYTES = 4096  # what a pipe takes whole or not at all (PIPE_BUF on Linux; POSIX has 512 at least)
HAS_NAMED_PIPES = hasattr(os, "mkfifo")


@dataclass(frozen=True)
class HandedToken:
    """A token that a worker could not find by itself."""

    value: str = field(repr=False)
    source: Literal["environment", "encrypted file"]
    endpoint: str  # the Hub that it is for
    file_digest: str | None = None  # of the encrypted file that it came from: a login or a logout since then ends it

    def choose_token(self, found: tokens.Token | None) -> tokens.Token | None:
        """What a worker uses that found `found` itself."""
        if self.source == "environment":
            return tokens.Token(self.value, "environment")
        newer = found is not None and found.source in ("keychain", "encrypted file")
        return found if newer or _hash_token_file() != self.file_digest else tokens.Token(self.value, self.source)


def find_token_for_worker(context: Context) -> HandedToken | None:
    """The token of who asks, where a worker could not read it by itself. It may ask for the passphrase."""
    try:
        token = context.token()
    except HfModelsError:  # no passphrase, or a wrong one: what needs no token goes on, the others say why not
        return None
    if token is None or token.source not in ("environment", "encrypted file"):
        return None
    mark = _hash_token_file() if token.source == "encrypted file" else None
    return HandedToken(token.value, token.source, context.endpoint(), mark)


def _hash_token_file() -> str | None:
    """Tells one content of the encrypted token file from another; None where there is none."""
    try:
        return hashlib.sha256(tokens.encrypted_token_path().read_bytes()).hexdigest()
    except OSError:
        return None


def dump_token(handed: HandedToken) -> str:
    """As text for a pipe."""
    return json.dumps(asdict(handed))


def load_token(text: str | bytes) -> HandedToken:
    """From such text."""
    return HandedToken(**json.loads(text))


def _pipe_path() -> Path:
    return paths.data_dir() / "worker.pipe"


def has_listening_worker() -> bool:
    """Whether a worker may listen for tokens."""
    return HAS_NAMED_PIPES and _pipe_path().exists()


def send_token(number: int, handed: HandedToken) -> None:
    """Gives the worker that runs, if one does, the token for a download; call it before the worker can claim that."""
    line = f"{number} {dump_token(handed)}\n".encode()
    with contextlib.suppress(OSError):  # nobody listens
        pipe = os.open(_pipe_path(), os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            told = os.fstat(pipe)
            if stat.S_ISFIFO(told.st_mode) and told.st_uid == os.getuid() and len(line) <= MAX_LINE_BYTES:
                os.write(pipe, line)
        finally:
            os.close(pipe)


class TokenInbox:
    """The worker's end: a context manager. What was handed stays known after it, for the worker's next round."""

    def __init__(self) -> None:
        self._tokens: dict[int, HandedToken] = {}
        self._pipe: int | None = None
        self._rest = b""

    def __enter__(self) -> Self:
        if HAS_NAMED_PIPES:
            with contextlib.suppress(OSError):  # a file system without pipes
                _pipe_path().unlink(missing_ok=True)  # of a worker that was killed
                os.mkfifo(_pipe_path(), 0o600)
                # For writing too: else it would be at its end whenever nobody writes.
                self._pipe = os.open(_pipe_path(), os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                _pipe_path().unlink(missing_ok=True)
            self._read()
            os.close(self._pipe)
            self._pipe = None

    def get_token(self, number: int) -> HandedToken | None:
        """What was handed last for a download."""
        self._read()
        return self._tokens.get(number)

    def _read(self) -> None:
        while self._pipe is not None:
            try:
                self._rest += os.read(self._pipe, 1 << 16)
            except OSError:  # empty
                break
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):  # of another version
                number, _, text = line.partition(b" ")
                self._tokens[int(number)] = load_token(text)
