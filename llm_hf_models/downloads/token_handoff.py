"""Pass the caller's token to the worker through a pipe, and never in a command line, environment variable or file.

A new worker reads a token from its standard input. A running worker reads tokens from a named pipe, each with the id
of its download. Named pipes exist only on Unix: on Windows a running worker has only the token it was started with.
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

MAX_LINE_BYTES = 4096  # maximum size of an atomic write to a pipe (PIPE_BUF on Linux; POSIX guarantees 512)
HAS_NAMED_PIPES = hasattr(os, "mkfifo")


@dataclass(frozen=True)
class HandedToken:
    """A token that a worker can't find by itself."""

    value: str = field(repr=False)
    source: Literal["environment", "encrypted file"]
    endpoint: str  # the Hub that the token is for
    file_digest: str | None = None  # of the encrypted file; after a login or logout it differs, and the token is void

    def choose_token(self, found: tokens.Token | None) -> tokens.Token | None:
        """Return the token to use, given the one that the worker has found itself."""
        if self.source == "environment":
            return tokens.Token(self.value, "environment")
        newer = found is not None and found.source in ("keychain", "encrypted file")
        return found if newer or _hash_token_file() != self.file_digest else tokens.Token(self.value, self.source)


def find_token_for_worker(context: Context) -> HandedToken | None:
    """Return the caller's token if a worker could not find it by itself. This may ask for the passphrase."""
    try:
        token = context.token()
    except HfModelsError:  # no passphrase or a wrong one: downloads that need a token will report the error
        return None
    if token is None or token.source not in ("environment", "encrypted file"):
        return None
    mark = _hash_token_file() if token.source == "encrypted file" else None
    return HandedToken(token.value, token.source, context.endpoint(), mark)


def _hash_token_file() -> str | None:
    """Return the sha256 of the encrypted token file, or None if the file does not exist."""
    try:
        return hashlib.sha256(tokens.encrypted_token_path().read_bytes()).hexdigest()
    except OSError:
        return None


def dump_token(token: HandedToken) -> str:
    """Serialize a token for a pipe."""
    return json.dumps(asdict(token))


def load_token(text: str | bytes) -> HandedToken:
    """Parse a token that `dump_token` serialized."""
    return HandedToken(**json.loads(text))


def _pipe_path() -> Path:
    return paths.data_dir() / "worker.pipe"


def has_listening_worker() -> bool:
    """Return True if a running worker may be reading tokens from the named pipe."""
    return HAS_NAMED_PIPES and _pipe_path().exists()


def send_token(download_id: int, token: HandedToken) -> None:
    """Send the token for a download to the running worker, if any. Call it before the worker can claim the row."""
    line = f"{download_id} {dump_token(token)}\n".encode()
    with contextlib.suppress(OSError):  # no worker is running
        pipe = os.open(_pipe_path(), os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            info = os.fstat(pipe)
            if stat.S_ISFIFO(info.st_mode) and info.st_uid == os.getuid() and len(line) <= MAX_LINE_BYTES:
                os.write(pipe, line)
        finally:
            os.close(pipe)


class TokenInbox:
    """The worker's end of the named pipe, a context manager. After exit it still has the tokens it has received."""

    def __init__(self) -> None:
        self._tokens: dict[int, HandedToken] = {}
        self._pipe: int | None = None
        self._rest = b""

    def __enter__(self) -> Self:
        if HAS_NAMED_PIPES:
            with contextlib.suppress(OSError):  # the file system may not support pipes
                _pipe_path().unlink(missing_ok=True)  # left by a worker that was killed
                os.mkfifo(_pipe_path(), 0o600)
                # Open it for writing too: otherwise reading returns end-of-file while no process writes to it.
                self._pipe = os.open(_pipe_path(), os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                _pipe_path().unlink(missing_ok=True)
            self._read()
            os.close(self._pipe)
            self._pipe = None

    def get_token(self, download_id: int) -> HandedToken | None:
        """Return the latest token received for a download."""
        self._read()
        return self._tokens.get(download_id)

    def _read(self) -> None:
        while self._pipe is not None:
            try:
                self._rest += os.read(self._pipe, 1 << 16)
            except OSError:  # the pipe is empty
                break
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):  # another version of this package sent it
                download_id, _, text = line.partition(b" ")
                self._tokens[int(download_id)] = load_token(text)
