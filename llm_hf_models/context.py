"""What every verb of the service needs: settings as they are now, the Hub with the token in force, the open library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_hf_models import paths, settings
from llm_hf_models.library.downloads import DownloadTables
from llm_hf_models.settings import Settings

if TYPE_CHECKING:
    from llm_hf_models.hub import tokens
    from llm_hf_models.hub.client import Hub
    from llm_hf_models.library.database import Database

STALE_HEARTBEATS = 4  # an owner is taken for dead after so many missed signs of life


@dataclass(frozen=True)
class Context:
    """Reads settings and the environment when asked, never before."""

    requested_by: str = "python"
    ask_passphrase: Callable[[], str | None] | None = None
    agent: str | None = None  # which agent asks, by its host's name; None is a person
    notify: Callable[[str], None] | None = None  # tells a person of a wait; None: nobody is there, so nobody waits
    during_request: Callable[[str], AbstractContextManager[object]] = nullcontext  # given the host that is being asked
    planned_cache: Path | None = None  # of a download that was planned in another environment; None is this one's
    planned_endpoint: str | None = None
    list_taken_names: Callable[[str], Mapping[str, str]] | None = None  # others' names in llm; None: free_names asks

    def settings(self) -> Settings:
        """The settings in force now."""
        return settings.load()

    def stale_seconds(self) -> float:
        """Owners of downloads whose last sign of life is older than that are dead."""
        return STALE_HEARTBEATS * self.settings().heartbeat_seconds

    def command_log(self) -> Path | None:
        """Where what a download's own command says is kept; None is where errors go."""
        return None

    def open_library(self) -> Database:
        """The library, opened; a context manager."""
        from llm_hf_models.library.database import Database

        return Database(paths.library_path())

    def open_downloads(self) -> DownloadTables:
        """The part of the library that is about downloads, for who needs no other: it is there at once."""
        return DownloadTables(paths.library_path())

    def cache_dir(self) -> Path:
        """The Hugging Face cache."""
        return self.planned_cache or settings.cache_dir()

    def endpoint(self) -> str:
        """The Hub's address."""
        return self.planned_endpoint or settings.endpoint()

    @property
    def withholds_token(self) -> bool:
        """Whether only a stored plan names this Hub: whoever gave this process a token didn't give it for that one."""
        return self.endpoint() != settings.endpoint()

    def token(self) -> tokens.Token | None:
        """The token in force for this Hub, if any."""
        return None if self.withholds_token else self._found_token()

    def _found_token(self) -> tokens.Token | None:
        from llm_hf_models.hub import tokens

        return tokens.find_token(self.ask_passphrase)

    def hub(self) -> Hub:
        """The Hub, with the token in force."""
        return self.hub_with(self.token())

    def hub_with(self, token: tokens.Token | None) -> Hub:
        """The Hub, with this token."""
        from llm_hf_models.hub import tokens
        from llm_hf_models.hub.client import Hub

        return Hub(
            self.endpoint(),
            token=token.value if token else None,
            token_hint=tokens.suggest_token_fix(token),
            timeout=self.settings().metadata_seconds,
            offline=settings.is_offline(),
            during_request=self.during_request,
        )
