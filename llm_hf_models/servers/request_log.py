"""Log one line for each request to an HTTP server. Bodies, queries and keys are never logged."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_hf_models.system.json_values import format_utc
from llm_hf_models.system.text import clean_text

MAX_FIELD_CHARS = 120


class LoggedApp:
    """An app whose requests are logged when they end: time, client, request, model, status, size and duration."""

    def __init__(self, app: ASGIApp, log: Callable[[str], None]) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or a start or stop of the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, size = time.monotonic(), "no response", 0

        async def count(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = str(message["status"])
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, count)
        finally:
            seconds = time.monotonic() - started
            self._log(f"{_describe_request(scope)} {status} {size} bytes {seconds:.3f} s")


def _describe_request(scope: Scope) -> str:
    client = (scope.get("client") or ("-",))[0]
    model = scope.get("state", {}).get("model")  # set by the app once it has parsed the request
    names = [model] if isinstance(model, str) and model else []
    fields = [format_utc(time.time()), client, scope["method"], scope["path"], *names]
    return " ".join(clean_text(field, MAX_FIELD_CHARS).replace(" ", "_") for field in fields)
