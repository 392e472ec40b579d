"""The token of a Hub client. If it is locked, it is unlocked when the Hub refuses a request without it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from llm_hf_models.errors import HfModelsError
from llm_hf_models.hub.errors import LOGIN_HINT
from llm_hf_models.redaction import remember

P = ParamSpec("P")
R = TypeVar("R")
REFUSAL_STATUSES = (401, 403)


class RefusedWithoutTokenError(Exception):
    """The Hub refused a request without a token, and a token may be unlocked. `error` is for the caller otherwise."""

    def __init__(self, error: HfModelsError) -> None:
        super().__init__(error.message)
        self.error = error


class TokenHolder:
    """A token, or a way to unlock one.

    Attributes:
        value: the token, if any.
        hint: the hint for errors caused by a missing or rejected token.
    """

    def __init__(self, value: str | None, hint: str, unlock: Callable[[], str | None] | None) -> None:
        """Hold a token. `unlock` asks the user for the passphrase, and returns None if it gets none."""
        remember(value)  # the Hub or a proxy may repeat it
        self.value, self.hint = value, hint
        self._unlock, self._lock = unlock, threading.Lock()

    def can_unlock(self, status: int) -> bool:
        """Return whether a request without a token, which got this HTTP status, may succeed with the locked token."""
        return status in REFUSAL_STATUSES and self.value is None and self._unlock is not None

    def unlock(self) -> bool:
        """Unlock the token, at most once. Return whether there is a token now."""
        with self._lock:
            ask, self._unlock = self._unlock, None
            if self.value is None and ask is not None and (value := ask()):
                remember(value)
                self.value, self.hint = value, LOGIN_HINT
        return self.value is not None


class HasTokenHolder(Protocol):
    """A client with a token."""

    token_holder: TokenHolder


C = TypeVar("C", bound=HasTokenHolder)


def unlock_if_refused(method: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """Repeat a method of a client with the unlocked token if the Hub refuses it without a token."""

    @functools.wraps(method)
    def call(client: C, /, *arguments: P.args, **named: P.kwargs) -> R:
        try:
            return method(client, *arguments, **named)
        except RefusedWithoutTokenError as refused:
            if not client.token_holder.unlock():
                raise refused.error from None
            return method(client, *arguments, **named)

    return call
