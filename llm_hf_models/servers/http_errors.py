"""Define the error responses of the HTTP servers. Each server renders them in its own format."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.exceptions import HTTPException
from starlette.responses import Response


class HttpResponseError(HTTPException):
    """Raised to send an error response: a status, an error code and a message."""

    def __init__(self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.code = code


RenderError = Callable[[HttpResponseError], Response]
