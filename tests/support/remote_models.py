"""A model that is served by another server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from typing import Any

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.library.records import LocalModel
from tests.support.openai_server import END, format_delta, run_server
from tests.support.tiny_library import TinyLibrary


@dataclass
class RemoteServer:
    """A server in OpenAI's protocol for a remote model, with the requests it received and its response."""

    asked: list[dict[str, Any]]
    answer: bytes
    content_type: str = "text/event-stream"

    def respond(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        self.asked.append({**body, "key": handler.headers["Authorization"]})
        handler.send_response(200)
        handler.send_header("Content-Type", self.content_type)
        handler.end_headers()
        handler.wfile.write(self.answer)


@contextmanager
def register_remote_model(
    library: TinyLibrary, answer: bytes = format_delta(content="yes") + END, **fields: Any
) -> Iterator[RemoteServer]:
    """Register `far`, a model of a server that records its requests."""
    facts = replace(ModelFacts(kind="chat", tools=True, reasoning=True), **fields.pop("facts", {}))
    far = RemoteServer([], answer)
    with run_server(far.respond) as url, library.open_db() as db:
        db.register(
            LocalModel(
                "hf/far/away:x", None, None, None, "x", (), facts, aliases=("far",), endpoint=f"{url}/v1", **fields
            )
        )
        yield far
        db.remove_model("hf/far/away:x")
