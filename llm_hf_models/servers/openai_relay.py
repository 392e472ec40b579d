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
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

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
from llm_hf_models.errors import (
    BadInputError,
    EngineRequestError,
    HfModelsError,
    TemplateRefusedError,
)
from llm_hf_models.inference.engine import Endpoint, Notify
from llm_hf_models.inference.model_endpoint import ensure_endpoint, record_use
from llm_hf_models.inference.protocol import client
from llm_hf_models.inference.protocol.chat_template import fit_messages
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import LocalModel
from llm_hf_models.redaction import redact_bytes
from llm_hf_models.servers.asgi_server import HttpServer, build_app, read_body
from llm_hf_models.servers.embedding_requests import fit_embedding_request
from llm_hf_models.servers.http_errors import HttpResponseError
from llm_hf_models.servers.relay_errors import blame_client, build_error_body, convert_error, render_error
from llm_hf_models.servers.relay_requests import EMBEDDINGS, ROUTES, RelayedRequest, parse_body, prepare_request
from llm_hf_models.servers.relay_streams import COMMENT_SECONDS, ResponseChecker, add_comments, check_events
from llm_hf_models.servers.stream_assembly import assemble_response, split_events
from llm_hf_models.servers.stream_redaction import redact_events
from llm_hf_models.system.text import clean_text

MAX_BODY_BYTES = 256 * 2**20  # a body may contain attachments as base64
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class RelayServer(HttpServer):
    """An HTTP server for some models, for clients that send its key.

    Attributes:
        names: The id in the library for each name that clients may use.
        key: The key that clients must send.
    """

    def __init__(self, relay: _Relay, key: str, host: str, port: int, log: Callable[[str], None] | None) -> None:
        """Listen on an address."""
        self.names, self.key = relay.names, key
        app = _build_relay_app(relay, key)
        super().__init__(app, host, port, render_error, max_body_bytes=MAX_BODY_BYTES, log=log)


def make_server(
    context: Context,
    models: Sequence[str],
    host: str,
    port: int,
    *,
    key: str | None,
    notify: Notify,
    log: Callable[[str], None] | None = None,
) -> RelayServer:
    """Return a relay. Call `serve_forever()` on it; `server_address` has the port, `key` the key.

    Args:
        context: The context of the library.
        models: The names of the models to serve. Clients may use these names and the models' ids. If empty, all models
            of the library are served, also those that are added later, by any name that they have.
        host: The address to listen on.
        port: The port; 0 chooses a free one.
        key: The key that clients must send; None generates one.
        notify: Called with messages for the user, for example that an engine was evicted or a context reduced.
        log: Called with a line for each request.

    Raises:
        UnknownModelError, AmbiguousNameError: A name matches no model, or several.
        BadInputError: A model can't be served because of its kind, there is no model to serve, or the key can't be sent
            in a header.
        NotWritableError: The server can't listen on the address.
    """
    if key is not None and not re.fullmatch(r"[!-~]{8,512}", key):
        raise BadInputError("The key is not valid", hint="Use 8 to 512 printable ASCII characters without spaces.")
    names: dict[str, str] = {}
    with context.open_database() as db:
        for name in models:
            model = db.find_model(name)
            if not _can_serve(model):
                raise BadInputError(f"{model.model_id} can't be served: its kind is {model.facts.kind}")
            names |= {model.model_id: model.model_id, name: model.model_id}
        if not models:
            names = {model.model_id: model.model_id for model in db.list_models() if _can_serve(model)}
    if not names:
        raise BadInputError("There is no model to serve", hint="Pull one: llm hf pull owner/name")
    relay = _Relay(context, names, notify, serves_all=not models)
    return RelayServer(relay, key or secrets.token_urlsafe(24), host, port, log)


def _can_serve(model: LocalModel) -> bool:
    return model.facts.kind in ("chat", "base", "embedding")


def _build_relay_app(relay: _Relay, key: str) -> ASGIApp:
    """Return the app. A web page of any origin may use it, because it needs the key."""
    routes = [
        *(Route(f"/{route}", partial(relay.relay_request, route), methods=["POST"]) for route in ROUTES),
        Route("/models", relay.list_models),
        Route("/models/{name:path}", relay.show_model),
    ]
    return build_app(
        [Route("/health", lambda _: JSONResponse({"status": "ok"})), Mount("/v1", routes=routes), *routes],
        convert_error=convert_error,
        render_error=render_error,
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
    return render_error(HttpResponseError(401, "invalid_api_key", str(error), {"WWW-Authenticate": "Bearer"}))


@dataclass(frozen=True)
class _Opened:
    """A request that was sent to an engine, and the start of the response."""

    relayed: RelayedRequest
    is_stream: bool
    chunks: AsyncIterator[bytes]


class _Relay:
    """The endpoints of a relay."""

    def __init__(self, context: Context, names: Mapping[str, str], notify: Notify, *, serves_all: bool) -> None:
        self._context, self.names, self._notify, self._serves_all = context, names, notify, serves_all

    # Models. Starlette runs these endpoints in threads, because they read the library.

    def list_models(self, _: Request) -> Response:
        """Return the served models that are still in the library."""
        with self._context.open_database() as db:
            models = [self._describe_model(model) for model in self._list_served(db)]
        return JSONResponse({"object": "list", "data": models})

    def _list_served(self, db: Database) -> list[LocalModel]:
        ids = set(self.names.values())
        return [
            model for model in db.list_models() if (_can_serve(model) if self._serves_all else model.model_id in ids)
        ]

    def show_model(self, request: Request) -> Response:
        """Return one served model."""
        with self._context.open_database() as db:
            return JSONResponse(self._describe_model(self._find_model(db, request.path_params["name"])))

    def _find_model(self, db: Database, name: object) -> LocalModel:
        """Return the model with a name. The name may be empty if only one model is served.

        Raises:
            HttpResponseError: The model is not served.
            UnknownModelError: The model is no longer in the library.
            AmbiguousNameError: The name is that of several models.
        """
        if name in (None, ""):
            served = self._list_served(db)
            if len(served) != 1:
                message = f"'model' is missing, and {len(served)} models are served"
                raise HttpResponseError(404, "model_not_found", message)
            return served[0]
        if isinstance(name, str) and name in self.names:
            return db.get_model(self.names[name])
        if isinstance(name, str) and self._serves_all:
            model = db.find_model(name)
            if _can_serve(model):
                return model
        raise HttpResponseError(404, "model_not_found", f"The model {clean_text(str(name), 120)!r} is not served")

    def _describe_model(self, model: LocalModel) -> dict[str, Any]:
        """Return the JSON of one model; `aliases` and `architecture` have the format of llama.cpp's server."""
        owner = (model.repo or "local").partition("/")[0]
        architecture = {"input_modalities": ["text", *model.facts.modalities]}
        names = {name for name, model_id in self.names.items() if model_id == model.model_id}
        return {
            "id": model.model_id,
            "aliases": sorted({*names, *(model.aliases if self._serves_all else ())} - {model.model_id}),
            "object": "model",
            "created": int(model.added),
            "owned_by": owner,
            "architecture": architecture,
        }

    # Requests

    async def relay_request(self, route: str, request: Request) -> ASGIApp:
        """Return the app that forwards a request to its model's engine, and the response to the client."""
        fields = parse_body(await read_body(request))
        request.state.model = fields.get("model")
        wants_stream = fields.get("stream") is True

        async def forward(scope: Scope, receive: Receive, send: Send) -> None:
            async with AsyncExitStack() as stack, _cancel_on_disconnect(receive):
                opening = asyncio.ensure_future(self._open(stack, route, fields))
                try:
                    await asyncio.wait({opening}, timeout=COMMENT_SECONDS if wants_stream else None)
                    if wants_stream and not (
                        opening.done() and (opening.exception() or not opening.result().is_stream)
                    ):
                        await _send_stream(opening, send)
                    else:
                        whole = await _read_whole(await opening)
                        await Response(whole, media_type="application/json")(scope, receive, send)
                finally:
                    opening.cancel()

        return forward

    async def _open(self, stack: AsyncExitStack, route: str, fields: dict[str, Any]) -> _Opened:
        """Send a request to the engine of its model, and wait for the start of the response.

        Raises:
            HfModelsError: The request is invalid, or failed before any byte of the response arrived.
        """
        prepare = partial(self._prepare, route, fields)
        model_id, endpoint, relayed = await _run_in_daemon_thread(prepare)
        stack.push_async_callback(run_in_threadpool, self._record_use, model_id, endpoint)
        send = partial(client.send_request, stack, endpoint, relayed.path, reconnect=lambda: prepare()[1])
        try:
            response = await _send_fitted(send, relayed.body)
        except EngineRequestError as error:
            blame_client(error, endpoint)
            if route != EMBEDDINGS or endpoint.fingerprint is None:
                raise
            shorter = await run_in_threadpool(
                fit_embedding_request, endpoint, relayed.body, error, truncate=relayed.truncate
            )
            response = await send(shorter)
        is_stream = str(response.headers.get("content-type", "")).startswith("text/event-stream")
        return _Opened(relayed, is_stream, client.stream_bytes(endpoint, response))

    def _prepare(self, route: str, fields: dict[str, Any]) -> tuple[str, Endpoint, RelayedRequest]:
        """Find the model of a request, and start its engine if needed.

        Returns:
            The model's id, its engine, and the request to send to the engine.
        """
        with self._context.open_database() as db:
            model = self._find_model(db, fields.get("model"))
            relayed, options = prepare_request(route, model, fields)
            endpoint = ensure_endpoint(model, options, db, self._notify)
        relayed = replace(relayed, body={**relayed.body, "model": endpoint.model})
        if endpoint.fingerprint is not None and route != EMBEDDINGS:
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


async def _send_stream(opening: asyncio.Future[_Opened], send: Send) -> None:
    """Send a stream that is open, or that will be. Comments fill the time until the engine sends something."""
    async with aclosing(add_comments(_iter_events(opening), COMMENT_SECONDS)) as events:
        response = StreamingResponse(events, headers={"Cache-Control": "no-cache"}, media_type="text/event-stream")
        await response.stream_response(send)  # which, unlike a call, leaves `receive` to _cancel_on_disconnect


async def _iter_events(opening: asyncio.Future[_Opened]) -> AsyncGenerator[bytes, None]:
    """Yield the events of a stream. If it can't be opened, or breaks off, the last event reports the error."""
    try:
        opened = await opening
        if not opened.is_stream:
            yield redact_bytes(b"data: " + b"".join([chunk async for chunk in opened.chunks]) + b"\n\n")
            return
        relayed = opened.relayed
        events = check_events(split_events(opened.chunks), drop_progress=relayed.drop_progress, schema=relayed.schema)
        async for event in redact_events(events):
            yield event
    except HfModelsError as error:
        yield b"data: " + json.dumps(build_error_body(convert_error(error))).encode() + b"\n\n"


async def _read_whole(opened: _Opened) -> bytes:
    """Return a complete response as JSON.

    Raises:
        EngineRequestError: The engine reported an error, or the response does not match the schema.
        EngineLostError: The stream ended early.
    """
    if not opened.is_stream:
        return redact_bytes(b"".join([chunk async for chunk in opened.chunks]))
    whole = await assemble_response(split_events(opened.chunks))
    checker = ResponseChecker(opened.relayed.schema)
    checker.add_choices(whole["choices"])
    checker.check()
    return redact_bytes(json.dumps(whole).encode())


async def _send_fitted(send: Callable[[Mapping[str, Any]], Awaitable[_Result]], body: Mapping[str, Any]) -> _Result:
    """Send a request. If the chat template refuses its messages, send them in a form that strict templates accept.

    Raises:
        EngineRequestError: The engine reported an error.
    """
    while True:
        try:
            return await send(body)
        except TemplateRefusedError as error:
            fitted = fit_messages(body.get("messages", ()), error.cause or error.message)
            if fitted == list(body.get("messages", ())):
                raise
            body = {**body, "messages": fitted}
