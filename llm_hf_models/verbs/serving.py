"""The verbs of `Library` that create HTTP servers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_hf_models.context import Context
    from llm_hf_models.servers.hub_mirror import MirrorServer
    from llm_hf_models.servers.openai_relay import RelayServer


def _ignore_message(message: str) -> None:
    """Ignore a message."""


class ServingVerbs:
    """The verbs that create the servers of `llm hf serve` and `llm hf mirror`."""

    _context: Context

    def serve(
        self,
        names: Sequence[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        key: str | None = None,
        notify: Callable[[str], None] = _ignore_message,
        log: Callable[[str], None] | None = None,
    ) -> RelayServer:
        """Create a server that offers some models in OpenAI's protocol. Call `serve_forever()` to run it.

        Args:
            names: The models; empty serves all models.
            host: The address to listen on.
            port: The port; 0 chooses a free one, which `server_address` contains.
            key: The API key that clients must send. With None, a random key is generated (see its `key` attribute).
            notify: Shows a message to the user, for example that an engine was evicted or a context reduced.
            log: Receives a line for each request, without its content and key.

        Raises:
            NotWritableError: The server can't listen on that address.
        """
        from llm_hf_models.servers import openai_relay

        return openai_relay.make_server(self._context, names, host, port, key=key, notify=notify, log=log)

    def mirror(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        allow: Sequence[str] = (),
        allowed_hosts: Collection[str] = (),
        source: Path | str | None = None,
    ) -> MirrorServer:
        """Create a read-only server of this library in the Hub's protocol. Call `serve_forever()` to run it.

        Args:
            host: The address to listen on.
            port: The port; 0 chooses a free one, which `server_address` contains.
            allow: The gated and private repos and the imported models (local/NAME) to serve. Others are hidden.
            allowed_hosts: Names of this machine that clients may use, besides its addresses, host name and localhost.
            source: A folder that `export` made, to serve in place of the library.

        Raises:
            NotWritableError: The server can't listen on that address.
            MissingFileError, LockfileError: The folder is not an exported one.
        """
        from llm_hf_models.hub import refs
        from llm_hf_models.servers import hub_mirror, library_catalog

        allowed, exported = frozenset(refs.RepoId.parse(name) for name in allow), None
        if source is not None:
            from llm_hf_models.lockfiles import export  # imported late: rarely needed

            models = export.read_exported_models(Path(source).expanduser().absolute())
            exported = lambda: models  # noqa: E731
        catalog = library_catalog.LibraryCatalog(self._context, allowed, exported)
        if self._context.notify and (missing := catalog.list_missing_repos()):
            self._context.notify(f"Not on this machine: {', '.join(missing)}. List local models with `llm hf list`.")
        server = hub_mirror.make_server(catalog, host, port, allowed_hosts=allowed_hosts)
        server.hidden_repos = catalog.describe_hidden_repos()
        return server
