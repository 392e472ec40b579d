"""The library's models as llm's model classes: sync, async and embedding.

`llm models` imports this module too, so modules that only a prompt needs are imported when a prompt runs.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, closing, contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import click
import llm
from llm.models import AsyncConversation, AsyncResponse, Conversation, EmbeddingModel, Response
from llm.parts import StreamEvent

from llm_hf_models.library.registered_models import REMOTE_PREFIX, RegisteredModel
from llm_hf_models.llm_plugin.attachments import list_accepted_types

if TYPE_CHECKING:
    from llm_hf_models.errors import HfModelsError
    from llm_hf_models.llm_plugin.run import PromptRun

EMBEDDING_BATCH = 32  # texts in one request


class ModelFailure(llm.ModelError, click.ClickException):
    """An HfModelsError in the form that `llm` and `llm chat` print: message, cause and hint.

    `__cause__` is the original error.
    """

    def __init__(self, error: HfModelsError) -> None:
        click.ClickException.__init__(self, str(error))


@contextmanager
def _translate_errors() -> Iterator[None]:
    from llm_hf_models.errors import HfModelsError

    try:
        yield
    except HfModelsError as error:
        raise ModelFailure(error) from error


@functools.cache
def _create_options_class() -> type[llm.Options]:
    from llm_hf_models.inference.protocol.options import ModelOptions

    class Options(ModelOptions, llm.Options):
        """The options of a local model."""

    return Options


class _LazyOptions:
    """Create the options class on first access: creating it is slow, and `llm models` does not need it."""

    def __get__(self, instance: object, owner: type) -> type[llm.Options]:
        return _create_options_class()


class _BaseHfModel:
    """The code that the sync and the async models share."""

    can_stream = True
    supports_schema = True
    Options = _LazyOptions()
    attachment_types: set[str] | frozenset[str]

    def __init__(self, model: RegisteredModel) -> None:
        self.model_id = model.model_id
        self.supports_tools = model.tools and model.kind == "chat"
        self.supports_conversation = model.kind != "base"
        self.attachment_types = list_accepted_types(model.modalities, remote=model.model_id.startswith(REMOTE_PREFIX))

    def __str__(self) -> str:
        kind = "Hugging Face (async)" if isinstance(self, llm.AsyncModel) else "Hugging Face"
        return f"{kind}: {self.model_id}"


class HfModel(_BaseHfModel, llm.Model):  # type: ignore[misc]  # Options is created lazily
    """A local chat or base model."""

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: Response,
        conversation: Conversation | None = None,  # noqa: ARG002 - llm's signature
    ) -> Iterator[StreamEvent]:
        """Run one turn. Closing the generator cancels the request; the engine keeps running.

        Raises:
            ModelFailure: Any HfModelsError occurred.
        """
        yield from _stream_response(self.model_id, prompt, response, stream=stream)


class AsyncHfModel(_BaseHfModel, llm.AsyncModel):  # type: ignore[misc]  # Options is created lazily
    """A local chat or base model, for asyncio."""

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: AsyncResponse,
        conversation: AsyncConversation | None = None,  # noqa: ARG002
    ) -> AsyncGenerator[StreamEvent, None]:
        """Run one turn. The model is loaded in a thread, so that the event loop is not blocked.

        Raises:
            ModelFailure: Any HfModelsError occurred.
        """
        async with aclosing(_stream_response_async(self.model_id, prompt, response, stream=stream)) as events:
            async for event in events:
                yield event


class _KeyMixin:
    """Accept `--key` for a remote endpoint: a key, or the name of a key stored in llm.

    Without `--key`, the endpoint's stored key is used.
    """

    def get_key(self, explicit_key: str | None = None) -> str | None:
        """Return the key given for this prompt."""
        return llm.get_key(input=explicit_key) if explicit_key else None


class RemoteModel(_KeyMixin, _BaseHfModel, llm.KeyModel):  # type: ignore[misc]  # Options is created lazily
    """A model on a remote endpoint."""

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: Response,
        conversation: Conversation | None = None,  # noqa: ARG002
        key: str | None = None,
    ) -> Iterator[StreamEvent]:
        """Run one turn, as HfModel.execute does."""
        yield from _stream_response(self.model_id, prompt, response, stream=stream, key=key)


class AsyncRemoteModel(_KeyMixin, _BaseHfModel, llm.AsyncKeyModel):  # type: ignore[misc]  # Options is created lazily
    """A model on a remote endpoint, for asyncio."""

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: AsyncResponse,
        conversation: AsyncConversation | None = None,  # noqa: ARG002
        key: str | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        """Run one turn, as AsyncHfModel.execute does."""
        async with aclosing(_stream_response_async(self.model_id, prompt, response, stream=stream, key=key)) as events:
            async for event in events:
                yield event


def create_models(model: RegisteredModel) -> tuple[_BaseHfModel, _BaseHfModel]:
    """Return the sync and the async model that llm registers for one model of the library."""
    if model.model_id.startswith(REMOTE_PREFIX):
        return RemoteModel(model), AsyncRemoteModel(model)
    return HfModel(model), AsyncHfModel(model)


def _stream_response(
    model_id: str, prompt: llm.Prompt, response: Response, *, stream: bool, key: str | None = None
) -> Iterator[StreamEvent]:
    from llm_hf_models.inference.protocol import client
    from llm_hf_models.llm_plugin import run as prompt_run

    with _translate_errors(), prompt_run.open_database() as db:
        continued = response.conversation is not None
        prepare = functools.partial(
            prompt_run.prepare_prompt, model_id, prompt, db, stream=stream, is_continued=continued, key=key
        )
        run = prepare()
        with closing(client.stream_completion(run.endpoint, run.turn, reconnect=lambda: prepare().endpoint)) as items:
            for item in items:
                yield from run.process_item(item)
        yield from run.finish(response, db)


async def _stream_response_async(
    model_id: str, prompt: llm.Prompt, response: AsyncResponse, *, stream: bool, key: str | None = None
) -> AsyncGenerator[StreamEvent, None]:
    import asyncio

    from llm_hf_models.inference.protocol import client
    from llm_hf_models.llm_plugin import run as prompt_run

    def prepare() -> PromptRun:
        continued = response.conversation is not None
        with prompt_run.open_database() as db:
            return prompt_run.prepare_prompt(model_id, prompt, db, stream=stream, is_continued=continued, key=key)

    def finish() -> list[StreamEvent]:
        with prompt_run.open_database() as db:
            return run.finish(response, db)

    with _translate_errors():
        run = await asyncio.to_thread(prepare)
        async with aclosing(
            client.stream_completion_async(run.endpoint, run.turn, reconnect=lambda: prepare().endpoint)
        ) as items:
            async for item in items:
                for event in run.process_item(item):
                    yield event
        for event in await asyncio.to_thread(finish):
            yield event


class HfEmbeddingModel(_KeyMixin, EmbeddingModel):
    """An embedding model of the library."""

    batch_size = EMBEDDING_BATCH

    def __init__(self, model: RegisteredModel) -> None:
        self.model_id = model.model_id

    def __str__(self) -> str:
        return f"Hugging Face: {self.model_id}"

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        """Yield a vector for each text, embedding one batch at a time.

        Raises:
            ModelFailure: Any HfModelsError occurred.
        """
        from llm_hf_models.inference import model_endpoint
        from llm_hf_models.inference.protocol import embeddings
        from llm_hf_models.llm_plugin import run as prompt_run

        texts, start, connected = iter(items), 0, None
        with _translate_errors(), prompt_run.open_database() as db:
            connect = functools.partial(prompt_run.start_embedding_endpoint, self.model_id, db, key=key)
            while batch := [str(text) for text in islice(texts, EMBEDDING_BATCH)]:
                endpoint, truncate = connected = connected or connect()
                # Recorded for each batch and not after the loop, because llm may stop after one vector.
                model_endpoint.record_use(self.model_id, endpoint, db)
                yield from embeddings.embed_texts(
                    endpoint, batch, start=start, truncate=truncate, reconnect=lambda: connect()[0]
                )
                start += len(batch)
