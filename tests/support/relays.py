"""The OpenAI relay over the models of a test's library."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llm_hf_models.servers.openai_relay import RelayServer
from llm_hf_models.service import Library

KEY = "sk-of-these-tests"


@contextmanager
def run_relay(
    *names: str, key: str | None = KEY, log: Callable[[str], None] | None = None
) -> Iterator[tuple[RelayServer, str]]:
    with Library().serve(names, key=key, log=log) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
