"""An address in OpenAI's protocol over the library's models: each request goes to its model's engine. Computes nothing.

The relay is not confined and reads no model file; the engines behind it are, as ever. Protocol: OpenAI's API reference
(models, chat/completions, completions, embeddings) and what llama.cpp's server adds to it.
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
from llm_hf_models.inference import client as inference_client
from llm_hf_models.inference.engine import Endpoint, Notice
from llm_hf_models.inference.model_endpoint import ensure_endpoint, record_use, resolve_options
from llm_hf_models.inference.options import build_request_fields
from llm_hf_models.library.records import LocalModel
from llm_hf_models.servers.http_server import BaseHttpHandler, BaseHttpServer, HttpResponseError, translate_bind_errors
from llm_hf_models.servers.stream_assembly import assemble_response
from llm_hf_models.system.text import clean_text

if TYPE_CHECKING:
    from httpx2 import Response

MAX_BODY_BYTES = 256 * 2**20  # attachments come in it, as base64
MAX_ERROR_CHARS = 500
ROUTES = {"chat/completions", "completions", "embeddings"}
_PROGRESS = b'"prompt_progress"'
_ENGINE_AUTH_STATUSES = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
)  # us, by the engine: no business of the client's
_ERROR_STATUSES = range(400, 600)
_Found = TypeVar("_Found")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RelayedRequest:
    """A request as it is passed on, and what of the answer the client wants."""

    path: str
    body: Mapping[str, Any]
    wants_stream: bool  # whether the client wants pieces
    drop_progress: bool = False

    def with_disconnect_detection(self) -> RelayedRequest:
        """The same, so that llama.cpp notices when we close the connection.

        It notices only when it has something to send: pieces of an answer, or how far it has read a prompt.
        """
        added: dict[str, Any] = {"stream": True, "return_progress": True}
        if not self.wants_stream:
            added["stream_options"] = {"include_usage": True}
        drop = "return_progress" not in self.body
        return replace(self, body={**self.body, **added}, drop_progress=drop)


class RelayServer(BaseHttpServer):
    """Listens for clients that know the key, on behalf of some models."""

    def __init__(
        self, address: tuple[str, int], context: Context, names: Mapping[str, str], key: str, notice: Notice
    ) -> None:
        """`names` is what a client may call a model -> its id in the library."""
        self.context, self.names, self.key, self.notice = context, names, key, notice
        super().__init__(address, RelayHandler)


def make_server(
    context: Context, models: Sequence[str], host: str, port: int, *, key: str | None, notice: Notice
) -> RelayServer:
    """A relay; call `serve_forever()` on it. `server_address` tells the port that was taken, `key` the key.

    Args:
        context: the library.
        models: the names of those to serve; a client may use these and the models' ids.
        host: the address to listen on.
        port: 0 takes a free one.
        key: what clients have to know; None makes one.
        notice: told what a person should know: an engine that was evicted, a smaller context.

    Raises:
        UnknownModelError, AmbiguousNameError: no such model, or several.
        BadInputError: a model of a kind that can't be served, or a key that no header can carry.
        NotWritableError: the address can't be listened on.
    """
    if key is not None and not re.fullmatch(r"[!-~]{8,512}", key):
        raise BadInputError("That can't be a key", hint="Use 8 to 512 printable ASCII characters without spaces.")
    names: dict[str, str] = {}
    with context.open_library() as db:
        for name in models:
            model = db.find_model(name)
            if model.facts.kind not in ("chat", "base", "embedding"):
                raise BadInputError(f"{model.model_id} can't be served: it is a {model.facts.kind}")
            names |= {model.model_id: model.model_id, name: model.model_id}
    with translate_bind_errors(host, port):
        return RelayServer((host, port), context, names, key or secrets.token_urlsafe(24), notice)


class RelayHandler(BaseHttpHandler):
    """One connection of a client."""

    server: RelayServer

    def respond(self) -> None:
        """Answers one request.

        Raises:
            RefusedError: the answer is a refusal.
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
                self.close_connection = True  # a body may stay unread
                raise HttpResponseError(404, "not_found", f"There is no {self.command} /{clean_text(path, 80)} here")
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
                status, "invalid_request", f"A body has at most {MAX_BODY_BYTES} bytes, and a length"
            )
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise HttpResponseError(400, "invalid_request", "The body is no JSON object")
        return body

    # Models

    def _list_models(self) -> list[LocalModel]:
        """Those of the models that are still in the library."""
        wanted = set(self.server.names.values())
        with self.server.context.open_library() as db:
            return [model for model in db.list_models() if model.model_id in wanted]

    def _find_model(self, name: object) -> LocalModel:
        """The model that a client names; where only one is served, it needs no name.

        Raises:
            RefusedError: it is not among those that are served.
            UnknownModelError: it has gone from the library.
        """
        ids = set(self.server.names.values())
        found = next(iter(ids)) if name in (None, "") and len(ids) == 1 else None
        found = found or (self.server.names.get(name) if isinstance(name, str) else None)
        if found is None:
            raise HttpResponseError(404, "model_not_found", f"No model {clean_text(str(name), 120)!r} is served here")
        with self.server.context.open_library() as db:
            return db.get_model(found)

    def _describe_model(self, model: LocalModel) -> dict[str, Any]:
        """What a client is told of a model; `aliases` and `architecture` as llama.cpp's own server says them."""
        owner = (model.repo or "local").partition("/")[0]
        takes = {"input_modalities": ["text", *model.facts.modalities]}
        names = {name for name, model_id in self.server.names.items() if model_id == model.model_id}
        return {
            "id": model.model_id,
            "aliases": sorted(names - {model.model_id}),
            "object": "model",
            "created": int(model.added),
            "owned_by": owner,
            "architecture": takes,
        }

    # Requests

    def _relay_request(self, route: str, asked: dict[str, Any]) -> None:
        """Passes a request on to its model's engine, started if need be, and what comes back to the client."""
        model = self._find_model(asked.get("model"))
        _check_kind(route, model)
        # A loop of its own, and one that can watch a socket on every system.
        loop = asyncio.SelectorEventLoop()
        try:
            loop.run_until_complete(self._run_until_disconnect(self._relay_to_engine(model, route, asked)))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    async def _relay_to_engine(self, model: LocalModel, route: str, asked: dict[str, Any]) -> None:
        options, system = resolve_options(model, ())

        def find() -> Endpoint:
            with self.server.context.open_library() as db:
                return ensure_endpoint(model, options, db, self.server.notice)

        endpoint = await _run_in_thread(find)
        body = _add_defaults(route, asked, build_request_fields(options), system) | {"model": endpoint.model}
        passing = RelayedRequest(f"/v1/{route}", body, wants_stream=bool(body.get("stream")))
        if endpoint.fingerprint is not None and route != "embeddings":
            passing = passing.with_disconnect_detection()
        try:
            await self._forward(endpoint, passing)
        finally:
            with self.server.context.open_library() as db:
                record_use(model.model_id, endpoint, db)

    async def _run_until_disconnect(self, work: Any) -> None:  # noqa: ANN401 - a coroutine
        """Carries work out, and breaks it off as soon as the client has gone."""
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()

        def look() -> None:
            try:
                gone = self.connection.recv(1, socket.MSG_PEEK) == b""
            except BlockingIOError:
                return
            except OSError:
                gone = True
            loop.remove_reader(self.connection)  # bytes of a next request wait for their turn
            if gone:
                self.close_connection = True
                task.cancel()

        loop.add_reader(self.connection, look)
        try:
            await task
        except asyncio.CancelledError:
            _log.info("the client has gone")
        finally:
            loop.remove_reader(self.connection)

    async def _forward(self, endpoint: Endpoint, passing: RelayedRequest) -> None:
        """Sends a request on, and the answer back as it comes.

        Raises:
            HfModelsError: before the first byte of the answer was sent on.
        """
        async with AsyncExitStack() as stack:
            answer = await inference_client.send_request(stack, endpoint, passing.path, passing.body)
            events = str(answer.headers.get("content-type", "")).startswith("text/event-stream")
            if not events or not passing.wants_stream:
                pieces = inference_client.stream_bytes(endpoint, answer)
                if events:
                    whole = json.dumps(await assemble_response(_split_events(pieces)), ensure_ascii=False).encode()
                else:
                    whole = b"".join([piece async for piece in pieces])
                self.send_bytes(HTTPStatus.OK, whole, {"Content-Type": "application/json"})
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Cache-Control", "no-cache")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            await self._send_events(endpoint, answer, drop_progress=passing.drop_progress)

    async def _send_events(self, endpoint: Endpoint, answer: Response, *, drop_progress: bool) -> None:
        """The events of a stream as chunks; one that breaks off ends with an event that says so."""
        try:
            async for event in _split_events(inference_client.stream_bytes(endpoint, answer)):
                if not (drop_progress and _PROGRESS in event and _is_progress(event)):
                    self._send_chunk(event)
        except HfModelsError as error:
            self._send_chunk(b"data: " + json.dumps(_build_error_body(_convert_error(error))).encode() + b"\n\n")
        self._send_chunk(b"")

    def _send_chunk(self, data: bytes) -> None:
        """RFC 9112, 7.1; an empty one ends the answer."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def send_error_response(self, refused: HttpResponseError) -> None:
        """OpenAI's form of a refusal; a client that didn't wait for it misses nothing."""
        body = json.dumps(_build_error_body(refused)).encode()
        headers = {"Content-Type": "application/json; charset=utf-8", **refused.headers}
        try:
            self.send_bytes(refused.status, body, headers)
        except (ConnectionError, TimeoutError):
            self.close_connection = True


async def _run_in_thread(work: Callable[[], _Found]) -> _Found:
    """Carries out what blocks. Whoever stops waiting leaves it behind: a model that was being loaded is then there for
    the next who asks, or leaves when it is idle.
    """
    future: Future[_Found] = Future()

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
    """Before an engine is started: a model either embeds or answers prompts. A server elsewhere knows by itself.

    Raises:
        BadInputError: this one was made for the other.
    """
    embeds = model.facts.kind == "embedding"
    if model.endpoint is None and embeds != (route == "embeddings"):
        raise BadInputError(
            f"{model.model_id} is {'an' if embeds else 'a'} {model.facts.kind} model, and "
            + ("answers no prompts" if embeds else "makes no embeddings"),
            hint="GET /v1/models lists what is served here.",
        )


def _add_defaults(route: str, asked: dict[str, Any], fields: Mapping[str, Any], system: str | None) -> dict[str, Any]:
    """A client's request with the model's own defaults where it doesn't say otherwise."""
    if route == "embeddings":
        return dict(asked)
    body = {**fields, **{key: value for key, value in asked.items() if value is not None}}
    messages = asked.get("messages")
    if route == "chat/completions" and system and isinstance(messages, list):
        roles = [message.get("role") for message in messages if isinstance(message, dict)]
        if "system" not in roles and "developer" not in roles:
            body["messages"] = [{"role": "system", "content": system}, *messages]
    return body


async def _split_events(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole events, each with the blank line that ends it, whatever pieces the bytes came in."""
    rest = bytearray()
    async for piece in pieces:
        rest += piece.replace(b"\r\n", b"\n")
        while (end := rest.find(b"\n\n")) >= 0:
            yield bytes(rest[: end + 2])
            del rest[: end + 2]
    if rest:
        yield bytes(rest)


def _is_progress(event: bytes) -> bool:
    """Whether an event says only how far a prompt was read."""
    try:
        chunk = json.loads(event.strip().removeprefix(b"data:"))
    except ValueError:
        return False
    return isinstance(chunk, dict) and "prompt_progress" in chunk


def _convert_error(error: HfModelsError) -> HttpResponseError:
    """One of our errors as an answer; a refusal of the engine's keeps its status where that is about the request."""
    if isinstance(error, EngineRequestError):
        said = error.status or 0
        status = said if said in _ERROR_STATUSES and said not in _ENGINE_AUTH_STATUSES else HTTPStatus.BAD_GATEWAY
        code = "invalid_request" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "engine_error"
        return HttpResponseError(status, code, str(error))
    statuses: Sequence[tuple[type[HfModelsError], int, str]] = (
        (UnknownModelError, 404, "model_not_found"),
        (BadInputError, 400, "invalid_request"),
        (ModelTooLargeError, 503, "model_too_large"),
    )
    status, code = next(((s, c) for kind, s, c in statuses if isinstance(error, kind)), (502, "engine_error"))
    return HttpResponseError(status, code, str(error))


def _build_error_body(refused: HttpResponseError) -> dict[str, Any]:
    kind = "invalid_request_error" if refused.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    message = clean_text(refused.message, MAX_ERROR_CHARS, keep_lines=True)
    return {"error": {"message": message, "type": kind, "code": refused.code, "param": None}}
