"""The verbs of `Library` about running models: prompts, their options, engines and other servers."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from llm_hf_models.context import Context
    from llm_hf_models.models.types import LocalModelView, PromptResult
    from llm_hf_models.types import EngineView


class RunningVerbs:
    """The verbs about prompts and the processes that answer them."""

    _context: Context

    def prompt(
        self,
        name: str,
        text: str,
        *,
        system: str | None = None,
        options: Mapping[str, Any] | None = None,
        stop: threading.Event | None = None,
    ) -> PromptResult:
        """Send one short prompt to a local model, and return the complete response.

        Args:
            name: The model's id, an alias, or its repo.
            text: The prompt.
            system: A system prompt that replaces the model's own.
            options: The options that `llm -o` accepts, such as max_tokens, temperature and seed.
            stop: Ends the prompt with InterruptedByUserError when set.
        """
        from llm_hf_models.models.local import prompt as models_prompt

        return models_prompt.prompt(
            self._context, name, text, system=system, options=dict(options or {}), stop=stop or threading.Event()
        )

    def set_options(self, name: str, values: Mapping[str, Any], unset: Collection[str] = ()) -> LocalModelView:
        """Store default options of a model. A prompt's own options take precedence.

        Args:
            name: The model.
            values: The options by name, typed or as text, such as temperature, context and system. The value of
                `template` is the template itself.
            unset: The options to reset to their defaults.
        """
        from llm_hf_models.models.local import default_options, views

        return views.make_full_view(default_options.set_options(self._context, name, values, unset))

    @staticmethod
    def list_options() -> dict[str, str]:
        """Return the options that `set_options` accepts, with their descriptions."""
        from llm_hf_models.inference.protocol import options

        return {key: field.description or "" for key, field in options.StoredOptions.model_fields.items()}

    def attach(
        self,
        name: str,
        endpoint: str,
        *,
        key_env: str | None = None,
        key_name: str | None = None,
        model: str | None = None,
        kind: Literal["chat", "embedding"] = "chat",
        modalities: Collection[str] = (),
    ) -> LocalModelView:
        """Register a model that a server offers in OpenAI's protocol.

        Args:
            name: The name of the model in this library.
            endpoint: The address of the server, with or without /v1.
            key_env: The environment variable that contains the API key. The key itself is never stored.
            key_name: Alternatively, the name of the key among llm's keys (`llm keys set NAME`).
            model: The server's name for the model. With None, the server must offer exactly one model.
            kind: The kind of model.
            modalities: The input that the model accepts besides text (image, audio), if the server does not report it.
        """
        from llm_hf_models.models.local import remote_endpoints, views

        attached = remote_endpoints.attach(
            self._context,
            name,
            endpoint,
            key_env=key_env,
            key_name=key_name,
            model=model,
            kind=kind,
            modalities=modalities,
        )
        return views.make_full_view(attached, remote_endpoints.check_health([attached])[attached.model_id])

    def list_engines(self) -> tuple[EngineView, ...]:
        """List the running llama.cpp processes."""
        from llm_hf_models import status as status_module
        from llm_hf_models.inference import running_engines

        with self._context.open_database() as db:
            return tuple(status_module.make_engine_view(row) for row in running_engines.list_running_engines(db))

    def stop_engines(self, name: str | None = None) -> int:
        """Stop the engines of one local model, or all engines. Return the number of stopped engines."""
        from llm_hf_models.inference import running_engines

        with self._context.open_database() as db:
            return running_engines.stop_engines(db, None if name is None else db.find_model(name).model_id)
