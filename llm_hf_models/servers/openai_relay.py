"""Serve the library's models in OpenAI's protocol. Each request is forwarded to the engine of its model.

The relay reads no model files and is not confined; the engines are confined as always. The protocol is OpenAI's API
reference (models, chat/completions, completions, embeddings) with the additions of llama.cpp's server.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from starlette.authentication import AuthenticationBackend, AuthenticationError
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError, EngineRequestError, HfModelsError, ModelTooLargeError, UnknownModelError
from llm_hf_models.inference import client
from llm_hf_models.inference.engine import Endpoint, Notify
from llm_hf_models.inference.model_endpoint import ensure_endpoint, record_use, resolve_options
from llm_hf_models.inference.options import build_request_fields
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import LocalModel
from llm_hf_models.redaction import redact_bytes
from llm_hf_models.servers.asgi_server import HttpServer, build_app, read_body
from llm_hf_models.servers.http_errors import HttpResponseError
from llm_hf_models.servers.stream_assembly import assemble_response, is_progress, split_events
from llm_hf_models.system.text import clean_text

if TYPE_CHECKING:
    import httpx2

MAX_BODY_BYTES = 256 * 2**20  # a body may contain attachments as base64
MAX_ERROR_CHARS = 500
MAX_INT_CHARS = 20  # of a number with 64 bits
SPARE_DEPTH = 100
ROUTES = ("chat/completions", "completions", "embeddings")
# An engine rejected the relay's key; the client gets a gateway error instead.
_ENGINE_AUTH_STATUSES = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_ERROR_STATUSES = range(400, 600)
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RelayedRequest:
    """A request as it is sent to the engine, and the form in which the client wants the response."""

    path: str
    body: Mapping[str, Any]
    wants_stream: bool  # whether the client requested a stream
    drop_progress: bool = False

    def with_disconnect_detection(self) -> RelayedRequest:
        """Return a copy with which llama.cpp detects that the relay closed the connection.

        llama.cpp detects this only while it sends: chunks of a response, or the progress of reading the prompt.
        """
        added: dict[str, Any] = {"stream": True, "return_progress": True}
        if not self.wants_stream:
            added["stream_options"] = {"include_usage": True}
        drop = "return_progress" not in self.body
        return replace(self, body={**self.body, **added}, drop_progress=drop)


class RelayServer(HttpServer):
    """An HTTP server for some models, for clients that send its key.

    Attributes:
        names: The id in the library for each name that clients may use.
        key: The key that clients must send.
    """

    def __init__(self, relay: _Relay, key: str, host: str, port: int) -> None:
        """Listen on an address."""
        self.names, self.key = relay.names, key
        super().__init__(_build_relay_app(relay, key), host, port, _render_error, max_body_bytes=MAX_BODY_BYTES)


def make_server(
    context: Context, models: Sequence[str], host: str, port: int, *, key: str | None, notify: Notify
) -> RelayServer:
    """Return a relay. Call `serve_forever()` on it; `server_address` has the port, `key` the key.

    Args:
        context: The context of the library.
        models: The names of the models to serve. Clients may use these names and the models' ids.
        host: The address to listen on.
        port: The port; 0 chooses a free one.
        key: The key that clients must send; None generates one.
        notify: Called with messages for the user, for example that an engine was evicted or a context reduced.

    Raises:
        UnknownModelError, AmbiguousNameError: A name matches no model, or several.
        BadInputError: A model can't be served because of its kind, or the key can't be sent in a header.
        NotWritableError: The server can't listen on the address.
    """
    if key is not None and not re.fullmatch(r"[!-~]{8,512}", key):
        raise BadInputError("The key is not valid", hint="Use 8 to 512 printable ASCII characters without spaces.")
    names: dict[str, str] = {}
    with context.open_database() as db:
        for name in models:
            model = db.find_model(name)
            if model.facts.kind not in ("chat", "base", "embedding"):
                raise BadInputError(f"{model.model_id} can't be served: its kind is {model.facts.kind}")
            names |= {model.model_id: model.model_id, name: model.model_id}
    return RelayServer(_Relay(context, names, notify), key or secrets.token_urlsafe(24), host, port)


def _build_relay_app(relay: _Relay, key: str) -> ASGIApp:
    """Return the app. A web page of any origin may use it, because it needs the key."""
    routes = [
        *(Route(f"/{route}", partial(relay.relay_request, route), methods=["POST"]) for route in ROUTES),
        Route("/models", relay.list_models),
        Route("/models/{name:path}", relay.show_model),
    ]
    return build_app(
        [Route("/health", lambda _: JSONResponse({"status": "ok"})), Mount("/v1", routes=routes), *routes],
        convert_error=_convert_error,
        render_error=_render_error,
        middleware=[
            Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "POST"], allow_headers=["*"]),
            Middleware(AuthenticationMiddleware, backend=_KeyBackend(key), on_error=_reject_key),
        ],
    )


class _KeyBackend(AuthenticationBackend):
    """The check of the key, which every request except `/health` needs."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    async def authenticate(self, conn: HTTPConnection) -> None:
        scheme, _, given = conn.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(), self._key)
        if conn.scope["path"] != "/health" and not (scheme.lower() == "bearer" and is_right):
            raise AuthenticationError("Wrong or missing key")


def _reject_key(_: HTTPConnection, error: AuthenticationError) -> Response:
    return _render_error(HttpResponseError(401, "invalid_api_key", str(error), {"WWW-Authenticate": "Bearer"}))


class _Relay:
    """The endpoints of a relay."""

    def __init__(self, context: Context, names: Mapping[str, str], notify: Notify) -> None:
        self._context, self.names, self._notify = context, names, notify

    # Models. Starlette runs these endpoints in threads, because they read the library.

    def list_models(self, _: Request) -> Response:
        """Return the served models that are still in the library."""
        wanted = set(self.names.values())
        with self._context.open_database() as db:
            models = [self._describe_model(model) for model in db.list_models() if model.model_id in wanted]
        return JSONResponse({"object": "list", "data": models})

    def show_model(self, request: Request) -> Response:
        """Return one served model."""
        with self._context.open_database() as db:
            return JSONResponse(self._describe_model(self._find_model(db, request.path_params["name"])))

    def _find_model(self, db: Database, name: object) -> LocalModel:
        """Return the model with a name. The name may be empty if only one model is served.

        Raises:
            HttpResponseError: The model is not served.
            UnknownModelError: The model is no longer in the library.
        """
        ids = set(self.names.values())
        found = next(iter(ids)) if name in (None, "") and len(ids) == 1 else None
        found = found or (self.names.get(name) if isinstance(name, str) else None)
        if found is None:
            raise HttpResponseError(404, "model_not_found", f"The model {clean_text(str(name), 120)!r} is not served")
        return db.get_model(found)

    def _describe_model(self, model: LocalModel) -> dict[str, Any]:
        """Return the JSON of one model; `aliases` and `architecture` have the format of llama.cpp's server."""
        owner = (model.repo or "local").partition("/")[0]
        architecture = {"input_modalities": ["text", *model.facts.modalities]}
        names = {name for name, model_id in self.names.items() if model_id == model.model_id}
        return {
            "id": model.model_id,
            "aliases": sorted(names - {model.model_id}),
            "object": "model",
            "created": int(model.added),
            "owned_by": owner,
            "architecture": architecture,
        }

    # Requests

    async def relay_request(self, route: str, request: Request) -> ASGIApp:
        """Return the app that forwards a request to its model's engine, and the response to the client."""
        fields = _parse_body(await read_body(request))

        async def forward(scope: Scope, receive: Receive, send: Send) -> None:
            async with AsyncExitStack() as stack, _cancel_on_disconnect(receive):
                prepare = partial(self._prepare, route, fields)
                model_id, endpoint, relayed = await _run_in_daemon_thread(prepare)
                stack.push_async_callback(run_in_threadpool, self._record_use, model_id, endpoint)
                response = await client.send_request(
                    stack, endpoint, relayed.path, relayed.body, reconnect=lambda: prepare()[1]
                )
                await _forward_response(endpoint, relayed, response, scope, receive, send)

        return forward

    def _prepare(self, route: str, fields: dict[str, Any]) -> tuple[str, Endpoint, RelayedRequest]:
        """Find the model of a request, and start its engine if needed.

        Returns:
            The model's id, its engine, and the request to send to the engine.
        """
        with self._context.open_database() as db:
            model = self._find_model(db, fields.get("model"))
            _check_kind(route, model)
            options, system = resolve_options(model, ())
            endpoint = ensure_endpoint(model, options, db, self._notify)
        body = _add_defaults(route, fields, build_request_fields(options), system) | {"model": endpoint.model}
        relayed = RelayedRequest(f"/v1/{route}", body, wants_stream=bool(body.get("stream")))
        if endpoint.fingerprint is not None and route != "embeddings":
            relayed = relayed.with_disconnect_detection()
        return model.model_id, endpoint, relayed

    def _record_use(self, model_id: str, endpoint: Endpoint) -> None:
        with self._context.open_database() as db:
            record_use(model_id, endpoint, db)


@asynccontextmanager
async def _cancel_on_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel the enclosed code when the client disconnects."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        _log.info("The client disconnected")
        scope.cancel()

    with anyio.CancelScope() as scope:
        watcher = asyncio.create_task(watch())
        try:
            yield
        finally:
            watcher.cancel()


async def _run_in_daemon_thread(work: Callable[[], _Result]) -> _Result:
    """Run a blocking function in a thread. If the caller is cancelled, the function still runs to its end.

    So a model that was loading is ready for the next request, or its engine exits when idle. The thread pools of anyio
    and asyncio would delay the end of the process until the model is loaded.
    """
    future: Future[_Result] = Future()

    def carry_out() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            future.set_exception(error)

    threading.Thread(target=carry_out, daemon=True).start()
    return await asyncio.wrap_future(future)


async def _forward_response(
    endpoint: Endpoint, relayed: RelayedRequest, response: httpx2.Response, scope: Scope, receive: Receive, send: Send
) -> None:
    """Forward an engine's response as it arrives, or complete if the client requested no stream.

    Raises:
        HfModelsError: The request failed before any byte of the response was forwarded.
    """
    chunks = client.stream_bytes(endpoint, response)
    is_stream = str(response.headers.get("content-type", "")).startswith("text/event-stream")
    if is_stream and relayed.wants_stream:
        events = _filter_events(chunks, drop_progress=relayed.drop_progress)
        headers = {"Cache-Control": "no-cache"}
        streamed = StreamingResponse(events, headers=headers, media_type="text/event-stream")
        await streamed.stream_response(send)  # which, unlike a call, leaves `receive` to _cancel_on_disconnect
    elif is_stream:
        whole = redact_bytes(json.dumps(await assemble_response(split_events(chunks))).encode())
        await Response(whole, media_type="application/json")(scope, receive, send)
    else:
        whole = redact_bytes(b"".join([chunk async for chunk in chunks]))
        await Response(whole, media_type="application/json")(scope, receive, send)


async def _filter_events(chunks: AsyncIterator[bytes], *, drop_progress: bool) -> AsyncIterator[bytes]:
    """Yield the events of a stream. If the stream breaks off, the last event reports the error."""
    try:
        async for event in split_events(chunks):
            if not (drop_progress and is_progress(event)):
                yield redact_bytes(event)
    except HfModelsError as error:
        yield b"data: " + json.dumps(_build_error_body(_convert_error(error))).encode() + b"\n\n"


def _parse_body(data: bytearray) -> dict[str, Any]:
    try:
        fields = json.loads(data, parse_int=_parse_int)
        nested = fields
        for _ in range(SPARE_DEPTH):  # so that later steps, which call more functions, can process it too
            nested = [nested]
        json.dumps(nested, ensure_ascii=False, allow_nan=False).encode()  # as the client of the engine does
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise HttpResponseError(400, "invalid_request", "The body is not a JSON object")
    return fields


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_INT_CHARS:  # llama.cpp can't read it
        raise ValueError(digits[:MAX_INT_CHARS])
    return int(digits)


def _check_kind(route: str, model: LocalModel) -> None:
    """Check that a model's kind fits the route, before its engine starts. A remote endpoint checks this itself.

    Raises:
        BadInputError: An embedding model got a prompt, or another model a request for embeddings.
    """
    embeds = model.facts.kind == "embedding"
    if model.endpoint is None and embeds != (route == "embeddings"):
        raise BadInputError(
            f"{model.model_id} is {'an' if embeds else 'a'} {model.facts.kind} model and can't "
            + ("be prompted" if embeds else "embed text"),
            hint="GET /v1/models lists the served models.",
        )


def _add_defaults(route: str, request: dict[str, Any], fields: Mapping[str, Any], system: str | None) -> dict[str, Any]:
    """Return a client's request, with the model's default options for fields that it does not set."""
    if route == "embeddings":
        return dict(request)
    body = {**fields, **{key: value for key, value in request.items() if value is not None}}
    messages = request.get("messages")
    if route == "chat/completions" and system and isinstance(messages, list):
        roles = [message.get("role") for message in messages if isinstance(message, dict)]
        if "system" not in roles and "developer" not in roles:
            body["messages"] = [{"role": "system", "content": system}, *messages]
    return body


def _convert_error(error: HfModelsError) -> HttpResponseError:
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


def _render_error(error: HttpResponseError) -> Response:
    return JSONResponse(_build_error_body(error), error.status_code, error.headers)


def _build_error_body(error: HttpResponseError) -> dict[str, Any]:
    """Return an error in OpenAI's format."""
    kind = "invalid_request_error" if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    message = clean_text(error.detail, MAX_ERROR_CHARS, keep_lines=True)
    return {"error": {"message": message, "type": kind, "code": error.code, "param": None}}
