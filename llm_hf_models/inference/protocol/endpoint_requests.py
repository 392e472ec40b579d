"""Open a request to an endpoint: connect, restart a local engine that has ended, and explain errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from llm_hf_models.errors import EngineLostError, EngineRequestError, TemplateRefusedError
from llm_hf_models.inference.engine import Endpoint
from llm_hf_models.inference.protocol import chat_template
from llm_hf_models.inference.protocol.openai_protocol import (
    Turn,
    build_embeddings_body,
    build_request_body,
    build_response_error,
)
from llm_hf_models.inference.running_engines import count_busy_slots, get_engine_folder, stop_engine_process
from llm_hf_models.system.text import describe_error

if TYPE_CHECKING:
    import httpx2
    from httpx2 import Response


CONNECT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 300.0  # llama.cpp sends data after every batch and token, but nothing to queued requests
MAX_ERROR_BYTES = 64 * 1024

# A turn, a list of texts to embed, or the complete JSON body of a request.
RequestContent: TypeAlias = Turn | list[str | list[int]] | Mapping[str, Any]
Reconnect: TypeAlias = Callable[[], Endpoint]  # finds the model's engine again, or starts a new one
C = TypeVar("C")
_LOOPBACK_HOSTS = {"localhost", "127.0.0.1", "::1"}


def open_response(
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
        client = stack.enter_context(create_client(httpx2.Client, httpx2.HTTPTransport, endpoint, timeout))
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


async def open_response_async(
    stack: AsyncExitStack,
    endpoint: Endpoint,
    path: str,
    content: RequestContent,
    read_timeout: float,
    reconnect: Reconnect | None,
) -> tuple[Endpoint, Response]:
    """Send a request with asyncio, as `open_response` does."""
    import asyncio

    import httpx2

    timeout = httpx2.Timeout(read_timeout, connect=CONNECT_SECONDS)
    while True:
        new_client = create_client(httpx2.AsyncClient, httpx2.AsyncHTTPTransport, endpoint, timeout)
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
    raise handle_lost_connection(endpoint, error)


def create_client(
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
    return client.build_request("POST", url, json=body, headers=build_headers(endpoint))


def build_headers(endpoint: Endpoint) -> dict[str, str]:
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


def handle_lost_connection(endpoint: Endpoint, error: httpx2.HTTPError) -> EngineLostError:
    """Return the error for a connection that failed, broke or timed out. If it timed out, stop the local engine."""
    import httpx2

    lost_error = build_lost_error(endpoint, error)
    if endpoint.row is not None and isinstance(error, httpx2.TimeoutException):
        stop_engine_process(endpoint.row)
    return lost_error


def build_lost_error(endpoint: Endpoint, error: Exception) -> EngineLostError:
    """Return the error for a connection that failed or broke. Its cause is taken from a local engine's log."""
    if endpoint.fingerprint is None:
        reason = describe_error(error)
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
