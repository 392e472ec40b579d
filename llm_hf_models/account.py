"""Log in to the Hub, log out, and show the current account."""

from __future__ import annotations

from collections.abc import Callable

from llm_hf_models import settings
from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError, TokenInvalidError
from llm_hf_models.hub import tokens
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.errors import LOGIN_HINT
from llm_hf_models.types import TokenStatus

MAX_TOKEN_CHARS = 1000


def login(context: Context, value: str, ask_passphrase: Callable[[], str], *, plain: bool = False) -> TokenStatus:
    """Validate a token with the Hub, then store it.

    Raises:
        BadInputError: the value does not have the form of a token.
        TokenInvalidError, NetworkError: the token could not be validated, so it was not stored.
        KeychainError: the token could not be stored.
    """
    value = value.strip()
    if not value or len(value) > MAX_TOKEN_CHARS or not value.isascii() or not value.isprintable() or " " in value:
        raise BadInputError(
            "This is not a Hub token", hint=f"Create one on {settings.get_display_endpoint()}/settings/tokens"
        )
    current = context.settings()
    hub = Hub(settings.endpoint(), token=value, timeout=current.metadata_seconds, offline=settings.is_offline())
    account = hub.whoami()
    return TokenStatus(tokens.store_token(value, ask_passphrase=ask_passphrase, plain=plain), account)


def logout() -> tuple[str, ...]:
    """Remove the stored token, and return the places that it was removed from."""
    return tuple(tokens.remove_stored_token())


def whoami(context: Context, *, unlock: bool = True) -> TokenStatus:
    """Validate the token in use, and return its source and owner.

    If there is no token or the Hub rejects it, `problem` of the result is the reason.

    Args:
        context: the context with the Hub and its token.
        unlock: ask for the passphrase of a locked token.
    """
    token = context.unlock_token() if unlock else context.token()
    if token is None:
        hint = tokens.suggest_token_fix(token)
        return TokenStatus(
            None, None, "There is no token. Run `llm hf login` to store one." if hint == LOGIN_HINT else hint
        )
    try:
        return TokenStatus(token.source, context.make_hub_client(token).whoami())
    except TokenInvalidError as error:
        return TokenStatus(token.source, None, str(error))
