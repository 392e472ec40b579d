"""Convert errors into OpenAI's format, with the status that tells a client whether its request was the cause."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, Response

from llm_hf_models.errors import BadInputError, EngineRequestError, HfModelsError, ModelTooLargeError, UnknownModelError
from llm_hf_models.inference.engine import Endpoint
from llm_hf_models.servers.http_errors import HttpResponseError
from llm_hf_models.system.text import clean_text

MAX_ERROR_CHARS = 500
# An engine rejected the relay's key; the client gets a gateway error instead.
_ENGINE_AUTH_STATUSES = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_ERROR_STATUSES = range(400, 600)


def blame_client(error: EngineRequestError, endpoint: Endpoint) -> None:
    """Give an error of a local engine the status 400 if the request caused it.

    llama.cpp reports most errors in a request as its own: a template that rejects the messages, a field of the wrong
    type. It finds them before it starts to compute.
    """
    is_own = "compute error" in str(error).casefold()
    if endpoint.fingerprint is not None and error.status == HTTPStatus.INTERNAL_SERVER_ERROR and not is_own:
        error.status = HTTPStatus.BAD_REQUEST


def convert_error(error: HfModelsError) -> HttpResponseError:
    """Convert an HfModelsError into an error response. The engine's status is kept if it concerns the request."""
    if isinstance(error, EngineRequestError):
        reported = error.status or 0
        status = (
            reported
            if reported in _ERROR_STATUSES and reported not in _ENGINE_AUTH_STATUSES
            else HTTPStatus.BAD_GATEWAY
        )
        code = "invalid_request" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "engine_error"
        return HttpResponseError(status, code, str(error))
    statuses: Sequence[tuple[type[HfModelsError], int, str]] = (
        (UnknownModelError, 404, "model_not_found"),
        (BadInputError, 400, "invalid_request"),
        (ModelTooLargeError, 503, "model_too_large"),
    )
    status, code = next(((s, c) for kind, s, c in statuses if isinstance(error, kind)), (502, "engine_error"))
    return HttpResponseError(status, code, str(error))


def render_error(error: HttpResponseError) -> Response:
    """Return an error response in OpenAI's format."""
    return JSONResponse(build_error_body(error), error.status_code, error.headers)


def build_error_body(error: HttpResponseError) -> dict[str, Any]:
    """Return an error in OpenAI's format."""
    kind = "invalid_request_error" if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    message = clean_text(error.detail, MAX_ERROR_CHARS, keep_lines=True)
    return {"error": {"message": message, "type": kind, "code": error.code, "param": None}}
