"""One turn over an endpoint in OpenAI's protocol: request, stream, usage; sync and async. Knows nothing of llm."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, closing
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from llm_hf_models.errors import EngineLostError, EngineRequestError
from llm_hf_models.inference import openai_protocol
from llm_hf_models.inference.engine import Endpoint
from llm_hf_models.inference.engine_folder import EngineFolder
from llm_hf_models.inference.openai_protocol import (
    Finish,
    Piece,
    ResponseParser,
    ServedModel,
    Turn,
    build_embeddings_body,
    build_request_body,
    build_response_error,
    get_request_path,
    parse_embeddings,
)

if TYPE_CHECKING:
    import httpx2
    from httpx2 import Response


CONNECT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 300.0  # llama.cpp reports after every batch and token; it says nothing to who waits in line
UNSTREAMED_TIMEOUT_SECONDS = 1800.0  # for an answer that comes only when it is whole
MAX_ERROR_BYTES = 64 * 1024
MAX_LIST_BYTES = 2**20

# A turn, texts to embed, or a ready request.
RequestContent: TypeAlias = Turn | list[str] | Mapping[str, Any]
C = TypeVar("C")
_LOOPBACK_HOSTS = {"localhost", "127.0.0.1", "::1"}


def stream_completion(
    endpoint: Endpoint, turn: Turn, *, read_timeout_seconds: float = READ_TIMEOUT_SECONDS
) -> Generator[Piece | Finish, None, None]:
    """Streams one answer; the last item is the Finish. Closing the iterator stops the engine's work on it.

    Args:
        endpoint: who is asked.
        turn: what is asked.
        read_timeout_seconds: how long it may say nothing while it is not others' turn.

    Raises:
        EngineRefusedError: it answered with an error: a wrong option, a prompt larger than the context.
        EngineLostError: it died or stopped answering.
        EngineStartError, ModelTooLargeError: it was gone, and did not start anew.
    """
    import httpx2

    with ExitStack() as stack:
        endpoint, response = _open_response(stack, endpoint, get_request_path(turn), turn, read_timeout_seconds)
        reader = ResponseParser(stream=_is_stream(response), may_grow=endpoint.can_grow_context)
        try:
            for data in response.iter_bytes():
                yield from reader.feed(data)
        except httpx2.HTTPError as error:
            raise _handle_lost_connection(endpoint, error) from None
        yield from reader.end()


async def stream_completion_async(
    endpoint: Endpoint, turn: Turn, *, read_timeout_seconds: float = READ_TIMEOUT_SECONDS
) -> AsyncGenerator[Piece | Finish, None]:
    """The same for asyncio. Close it (`aclose`) to stop the engine's work before the end."""
    import httpx2

    async with AsyncExitStack() as stack:
        endpoint, response = await _open_response_async(
            stack, endpoint, get_request_path(turn), turn, read_timeout_seconds
        )
        reader = ResponseParser(stream=_is_stream(response), may_grow=endpoint.can_grow_context)
        try:
            async for data in response.aiter_bytes():
                for piece in reader.feed(data):
                    yield piece
        except httpx2.HTTPError as error:
            raise _handle_lost_connection(endpoint, error) from None
        for last in reader.end():
            yield last


def embed(endpoint: Endpoint, texts: Sequence[str]) -> list[list[float]]:
    """One vector for each text.

    Raises:
        EngineRefusedError, EngineLostError
        EngineStartError, ModelTooLargeError: the engine was gone, and did not start anew.
    """
    import httpx2

    if not texts:
        return []
    with ExitStack() as stack:
        endpoint, response = _open_response(stack, endpoint, "/v1/embeddings", list(texts), UNSTREAMED_TIMEOUT_SECONDS)
        try:
            return parse_embeddings(response.read(), len(texts))
        except httpx2.HTTPError as error:
            raise _handle_lost_connection(endpoint, error) from None


async def send_request(stack: AsyncExitStack, endpoint: Endpoint, path: str, body: Mapping[str, Any]) -> Response:
    """Sends a ready request and waits for the answer to begin. Closing the stack stops the engine's work on it.

    Args:
        stack: what closes the connection.
        endpoint: who is asked.
        path: below the base URL.
        body: the request's JSON, with the model's name.

    Raises:
        EngineRefusedError: it answered with an error.
        EngineLostError: it died or did not answer.
        EngineStartError, ModelTooLargeError: it was gone, and did not start anew.
    """
    silence = READ_TIMEOUT_SECONDS if body.get("stream") else UNSTREAMED_TIMEOUT_SECONDS
    return (await _open_response_async(stack, endpoint, path, body, silence))[1]


async def stream_bytes(endpoint: Endpoint, response: Response) -> AsyncGenerator[bytes, None]:
    """The bytes of an answer that was passed on, as they come.

    Raises:
        EngineLostError: they broke off.
    """
    import httpx2

    try:
        async for data in response.aiter_bytes():
            yield data
    except httpx2.HTTPError as error:
        raise _handle_lost_connection(endpoint, error) from None


def list_served_models(endpoint: Endpoint, *, seconds: float) -> list[ServedModel]:
    """The models that a server says it has.

    Args:
        endpoint: who is asked.
        seconds: how long each step of it may take.

    Raises:
        EngineRefusedError: it answered with an error.
        EngineLostError: it did not answer, or not in OpenAI's protocol.
    """
    import httpx2

    url = f"{endpoint.base_url.rstrip('/')}/v1/models"
    timeout = httpx2.Timeout(seconds)
    with _create_client(httpx2.Client, httpx2.HTTPTransport, endpoint, timeout) as client:
        try:
            request = client.build_request("GET", url, headers=_build_headers(endpoint))
            with closing(client.send(request, stream=True)) as response:
                body = next(response.iter_bytes(MAX_LIST_BYTES), b"")
        except httpx2.HTTPError as error:
            raise _build_lost_error(endpoint, error) from None
    if not response.is_success:
        raise build_response_error(response.status_code, body, url)
    return openai_protocol.parse_served_models(body)


def _open_response(
    stack: ExitStack, endpoint: Endpoint, path: str, asked: RequestContent, silence: float
) -> tuple[Endpoint, Response]:
    """Sends a request and waits for the response to begin; what can be done about an engine that is gone, is done."""
    import httpx2

    renewed, timeout = False, httpx2.Timeout(silence, connect=CONNECT_SECONDS)
    while True:
        client = stack.enter_context(_create_client(httpx2.Client, httpx2.HTTPTransport, endpoint, timeout))
        try:
            response = client.send(_build_request(client, endpoint, path, asked), stream=True)
            stack.callback(response.close)
            if response.is_success:
                return endpoint, response
            body = next(response.iter_bytes(MAX_ERROR_BYTES), b"")
        except httpx2.HTTPError as error:
            endpoint, renewed = _recover_endpoint(endpoint, error, renewed=renewed)
        else:
            raise _build_refused_error(endpoint, asked, response, body)


async def _open_response_async(
    stack: AsyncExitStack, endpoint: Endpoint, path: str, asked: RequestContent, silence: float
) -> tuple[Endpoint, Response]:
    """The same for asyncio."""
    import asyncio

    import httpx2

    renewed, timeout = False, httpx2.Timeout(silence, connect=CONNECT_SECONDS)
    while True:
        made = _create_client(httpx2.AsyncClient, httpx2.AsyncHTTPTransport, endpoint, timeout)
        client = await stack.enter_async_context(made)
        try:
            response = await client.send(_build_request(client, endpoint, path, asked), stream=True)
            stack.push_async_callback(response.aclose)
            if response.is_success:
                return endpoint, response
            body = await anext(response.aiter_bytes(MAX_ERROR_BYTES), b"")
        except httpx2.HTTPError as error:
            endpoint, renewed = await asyncio.to_thread(_recover_endpoint, endpoint, error, renewed=renewed)
        else:
            raise _build_refused_error(endpoint, asked, response, body)


def _recover_endpoint(endpoint: Endpoint, error: httpx2.HTTPError, *, renewed: bool) -> tuple[Endpoint, bool]:
    """Whom to ask again after a request that brought not a byte, and whether that one is new; else raises."""
    import httpx2

    keeper = endpoint.control
    if keeper is not None and isinstance(error, httpx2.ReadTimeout) and keeper.is_working():
        return endpoint, renewed  # with others' requests: ours waits in line once more
    if keeper is not None and not isinstance(error, httpx2.TimeoutException) and not renewed:
        return keeper.reconnect(), True
    raise _handle_lost_connection(endpoint, error)


def _create_client(
    kind: Callable[..., C], transport: Callable[..., Any], endpoint: Endpoint, timeout: httpx2.Timeout
) -> C:
    """A client of httpx2's.

    Raises:
        TlsError: the certificates that the environment names can't be read.
    """
    try:
        return kind(**_build_client_options(endpoint, transport), timeout=timeout)
    except OSError as error:
        from llm_hf_models.network.tls import unreadable_bundle_error

        raise unreadable_bundle_error(error) from None


def _build_client_options(endpoint: Endpoint, transport: Callable[..., Any]) -> dict[str, Any]:
    """How to connect: a proxy is never told of this machine's own sockets, and a redirect never gets the key."""
    import httpx2

    address = urlsplit(endpoint.base_url)
    options: dict[str, Any] = {
        "base_url": endpoint.base_url,
        "follow_redirects": False,
    }
    if endpoint.socket is not None or address.hostname in _LOOPBACK_HOSTS:
        uds = str(endpoint.socket) if endpoint.socket is not None else None
        # Certificates take long to read, and are for https alone.
        options |= {
            "trust_env": False,
            "transport": transport(
                uds=uds, verify=httpx2.create_ssl_context() if address.scheme == "https" else False, trust_env=False
            ),
        }
    return options


def _build_request(
    client: httpx2.Client | httpx2.AsyncClient, endpoint: Endpoint, path: str, asked: RequestContent
) -> httpx2.Request:
    if isinstance(asked, Turn):
        body = build_request_body(asked, model=endpoint.model, local_engine=endpoint.fingerprint is not None)
    elif isinstance(asked, Mapping):
        body = dict(asked)
    else:
        body = build_embeddings_body(asked, model=endpoint.model)
    url = f"{endpoint.base_url.rstrip('/')}{path}"
    return client.build_request("POST", url, json=body, headers=_build_headers(endpoint))


def _build_headers(endpoint: Endpoint) -> dict[str, str]:
    # A kept connection would hold one of the engine's threads after its work is done.
    headers = {"Connection": "close"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    return headers


def _is_stream(response: Response) -> bool:
    """Whether it streams, by what the server says it sends: some answer in one piece whatever was asked."""
    return str(response.headers.get("content-type", "")).startswith("text/event-stream")


def _build_refused_error(
    endpoint: Endpoint, asked: RequestContent, response: Response, body: bytes
) -> EngineRequestError:
    """The error for a response that is one; of somebody else's server it says the address that was asked."""
    url = str(response.url) if endpoint.fingerprint is None else None
    ours = not isinstance(asked, Mapping)  # a ready request's asker has no options of ours
    return build_response_error(response.status_code, body, url, may_grow=ours and endpoint.can_grow_context)


def _handle_lost_connection(endpoint: Endpoint, error: httpx2.HTTPError) -> EngineLostError:
    """The error for a connection that could not be made, broke, or fell silent. A hanging engine is ended."""
    import httpx2

    lost = _build_lost_error(endpoint, error)
    if endpoint.control is not None and isinstance(error, httpx2.TimeoutException):
        endpoint.control.stop()
    return lost


def _build_lost_error(endpoint: Endpoint, error: Exception) -> EngineLostError:
    """The error for a connection that could not be made, or broke; with the engine's own last words."""
    if endpoint.fingerprint is None:
        why = str(error) or type(error).__name__
        message, hint = f"No answer from {endpoint.base_url}", "Is that server up?"
        if _is_tls_error(error):
            message = f"{endpoint.base_url} could not agree on a secure connection"
            hint = "Check its address; SSL_CERT_FILE names the certificates of authorities of your own."
        return EngineLostError(message, cause=why, hint=hint)
    words = EngineFolder(endpoint.log.parent).read_log_errors() if endpoint.log else ""
    return EngineLostError(
        f"The engine of {endpoint.model} was lost",
        cause=words or str(error) or type(error).__name__,
        hint="Ask again: a new one is started.",
    )


def _is_tls_error(error: BaseException | None) -> bool:
    import ssl

    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None
