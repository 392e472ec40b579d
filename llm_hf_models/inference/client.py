"""Send a request to an endpoint in OpenAI's protocol, with or without asyncio. Does not depend on llm."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing, closing
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from llm_hf_models.errors import EngineLostError, EngineRequestError, TemplateRefusedError
from llm_hf_models.inference import chat_template, openai_protocol
from llm_hf_models.inference.engine import Endpoint
from llm_hf_models.inference.loop_detection import LoopDetector
from llm_hf_models.inference.openai_protocol import (
    Finish,
    Piece,
    ServedModel,
    Turn,
    build_embeddings_body,
    build_request_body,
    build_response_error,
    get_request_path,
    parse_embeddings,
)
from llm_hf_models.inference.piece_redactor import PieceRedactor
from llm_hf_models.inference.response_parser import ResponseParser
from llm_hf_models.inference.running_engines import count_busy_slots, get_engine_folder, stop_engine_process
from llm_hf_models.inference.tool_calls import ToolCall
from llm_hf_models.redaction import redact_bytes

if TYPE_CHECKING:
    import httpx2
    from httpx2 import Response


CONNECT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 300.0  # llama.cpp sends data after every batch and token, but nothing to queued requests
UNSTREAMED_TIMEOUT_SECONDS = 1800.0  # for a response that arrives in one piece
MAX_ERROR_BYTES = 64 * 1024
MAX_LIST_BYTES = 2**20

# A turn, a list of texts to embed, or the complete JSON body of a request.
RequestContent: TypeAlias = Turn | list[str | list[int]] | Mapping[str, Any]
Reconnect: TypeAlias = Callable[[], Endpoint]  # finds the model's engine again, or starts a new one
C = TypeVar("C")
_LOOPBACK_HOSTS = {"localhost", "127.0.0.1", "::1"}


def stream_completion(
    endpoint: Endpoint,
    turn: Turn,
    *,
    reconnect: Reconnect | None = None,
    read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
) -> Generator[Piece | ToolCall | Finish, None, None]:
    """Stream one completion; its tool calls and the Finish are the last items. Closing the iterator cancels it.

    If the model's chat template refuses the turn, it is sent again in the form that strict templates accept. If the
    response repeats the same text for `turn.loop_limit` tokens, the request is cancelled.

    Args:
        endpoint: The server to send the request to.
        turn: The messages and options to send.
        reconnect: Returns a new endpoint if the local engine ended before the request.
        read_timeout_seconds: How long the server may send nothing. Time spent queued behind other requests to a
            local engine does not count.

    Raises:
        TemplateRefusedError: The chat template refused the turn in both forms.
        EngineRequestError: The server returned another error, such as an invalid option or a prompt larger than the
            context.
        EngineLostError: The connection failed, broke or timed out, or the response is not in OpenAI's protocol.
        EngineStartError, ModelTooLargeError: The local engine had ended and could not be restarted.
    """
    while True:
        has_begun = False
        try:
            with closing(_stream_turn(endpoint, turn, reconnect, read_timeout_seconds)) as items:
                for item in items:
                    has_begun = True
                    yield item
        except TemplateRefusedError as error:
            turn = _fit_refused_turn(turn, error, endpoint, has_begun=has_begun)
        else:
            return


def _stream_turn(
    endpoint: Endpoint, turn: Turn, reconnect: Reconnect | None, read_timeout: float
) -> Generator[Piece | ToolCall | Finish, None, None]:
    import httpx2

    with ExitStack() as stack:
        endpoint, response = _open_response(stack, endpoint, get_request_path(turn), turn, read_timeout, reconnect)
        parser = ResponseParser(can_grow_context=endpoint.can_grow_context)
        redactor, detector = PieceRedactor(), LoopDetector(turn.loop_limit)
        try:
            for data in response.iter_bytes():
                for piece in redactor.clean_text(parser.feed(data)):
                    yield piece
                    if detector.is_loop(piece.text):
                        yield Finish(openai_protocol.LOOP, output_tokens=detector.count)
                        return
        except httpx2.HTTPError as error:
            raise _handle_lost_connection(endpoint, error) from None
        yield from redactor.clean_end(parser.end())


def _fit_refused_turn(turn: Turn, error: TemplateRefusedError, endpoint: Endpoint, *, has_begun: bool) -> Turn:
    """Return the turn in a form that a strict chat template accepts.

    Raises:
        TemplateRefusedError: The turn has this form already, or a part of the response has arrived.
    """
    fitted = chat_template.fit_turn(turn, error.cause or error.message)
    if has_begun or list(fitted.messages) == list(turn.messages):
        raise chat_template.explain_refusal(error, endpoint) from None
    return fitted


async def stream_completion_async(
    endpoint: Endpoint,
    turn: Turn,
    *,
    reconnect: Reconnect | None = None,
    read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
) -> AsyncGenerator[Piece | ToolCall | Finish, None]:
    """Stream one completion with asyncio, as `stream_completion` does. Call `aclose` to cancel the request."""
    while True:
        has_begun = False
        try:
            async with aclosing(_stream_turn_async(endpoint, turn, reconnect, read_timeout_seconds)) as items:
                async for item in items:
                    has_begun = True
                    yield item
        except TemplateRefusedError as error:
            turn = _fit_refused_turn(turn, error, endpoint, has_begun=has_begun)
        else:
            return


async def _stream_turn_async(
    endpoint: Endpoint, turn: Turn, reconnect: Reconnect | None, read_timeout: float
) -> AsyncGenerator[Piece | ToolCall | Finish, None]:
    import httpx2

    path = get_request_path(turn)
    async with AsyncExitStack() as stack:
        endpoint, response = await _open_response_async(stack, endpoint, path, turn, read_timeout, reconnect)
        parser = ResponseParser(can_grow_context=endpoint.can_grow_context)
        redactor, detector = PieceRedactor(), LoopDetector(turn.loop_limit)
        try:
            async for data in response.aiter_bytes():
                for piece in redactor.clean_text(parser.feed(data)):
                    yield piece
                    if detector.is_loop(piece.text):
                        yield Finish(openai_protocol.LOOP, output_tokens=detector.count)
                        return
        except httpx2.HTTPError as error:
            raise _handle_lost_connection(endpoint, error) from None
        for last in redactor.clean_end(parser.end()):
            yield last


def embed(
    endpoint: Endpoint, texts: Sequence[str | list[int]], *, reconnect: Reconnect | None = None
) -> list[list[float]]:
    """Return one embedding vector for each text, which may be given as tokens.

    `reconnect` has the same meaning as for `stream_completion`.

    Raises:
        EngineRequestError: The server returned an error.
        EngineLostError: The connection failed, broke or timed out, or the response is not in OpenAI's protocol.
        EngineStartError, ModelTooLargeError: The local engine had ended and could not be restarted.
    """
    import httpx2

    if not texts:
        return []
    with ExitStack() as stack:
        endpoint, response = _open_response(
            stack, endpoint, "/v1/embeddings", list(texts), UNSTREAMED_TIMEOUT_SECONDS, reconnect
        )
        try:
            return parse_embeddings(response.read(), len(texts))
        except httpx2.HTTPError as error:
            raise _handle_lost_connection(endpoint, error) from None


def request_json(endpoint: Endpoint, path: str, body: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
    """Send a request to a local engine and return its response.

    Raises:
        EngineRequestError: The engine returned an error.
        EngineLostError: The connection failed, broke or timed out, or the response is not JSON.
    """
    import httpx2

    with ExitStack() as stack:
        endpoint, response = _open_response(stack, endpoint, path, body, READ_TIMEOUT_SECONDS, None)
        try:
            return json.loads(response.read())
        except (httpx2.HTTPError, ValueError) as error:
            raise _build_lost_error(endpoint, error) from None


async def send_request(
    stack: AsyncExitStack,
    endpoint: Endpoint,
    path: str,
    body: Mapping[str, Any],
    *,
    reconnect: Reconnect | None = None,
) -> Response:
    """Send a complete request body and wait for the response's headers. Closing the stack cancels the request.

    Args:
        stack: Closes the connection when it exits.
        endpoint: The server to send the request to.
        path: The path below the endpoint's base URL.
        body: The request's JSON, including the model's name.
        reconnect: Returns a new endpoint if the local engine ended before the request. It is called in a thread.

    Raises:
        EngineRequestError: The server returned an error.
        EngineLostError: The connection failed, broke or timed out.
        EngineStartError, ModelTooLargeError: The local engine had ended and could not be restarted.
    """
    read_timeout = READ_TIMEOUT_SECONDS if body.get("stream") else UNSTREAMED_TIMEOUT_SECONDS
    return (await _open_response_async(stack, endpoint, path, body, read_timeout, reconnect))[1]


async def stream_bytes(endpoint: Endpoint, response: Response) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a response from `send_request` as they arrive. They may repeat the endpoint's key.

    Raises:
        EngineLostError: The connection broke or timed out.
    """
    import httpx2

    try:
        async for data in response.aiter_bytes():
            yield data
    except httpx2.HTTPError as error:
        raise _handle_lost_connection(endpoint, error) from None


def list_served_models(endpoint: Endpoint, *, seconds: float) -> list[ServedModel]:
    """Return the models in a server's `/v1/models` list.

    Args:
        endpoint: The server to send the request to.
        seconds: Time limit for the whole request.

    Raises:
        EngineRequestError: The server returned an error.
        EngineLostError: The server did not respond, or its response is not in OpenAI's protocol.
    """
    import httpx2

    from llm_hf_models.network.time_limit import limit_time, watch_client

    url = f"{endpoint.base_url.rstrip('/')}/v1/models"
    timeout = httpx2.Timeout(seconds)
    with _create_client(httpx2.Client, httpx2.HTTPTransport, endpoint, timeout) as client, limit_time(seconds):
        watch_client(client)
        try:
            request = client.build_request("GET", url, headers=_build_headers(endpoint))
            with closing(client.send(request, stream=True)) as response:
                body = next(response.iter_bytes(MAX_LIST_BYTES), b"")
        except httpx2.HTTPError as error:
            raise _build_lost_error(endpoint, error) from None
    if not response.is_success:
        raise build_response_error(response.status_code, body, url)
    return openai_protocol.parse_served_models(redact_bytes(body))


def _open_response(
    stack: ExitStack,
    endpoint: Endpoint,
    path: str,
    content: RequestContent,
    read_timeout: float,
    reconnect: Reconnect | None,
) -> tuple[Endpoint, Response]:
    """Send a request and wait for the response's headers; restart a local engine that has ended.

    Returns:
        The endpoint that responded, which is a new one after a restart, and its response.
    """
    import httpx2

    timeout = httpx2.Timeout(read_timeout, connect=CONNECT_SECONDS)
    while True:
        client = stack.enter_context(_create_client(httpx2.Client, httpx2.HTTPTransport, endpoint, timeout))
        try:
            response = client.send(_build_request(client, endpoint, path, content), stream=True)
            stack.callback(response.close)
            if response.is_success:
                return endpoint, response
            body = next(response.iter_bytes(MAX_ERROR_BYTES), b"")
        except httpx2.HTTPError as error:
            endpoint, reconnect = _recover_endpoint(endpoint, error, reconnect)
        else:
            raise _build_request_error(endpoint, content, response, body)


async def _open_response_async(
    stack: AsyncExitStack,
    endpoint: Endpoint,
    path: str,
    content: RequestContent,
    read_timeout: float,
    reconnect: Reconnect | None,
) -> tuple[Endpoint, Response]:
    """Send a request with asyncio, as `_open_response` does."""
    import asyncio

    import httpx2

    timeout = httpx2.Timeout(read_timeout, connect=CONNECT_SECONDS)
    while True:
        new_client = _create_client(httpx2.AsyncClient, httpx2.AsyncHTTPTransport, endpoint, timeout)
        client = await stack.enter_async_context(new_client)
        try:
            response = await client.send(_build_request(client, endpoint, path, content), stream=True)
            stack.push_async_callback(response.aclose)
            if response.is_success:
                return endpoint, response
            body = await anext(response.aiter_bytes(MAX_ERROR_BYTES), b"")
        except httpx2.HTTPError as error:
            endpoint, reconnect = await asyncio.to_thread(_recover_endpoint, endpoint, error, reconnect)
        else:
            raise _build_request_error(endpoint, content, response, body)


def _recover_endpoint(
    endpoint: Endpoint, error: httpx2.HTTPError, reconnect: Reconnect | None
) -> tuple[Endpoint, Reconnect | None]:
    """Find the endpoint to retry a request on, after the request failed before any byte arrived.

    Args:
        endpoint: The endpoint that failed.
        error: The request's error.
        reconnect: Returns a new endpoint; None if this request can't reconnect, or has already done so.

    Returns:
        The endpoint to retry on, and the new value of `reconnect`.

    Raises:
        EngineLostError: The request can't be retried.
        EngineStartError, ModelTooLargeError: The local engine had ended and could not be restarted.
    """
    import httpx2

    row = endpoint.row
    if row is not None and isinstance(error, httpx2.ReadTimeout) and count_busy_slots(row):
        return endpoint, reconnect  # busy with other requests: queue this one again
    if row is not None and reconnect is not None and not isinstance(error, httpx2.TimeoutException):
        return reconnect(), None
    raise _handle_lost_connection(endpoint, error)


def _create_client(
    kind: Callable[..., C], transport: Callable[..., Any], endpoint: Endpoint, timeout: httpx2.Timeout
) -> C:
    """Create an httpx2 client for an endpoint.

    Raises:
        TlsError: The certificate file named in the environment can't be read.
    """
    try:
        return kind(**_build_client_options(endpoint, transport), timeout=timeout)
    except OSError as error:
        from llm_hf_models.network.tls import make_unreadable_bundle_error

        raise make_unreadable_bundle_error(error) from None


def _build_client_options(endpoint: Endpoint, transport: Callable[..., Any]) -> dict[str, Any]:
    """Return a client's options. Local connections bypass the proxy, and redirects never receive the key."""
    import httpx2

    address = urlsplit(endpoint.base_url)
    options: dict[str, Any] = {
        "base_url": endpoint.base_url,
        "follow_redirects": False,
    }
    if endpoint.socket is not None or address.hostname in _LOOPBACK_HOSTS:
        uds = str(endpoint.socket) if endpoint.socket is not None else None
        # Loading certificates is slow, and only https needs them.
        options |= {
            "trust_env": False,
            "transport": transport(
                uds=uds, verify=httpx2.create_ssl_context() if address.scheme == "https" else False, trust_env=False
            ),
        }
    return options


def _build_request(
    client: httpx2.Client | httpx2.AsyncClient, endpoint: Endpoint, path: str, content: RequestContent
) -> httpx2.Request:
    if isinstance(content, Turn):
        body = build_request_body(content, model=endpoint.model, local_engine=endpoint.fingerprint is not None)
    elif isinstance(content, Mapping):
        body = dict(content)
    else:
        body = build_embeddings_body(content, model=endpoint.model)
    url = f"{endpoint.base_url.rstrip('/')}{path}"
    return client.build_request("POST", url, json=body, headers=_build_headers(endpoint))


def _build_headers(endpoint: Endpoint) -> dict[str, str]:
    # A persistent connection would occupy one of the engine's threads after the request is done.
    headers = {"Connection": "close"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    return headers


def _build_request_error(
    endpoint: Endpoint, content: RequestContent, response: Response, body: bytes
) -> EngineRequestError:
    """Return the error for an error response. It includes the URL if the server is remote."""
    url = str(response.url) if endpoint.fingerprint is None else None
    has_options = isinstance(content, Turn)  # other requests, such as those for embeddings, have no `-o context`
    error = build_response_error(
        response.status_code, body, url, can_grow_context=has_options and endpoint.can_grow_context
    )
    return chat_template.explain_refusal(error, endpoint) if isinstance(error, TemplateRefusedError) else error


def _handle_lost_connection(endpoint: Endpoint, error: httpx2.HTTPError) -> EngineLostError:
    """Return the error for a connection that failed, broke or timed out. If it timed out, stop the local engine."""
    import httpx2

    lost_error = _build_lost_error(endpoint, error)
    if endpoint.row is not None and isinstance(error, httpx2.TimeoutException):
        stop_engine_process(endpoint.row)
    return lost_error


def _build_lost_error(endpoint: Endpoint, error: Exception) -> EngineLostError:
    """Return the error for a connection that failed or broke. Its cause is taken from a local engine's log."""
    if endpoint.fingerprint is None:
        reason = str(error) or type(error).__name__
        message, hint = f"No response from {endpoint.base_url}", "Check that the server is running."
        if _is_tls_error(error):
            message = f"TLS connection to {endpoint.base_url} failed"
            hint = "Check its address. Set SSL_CERT_FILE if it uses a private certificate authority."
        return EngineLostError(message, cause=reason, hint=hint)
    log_errors = get_engine_folder(endpoint.row).read_log_errors() if endpoint.row else ""
    return EngineLostError(
        f"The connection to the engine of {endpoint.model} was lost",
        cause=log_errors or str(error) or type(error).__name__,
        hint="Run the prompt again to start a new engine.",
    )


def _is_tls_error(error: BaseException | None) -> bool:
    import ssl

    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None
