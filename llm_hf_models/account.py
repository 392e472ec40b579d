"""The person's account and this installation: login, whoami, status, settings."""

from __future__ import annotations

from collections.abc import Callable

from llm_hf_models import settings
from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError, TokenInvalidError
from llm_hf_models.hub import tokens
from llm_hf_models.hub.client import Hub
from llm_hf_models.types import TokenStatus

MAX_TOKEN_CHARS = 1000


def login(context: Context, value: str, ask_passphrase: Callable[[], str]) -> TokenStatus:
    """Asks the Hub whose token it is, and only then keeps it.

    Raises:
        BadInputError: not the form of a token.
        TokenInvalidError, NetworkError: it could not be validated; nothing was kept.
        KeychainError: it could not be kept.
    """
    value = value.strip()
    if not value or len(value) > MAX_TOKEN_CHARS or not value.isascii() or not value.isprintable() or " " in value:
        raise BadInputError(
            "That is not a Hub token", hint=f"Make one on {settings.get_display_endpoint()}/settings/tokens"
        )
    now = context.settings()
    hub = Hub(settings.endpoint(), token=value, timeout=now.metadata_seconds, offline=settings.is_offline())
    account = hub.whoami()
    return TokenStatus(tokens.store_token(value, ask_passphrase=ask_passphrase), account)


def logout() -> tuple[str, ...]:
    """Removes the token that `login` kept. Returns where it was."""
    return tuple(tokens.remove_stored_token())


def whoami(context: Context) -> TokenStatus:
    """The token in force, validated now."""
    token = context.token()
    if token is None:
        locked = tokens.is_locked(token)
        return TokenStatus(
            None, None, tokens.suggest_token_fix(token) if locked else "There is no token. `llm hf login` keeps one."
        )
    try:
        return TokenStatus(token.source, context.hub().whoami())
    except TokenInvalidError as error:
        return TokenStatus(token.source, None, str(error))
