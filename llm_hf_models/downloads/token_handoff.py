"""Pass the caller's token to a new worker through its standard input, never in an argument or a file.

Each worker is started with the token of one caller. A row stores which token it needs as a fingerprint, never the token
itself. The fingerprint is keyed with a random value of the library, so it matches no fingerprint of another machine.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import asdict, dataclass, field

from llm_hf_models.context import Context
from llm_hf_models.errors import HfModelsError
from llm_hf_models.hub import encrypted_token, tokens

FINGERPRINT_CHARS = 32


@dataclass(frozen=True)
class HandedToken:
    """The token that a worker is started with."""

    value: str | None = field(repr=False)  # None if the worker finds it itself, in the keychain or the hf CLI's file
    source: tokens.TokenSource
    endpoint: str  # the Hub that the token is for
    fingerprint: str  # of the token and its Hub
    file_digest: str | None = None  # of the encrypted file; after a login or logout it differs, and the token is void

    def choose_token(self, found: tokens.Token | None) -> tokens.Token | None:
        """Return the token to use, given the one that the worker has found itself."""
        if self.value is None:
            return found
        if self.source in ("caller", "environment"):
            return tokens.Token(self.value, self.source)
        newer = found is not None and found.source in ("plain file", "keychain", "encrypted file")
        return found if newer or _hash_token_file() != self.file_digest else tokens.Token(self.value, self.source)


def find_token_for_worker(context: Context, *, unlock: bool = False) -> HandedToken | None:
    """Return the caller's token. Ask for the passphrase of a locked one if `unlock` is set."""
    try:
        token = context.unlock_token() if unlock else context.token()
    except HfModelsError:  # no passphrase or a wrong one: downloads that need a token will report the error
        return None
    if token is None:
        return None
    return HandedToken(
        value=token.value if token.source in ("caller", "environment", "encrypted file") else None,
        source=token.source,
        endpoint=context.endpoint(),
        fingerprint=_compute_fingerprint(context, token.value),
        file_digest=_hash_token_file() if token.source == "encrypted file" else None,
    )


def _compute_fingerprint(context: Context, token: str) -> str:
    with context.open_downloads() as db:
        key = db.read_fingerprint_key()
    message = f"{context.endpoint()}\n{token}".encode("utf-8", "surrogateescape")
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:FINGERPRINT_CHARS]


def _hash_token_file() -> str | None:
    """Return the sha256 of the encrypted token file, or None if the file does not exist."""
    try:
        return hashlib.sha256(encrypted_token.get_path().read_bytes()).hexdigest()
    except OSError:
        return None


def dump_token(token: HandedToken) -> str:
    """Serialize a token for the standard input of a worker."""
    return json.dumps(asdict(token))


def load_token(text: str | bytes) -> HandedToken:
    """Parse a token that `dump_token` serialized."""
    return HandedToken(**json.loads(text))
