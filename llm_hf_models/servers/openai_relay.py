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
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError, EngineRequestError, HfModelsError, ModelTooLargeError, UnknownModelError
from llm_hf_models.inference import client
from llm_hf_models.inference.engine import Endpoint, Notify
from llm_hf_models.inference.model_endpoint import ensure_endpoint, record_use, resolve_options
from llm_hf_models.inference.options import build_request_fields
from llm_hf_models.library.records import LocalModel
from llm_hf_models.servers.asgi_server import HttpResponseError
from llm_hf_models.servers.http_server import BaseHttpHandler, BaseHttpServer, translate_bind_errors
from llm_hf_models.servers.stream_assembly import assemble_response
from llm_hf_models.system.text import clean_text

if TYPE_CHECKING:
    from httpx2 import Response

MAX_BODY_BYTES = 256 * 2**20  # a body may contain attachments as base64
MAX_ERROR_CHARS = 500
ROUTES = {"chat/completions", "completions", "embeddings"}
_PROGRESS = b'"prompt_progress"'
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


class RelayServer(BaseHttpServer):
    """An HTTP server for some models, for clients that send its key."""

    def __init__(
        self, address: tuple[str, int], context: Context, names: Mapping[str, str], key: str, notify: Notify
    ) -> None:
        """Create the server. `names` maps each name that clients may use to the model's id in the library."""
        self.context, self.names, self.key, self.notify = context, names, key, notify
        super().__init__(address, RelayHandler)


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
    with translate_bind_errors(host, port):
        return RelayServer((host, port), context, names, key or secrets.token_urlsafe(24), notify)


class RelayHandler(BaseHttpHandler):
    """The handler of one connection of a client."""

    server: RelayServer

    def respond(self) -> None:
        """Respond to one request.

        Raises:
            HttpResponseError: The request gets an error response.
        """
        path = unquote(urlsplit(self.path).path).strip("/")
        if path == "health" and self.command == "GET":
            self.send_json({"status": "ok"})
            return
        self._check_key()
        route = path.removeprefix("v1/")
        try:
            if self.command == "POST" and route in ROUTES:
                self._relay_request(route, self._read_body())
            elif self.command != "POST" and route == "models":
                self.send_json({"object": "list", "data": [self._describe_model(one) for one in self._list_models()]})
            elif self.command != "POST" and route.startswith("models/"):
                self.send_json(self._describe_model(self._find_model(route.removeprefix("models/"))))
            else:
                self.close_connection = True  # the request may have a body that is not read
                raise HttpResponseError(404, "not_found", f"There is no {self.command} /{clean_text(path, 80)}")
        except HfModelsError as error:
            raise _convert_error(error) from None

    def _check_key(self) -> None:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self.server.key.encode())
        if scheme.lower() != "bearer" or not right:
            self.close_connection = True
            raise HttpResponseError(401, "invalid_api_key", "Wrong or missing key", {"WWW-Authenticate": "Bearer"})

    def _read_body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "") if "Transfer-Encoding" not in self.headers else ""
        if not re.fullmatch(r"[0-9]{1,12}", length) or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            status = 413 if length else 411
            raise HttpResponseError(
                status, "invalid_request", f"The body needs a Content-Length of at most {MAX_BODY_BYTES} bytes"
            )
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise HttpResponseError(400, "invalid_request", "The body is not a JSON object")
        return body

    # Models

    def _list_models(self) -> list[LocalModel]:
        """Return the served models that are still in the library."""
        wanted = set(self.server.names.values())
        with self.server.context.open_database() as db:
            return [model for model in db.list_models() if model.model_id in wanted]

    def _find_model(self, name: object) -> LocalModel:
        """Return the model with a name. The name may be empty if only one model is served.

        Raises:
            HttpResponseError: The model is not served.
            UnknownModelError: The model is no longer in the library.
        """
        ids = set(self.server.names.values())
        found = next(iter(ids)) if name in (None, "") and len(ids) == 1 else None
        found = found or (self.server.names.get(name) if isinstance(name, str) else None)
        if found is None:
            raise HttpResponseError(404, "model_not_found", f"The model {clean_text(str(name), 120)!r} is not served")
        with self.server.context.open_database() as db:
            return db.get_model(found)

    def _describe_model(self, model: LocalModel) -> dict[str, Any]:
        """Return the JSON of one model; `aliases` and `architecture` have the format of llama.cpp's server."""
        owner = (model.repo or "local").partition("/")[0]
        architecture = {"input_modalities": ["text", *model.facts.modalities]}
        names = {name for name, model_id in self.server.names.items() if model_id == model.model_id}
        return {
            "id": model.model_id,
            "aliases": sorted(names - {model.model_id}),
            "object": "model",
            "created": int(model.added),
            "owned_by": owner,
            "architecture": architecture,
        }

    # Requests

    def _relay_request(self, route: str, request: dict[str, Any]) -> None:
        """Forward a request to its model's engine, and the response to the client. Start the engine if needed."""
        model = self._find_model(request.get("model"))
        _check_kind(route, model)
        # One loop per request, of the kind that can watch a socket on every platform.
        loop = asyncio.SelectorEventLoop()
        try:
            loop.run_until_complete(self._run_until_disconnect(self._relay_to_engine(model, route, request)))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    async def _relay_to_engine(self, model: LocalModel, route: str, request: dict[str, Any]) -> None:
        options, system = resolve_options(model, ())

        def prepare_endpoint() -> Endpoint:
            with self.server.context.open_database() as db:
                return ensure_endpoint(model, options, db, self.server.notify)

        endpoint = await _run_in_thread(prepare_endpoint)
        body = _add_defaults(route, request, build_request_fields(options), system) | {"model": endpoint.model}
        relayed = RelayedRequest(f"/v1/{route}", body, wants_stream=bool(body.get("stream")))
        if endpoint.fingerprint is not None and route != "embeddings":
            relayed = relayed.with_disconnect_detection()
        try:
            await self._forward(endpoint, relayed, prepare_endpoint)
        finally:
            with self.server.context.open_database() as db:
                record_use(model.model_id, endpoint, db)

    async def _run_until_disconnect(self, work: Any) -> None:  # noqa: ANN401 - a coroutine
        """Await a coroutine, and cancel it when the client disconnects."""
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()

        def check_connection() -> None:
            try:
                disconnected = self.connection.recv(1, socket.MSG_PEEK) == b""
            except BlockingIOError:
                return
            except OSError:
                disconnected = True
            loop.remove_reader(self.connection)  # otherwise the bytes of the next request would trigger it again
            if disconnected:
                self.close_connection = True
                task.cancel()

        loop.add_reader(self.connection, check_connection)
        try:
            await task
        except asyncio.CancelledError:
            _log.info("The client disconnected")
        finally:
            loop.remove_reader(self.connection)

    async def _forward(self, endpoint: Endpoint, relayed: RelayedRequest, reconnect: Callable[[], Endpoint]) -> None:
        """Send a request to the engine, and forward the response as it arrives.

        Raises:
            HfModelsError: The request failed before any byte of the response was forwarded.
        """
        async with AsyncExitStack() as stack:
            response = await client.send_request(stack, endpoint, relayed.path, relayed.body, reconnect=reconnect)
            events = str(response.headers.get("content-type", "")).startswith("text/event-stream")
            if not events or not relayed.wants_stream:
                chunks = client.stream_bytes(endpoint, response)
                if events:
                    whole = json.dumps(await assemble_response(_split_events(chunks)), ensure_ascii=False).encode()
                else:
                    whole = b"".join([chunk async for chunk in chunks])
                self.send_bytes(HTTPStatus.OK, whole, {"Content-Type": "application/json"})
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Cache-Control", "no-cache")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            await self._send_events(endpoint, response, drop_progress=relayed.drop_progress)

    async def _send_events(self, endpoint: Endpoint, response: Response, *, drop_progress: bool) -> None:
        """Send the events of a stream as chunks. If the stream breaks off, the last event reports the error."""
        try:
            async for event in _split_events(client.stream_bytes(endpoint, response)):
                if not (drop_progress and _PROGRESS in event and _is_progress(event)):
                    self._send_chunk(event)
        except HfModelsError as error:
            self._send_chunk(b"data: " + json.dumps(_build_error_body(_convert_error(error))).encode() + b"\n\n")
        self._send_chunk(b"")

    def _send_chunk(self, data: bytes) -> None:
        """Send one chunk (RFC 9112, section 7.1). An empty chunk ends the response."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def send_error_response(self, error: HttpResponseError) -> None:
        """Send an error in OpenAI's format. A client that has disconnected is ignored."""
        body = json.dumps(_build_error_body(error)).encode()
        headers = {"Content-Type": "application/json; charset=utf-8", **(error.headers or {})}
        try:
            self.send_bytes(error.status_code, body, headers)
        except (ConnectionError, TimeoutError):
            self.close_connection = True


async def _run_in_thread(work: Callable[[], _Result]) -> _Result:
    """Run a blocking function in a thread. If the caller is cancelled, the function still runs to its end.

    So a model that was loading is ready for the next request, or its engine exits when idle.
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


async def _split_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield complete server-sent events, each with its final blank line, from chunks of any size."""
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk.replace(b"\r\n", b"\n")
        while (end := rest.find(b"\n\n")) >= 0:
            yield bytes(rest[: end + 2])
            del rest[: end + 2]
    if rest:
        yield bytes(rest)


def _is_progress(event: bytes) -> bool:
    """Return whether an event reports only the progress of reading the prompt."""
    try:
        chunk = json.loads(event.strip().removeprefix(b"data:"))
    except ValueError:
        return False
    return isinstance(chunk, dict) and "prompt_progress" in chunk


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


def _build_error_body(error: HttpResponseError) -> dict[str, Any]:
    kind = "invalid_request_error" if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    message = clean_text(error.detail, MAX_ERROR_CHARS, keep_lines=True)
    return {"error": {"message": message, "type": kind, "code": error.code, "param": None}}
