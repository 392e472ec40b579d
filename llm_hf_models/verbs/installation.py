"""The verbs of `Library` about the account, the machine and the settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_hf_models.context import Context
    from llm_hf_models.types import SettingView, Status, TokenStatus


class InstallationVerbs:
    """The verbs about the account, the state of this machine and the settings."""

    _context: Context

    def login(self, token: str, *, ask_passphrase: Callable[[], str], plain: bool = False) -> TokenStatus:
        """Validate a token with the Hub, and store it in the keychain, or in an encrypted file without a keychain.

        With `plain`, store it in a file that only this user can read, as `hf auth login` does.
        """
        from llm_hf_models import account

        return account.login(self._context, token, ask_passphrase, plain=plain)

    def logout(self) -> tuple[str, ...]:
        """Remove the token that `login` stored. Return the places that it was removed from."""
        from llm_hf_models import account

        return account.logout()

    def whoami(self) -> TokenStatus:
        """Return the owner and the source of the current token, never the token itself."""
        from llm_hf_models import account

        return account.whoami(self._context)

    def get_hub_host(self) -> str:
        """Return the host of the Hub in use; an empty string in offline mode."""
        from llm_hf_models import settings

        return "" if settings.is_offline() else self._context.display_endpoint().partition("://")[2]

    def status(self) -> Status:
        """Return the state of this machine: memory, disk, cache, engines, endpoint and token."""
        from llm_hf_models import status as status_module

        return status_module.collect_status(self._context)

    def settings(self) -> tuple[SettingView, ...]:
        """List every setting with its value, default, source and description."""
        from llm_hf_models import status as status_module

        return status_module.list_settings()

    def get_setting(self, key: str) -> SettingView:
        """Return one setting."""
        from llm_hf_models import status as status_module

        return status_module.get_setting(key)

    def set_setting(self, key: str, value: str | None) -> SettingView:
        """Parse and store the value of one setting. None resets it to the default."""
        from llm_hf_models import status as status_module

        return status_module.set_setting(key, value)

    @staticmethod
    def check_setting(key: str, value: str) -> None:
        """Raise an error if a setting does not accept a value. Nothing is stored."""
        from llm_hf_models import settings

        settings.parse_value(key, value)
