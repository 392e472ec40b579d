"""An HTTP server in OpenAI's protocol that responds as a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

from llm_hf_models.inference.protocol import openai_protocol
from llm_hf_models.inference.protocol.tool_calls import ToolCall

Item: TypeAlias = openai_protocol.Piece | ToolCall | openai_protocol.Finish


@contextmanager
def run_server(respond: Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            respond(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def respond_with(body: bytes, *, kind: str = "text/event-stream", status: int = 200) -> Callable[..., None]:
    def respond(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def format_event(**chunk: object) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def format_delta(**fields: object) -> bytes:
    return format_event(choices=[{"index": 0, "delta": fields, "finish_reason": None}])


END = format_event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]) + b"data: [DONE]\n\n"


def join_text(items: list[Item], kind: str = "text") -> str:
    return "".join(item.text for item in items if isinstance(item, openai_protocol.Piece) and item.kind == kind)
