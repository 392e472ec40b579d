"""Define the application: one method per verb, which the CLI, the MCP server and Python code call.

The verbs are in `verbs/`, grouped by topic. Each method imports the modules that it needs, so that listing downloads
does not take as long to import as a pull.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.system.arguments import check_arguments
from llm_hf_models.verbs.cleaning import CleaningVerbs
from llm_hf_models.verbs.collections import CollectionVerbs
from llm_hf_models.verbs.disk_space import DiskSpaceVerbs
from llm_hf_models.verbs.hub import HubVerbs
from llm_hf_models.verbs.installation import InstallationVerbs
from llm_hf_models.verbs.local_models import LocalModelVerbs
from llm_hf_models.verbs.lockfiles import LockfileVerbs
from llm_hf_models.verbs.other_tools import OtherToolVerbs
from llm_hf_models.verbs.pulls import PullVerbs
from llm_hf_models.verbs.queue import QueueVerbs
from llm_hf_models.verbs.running import RunningVerbs
from llm_hf_models.verbs.serving import ServingVerbs
from llm_hf_models.verbs.signatures import SignatureVerbs
from llm_hf_models.verbs.summaries import SummaryVerbs
from llm_hf_models.verbs.trust import TrustVerbs
from llm_hf_models.verbs.updates import UpdateVerbs


def _normalize_endpoint(endpoint: str) -> str:
    from llm_hf_models.network.urls import validate_endpoint

    return validate_endpoint(endpoint).rstrip("/")


@check_arguments
class Library(
    CleaningVerbs,
    CollectionVerbs,
    DiskSpaceVerbs,
    HubVerbs,
    InstallationVerbs,
    LocalModelVerbs,
    LockfileVerbs,
    OtherToolVerbs,
    PullVerbs,
    QueueVerbs,
    RunningVerbs,
    ServingVerbs,
    SignatureVerbs,
    SummaryVerbs,
    TrustVerbs,
    UpdateVerbs,
):
    """The library on this machine and the Hub: one method per verb of the product, with typed results.

    Each method reads the settings and the environment when it is called, and keeps nothing open afterwards. A library
    may be used from several threads. Every error is an `errors.HfModelsError`.

    Args:
        requested_by: The interface of the caller, stored with each download: `cli`, `mcp` or `python`.
        ask_passphrase: Returns the passphrase of the encrypted token file, or None if no user can enter it. With
            None instead of a callable, that file is not used.
        notify: Shows the user why a request to the Hub is waiting (HTTP 429). With None, requests don't wait,
            except for those that plan a pull.
        show_activity: Shows the user what a long request is doing; each text replaces the previous one.
        endpoint: The URL of the Hub, instead of HF_ENDPOINT. It receives no other token than `token`, unless it is the
            Hub of the environment.
        cache_dir: The Hugging Face cache, instead of HF_HUB_CACHE.
        token: The token for this Hub, instead of HF_TOKEN or the stored one. It is kept in memory only.

    Raises:
        BadInputError: `endpoint` is not an http(s) URL.
    """

    def __init__(
        self,
        *,
        requested_by: str = "python",
        ask_passphrase: Callable[[], str | None] | None = None,
        notify: Callable[[str], None] | None = None,
        show_activity: Callable[[str], None] | None = None,
        endpoint: str | None = None,
        cache_dir: Path | str | None = None,
        token: str | None = None,
    ) -> None:
        self._context = Context(
            requested_by,
            ask_passphrase,
            notify,
            show_activity,
            own_endpoint=_normalize_endpoint(endpoint) if endpoint else None,
            own_cache=Path(cache_dir).expanduser().absolute() if cache_dir else None,
            own_token=token,
        )
