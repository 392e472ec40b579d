"""The Hub token: where it comes from, where it is kept. Never printed, never logged, never plain on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

TokenSource = Literal["environment", "keychain", "encrypted file", "hf CLI"]


@dataclass(frozen=True)
class Token:
    """A token and where it came from; its value never shows in a repr."""

    value: str = field(repr=False)
    source: TokenSource


def find(ask_passphrase: Callable[[], str] | None = None) -> Token | None:
    """The token in force: HF_TOKEN, then our keychain entry (or encrypted file), then the hf CLI's stored token.

    Args:
        ask_passphrase: called when only the encrypted file has one; None leaves that file alone.

    Raises:
        KeychainError: the keychain or the file is there and can't be read.
    """
    raise NotImplementedError


def store(value: str, *, ask_passphrase: Callable[[], str]) -> TokenSource:
    """Keeps a token that was already validated: in the keychain, or where there is none encrypted under a passphrase.

    Raises:
        KeychainError: neither was possible.
    """
    raise NotImplementedError


def forget() -> list[TokenSource]:
    """Removes what `store` kept. Returns where it was; the environment and the hf CLI's token are not ours to remove."""
    raise NotImplementedError
