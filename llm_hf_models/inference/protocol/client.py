"""Complete turns and embed texts at an endpoint in OpenAI's protocol, with or without asyncio."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing, closing
from typing import TYPE_CHECKING, Any

from llm_hf_models.errors import TemplateRefusedError
from llm_hf_models.inference.engine import Endpoint
from llm_hf_models.inference.protocol import chat_template, openai_protocol
from llm_hf_models.inference.protocol.endpoint_requests import (
    READ_TIMEOUT_SECONDS,
    Reconnect,
    build_headers,
    build_lost_error,
    create_client,
    handle_lost_connection,
    open_response,
    open_response_async,
)
from llm_hf_models.inference.protocol.loop_detection import LoopDetector
from llm_hf_models.inference.protocol.openai_protocol import (
    Finish,
    Piece,
    ServedModel,
    Turn,
    build_response_error,
    get_request_path,
    parse_embeddings,
)
from llm_hf_models.inference.protocol.piece_redactor import PieceRedactor
from llm_hf_models.inference.protocol.response_parser import ResponseParser
from llm_hf_models.inference.protocol.tool_calls import ToolCall
from llm_hf_models.redaction import redact_bytes

if TYPE_CHECKING:
    from httpx2 import Response


UNSTREAMED_TIMEOUT_SECONDS = 1800.0  # for a response that arrives in one piece
MAX_LIST_BYTES = 2**20


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


class _TurnReader:
    """Reads the bytes of a response to a turn, without secrets, and ends a response that loops."""

    def __init__(self, endpoint: Endpoint, turn: Turn) -> None:
        self._parser = ResponseParser(can_grow_context=endpoint.can_grow_context)
        self._redactor, self._detector = PieceRedactor(), LoopDetector(turn.loop_limit)

    def feed(self, data: bytes) -> Iterator[Piece | Finish]:
        """Yield the pieces in the next bytes. If the response loops, the last item is its Finish."""
        for piece in self._redactor.clean_text(self._parser.feed(data)):
            yield piece
            if self._detector.is_loop(piece.text):
                yield Finish(openai_protocol.LOOP, output_tokens=self._detector.count)
                return

    def end(self) -> Iterator[Piece | ToolCall | Finish]:
        """Yield what is known only after the last byte."""
        yield from self._redactor.clean_end(self._parser.end())


def _stream_turn(
    endpoint: Endpoint, turn: Turn, reconnect: Reconnect | None, read_timeout: float
) -> Generator[Piece | ToolCall | Finish, None, None]:
    import httpx2

    with ExitStack() as stack:
        endpoint, response = open_response(stack, endpoint, get_request_path(turn), turn, read_timeout, reconnect)
        reader = _TurnReader(endpoint, turn)
        try:
            for data in response.iter_bytes():
                for item in reader.feed(data):
                    yield item
                    if isinstance(item, Finish):
                        return
        except httpx2.HTTPError as error:
            raise handle_lost_connection(endpoint, error) from None
        yield from reader.end()


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
        endpoint, response = await open_response_async(stack, endpoint, path, turn, read_timeout, reconnect)
        reader = _TurnReader(endpoint, turn)
        try:
            async for data in response.aiter_bytes():
                for item in reader.feed(data):
                    yield item
                    if isinstance(item, Finish):
                        return
        except httpx2.HTTPError as error:
            raise handle_lost_connection(endpoint, error) from None
        for last in reader.end():
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
        endpoint, response = open_response(
            stack, endpoint, "/v1/embeddings", list(texts), UNSTREAMED_TIMEOUT_SECONDS, reconnect
        )
        try:
            return parse_embeddings(response.read(), len(texts))
        except httpx2.HTTPError as error:
            raise handle_lost_connection(endpoint, error) from None


def request_json(endpoint: Endpoint, path: str, body: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
    """Send a request to a local engine and return its response.

    Raises:
        EngineRequestError: The engine returned an error.
        EngineLostError: The connection failed, broke or timed out, or the response is not JSON.
    """
    import httpx2

    with ExitStack() as stack:
        endpoint, response = open_response(stack, endpoint, path, body, READ_TIMEOUT_SECONDS, None)
        try:
            return json.loads(response.read())
        except (httpx2.HTTPError, ValueError) as error:
            raise build_lost_error(endpoint, error) from None


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
    return (await open_response_async(stack, endpoint, path, body, read_timeout, reconnect))[1]


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
        raise handle_lost_connection(endpoint, error) from None


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
    with create_client(httpx2.Client, httpx2.HTTPTransport, endpoint, timeout) as client, limit_time(seconds):
        watch_client(client)
        try:
            request = client.build_request("GET", url, headers=build_headers(endpoint))
            with closing(client.send(request, stream=True)) as response:
                body = next(response.iter_bytes(MAX_LIST_BYTES), b"")
        except httpx2.TimeoutException:
            raise build_lost_error(endpoint, TimeoutError(f"timed out after {seconds:g} s")) from None
        except httpx2.HTTPError as error:
            raise build_lost_error(endpoint, error) from None
    if not response.is_success:
        raise build_response_error(response.status_code, body, url)
    return openai_protocol.parse_served_models(redact_bytes(body))
