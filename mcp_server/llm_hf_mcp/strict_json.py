"""Refuse what Python's JSON parsers accept and JSON does not: NaN, Infinity, and numbers that become infinite."""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn

from mcp_types import PARSE_ERROR
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class InvalidJsonError(ValueError):
    """A message is not valid JSON. The text of the exception says why."""


def parse(text: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Parse JSON in UTF-8.

    Raises:
        InvalidJsonError: It is not valid JSON, or has a number that is out of range.
    """
    try:
        return json.loads(text.decode(), parse_constant=_refuse_constant, parse_float=_parse_float)
    except InvalidJsonError:
        raise
    except (ValueError, RecursionError):
        raise InvalidJsonError("not valid JSON in UTF-8") from None


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidJsonError(f"not valid JSON: it has the value {name}")


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InvalidJsonError("not supported: a number is out of range")
    return number


def find_request_id(text: bytes) -> str | int | None:
    """Return the id of a request that may be invalid, or None if it has none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    request_id = content.get("id") if isinstance(content, dict) and "method" in content else None
    return request_id if type(request_id) in (str, int) else None


class StrictJsonMiddleware:
    """Answer requests whose body is not valid JSON by a JSON-RPC error. The size of bodies is limited elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body of a POST request, and forward the request if it is valid JSON."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body, messages = b"", []
        while True:
            message = await receive()
            messages.append(message)
            body += message.get("body", b"")
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        try:
            parse(body)
        except InvalidJsonError as error:
            reply = {"code": PARSE_ERROR, "message": f"The body is {error}"}
            content = {"jsonrpc": "2.0", "id": find_request_id(body), "error": reply}
            await JSONResponse(content, HTTPStatus.BAD_REQUEST)(scope, receive, send)
            return

        async def receive_again() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, receive_again, send)
