"""Register models that another server offers, and check that these servers respond."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Literal
from urllib.parse import urlsplit

from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError, EngineError, HfModelsError
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.hub.refs import parse_alias
from llm_hf_models.inference.model_endpoint import build_remote_endpoint, read_llm_keys
from llm_hf_models.inference.protocol import client as inference_client
from llm_hf_models.inference.protocol.openai_protocol import MODALITIES, ServedModel
from llm_hf_models.library.records import (
    ENDPOINT_KEY_ENV,
    ENDPOINT_KEY_NAME,
    ENDPOINT_MODEL,
    EndpointHealth,
    LocalModel,
)
from llm_hf_models.library.registered_models import REMOTE_PREFIX
from llm_hf_models.models import names as models_names

HEALTH_SECONDS = 2.0  # for all servers together, because `llm hf list` waits for them
ATTACH_SECONDS = 5.0  # timeout for listing a server's models
MAX_LISTED_MODELS = 8  # maximum number of a server's models in a message


def attach(
    context: Context,
    name: str,
    url: str,
    *,
    key_env: str | None,
    key_name: str | None,
    model: str | None,
    kind: Literal["chat", "embedding"],
    modalities: Collection[str],
) -> LocalModel:
    """Register a model that another server offers in OpenAI's protocol. It replaces an older one with the same name.

    The server lists its models: with a single one, `model` is not needed. Some servers also report the modalities.

    Args:
        context: The context with the library.
        name: The name of the model in this library.
        url: The address of the server, with or without /v1.
        key_env: The environment variable that contains the API key.
        key_name: The name of the API key among llm's keys.
        model: The server's name for the model.
        kind: The kind of model.
        modalities: The input that the model accepts besides text, in addition to what the server reports: image, audio.

    Raises:
        BadInputError: The name or address is invalid, the key is not set, or the server has several models.
        NameTakenError: Another model, in the library or in llm, has the name.
        EngineError: The server does not respond, and `model` is not given.
    """
    alias = parse_alias(name)
    if kind == "embedding" and modalities:
        raise BadInputError("An embedding model accepts only text")
    models_names.refuse_taken_names([alias], kind)
    local_model = LocalModel(
        model_id=f"{REMOTE_PREFIX}{alias}",
        repo=None,
        revision=None,
        commit=None,
        quant="",
        files=(),
        facts=ModelFacts(kind=kind, tools=kind == "chat", modalities=_sort_modalities(modalities)),
        endpoint=check_url(url),
        options=_build_key_options(key_env, key_name),
    )
    served = _find_served_model(local_model, alias, model)
    if kind == "chat":
        accepted = _sort_modalities({*modalities, *(served.modalities or ())})
        local_model = replace(local_model, facts=replace(local_model.facts, modalities=accepted))
    with context.open_database() as db, db.transaction():
        user_options = db.register(local_model).user_options
        db.add_alias(alias, local_model.model_id)
        db.set_options(local_model.model_id, {**user_options, **local_model.options, ENDPOINT_MODEL: served.name})
        return db.get_model(local_model.model_id)


def _sort_modalities(modalities: Collection[str]) -> tuple[str, ...]:
    """Return the supported modalities, in their usual order."""
    return tuple(modality for modality in MODALITIES if modality in modalities)


def _build_key_options(key_env: str | None, key_name: str | None) -> dict[str, str]:
    """Return the option that names where the API key is stored.

    Raises:
        BadInputError: Two places are given, or llm has no key of that name.
    """
    if key_env and key_name:
        raise BadInputError("Options for an environment variable and an llm key can't be combined")
    if key_name and key_name not in read_llm_keys():
        # The message does not repeat the name, because the user may have given the key itself by mistake.
        raise BadInputError(
            "llm has no key of that name", hint="List the keys with `llm keys`, or add one with `llm keys set NAME`."
        )
    return {ENDPOINT_KEY_ENV: key_env} if key_env else {ENDPOINT_KEY_NAME: key_name} if key_name else {}


def check_url(url: str) -> str:
    """Return the base address without a trailing slash.

    Raises:
        BadInputError: The address is invalid.
    """
    try:
        parts = urlsplit(url.strip())
        is_complete = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        is_plain = not (parts.username or parts.password or parts.query or parts.fragment)
    except ValueError:
        is_complete = is_plain = False
    if not is_complete or not is_plain:
        raise BadInputError(
            f"{url[:100]!r} is not the address of a server",
            hint="Use an address such as http://gpu-box:8000/v1. Put an API key into the environment (--key-env VAR).",
        )
    return url.strip().rstrip("/")


def _find_served_model(model: LocalModel, alias: str, name: str | None) -> ServedModel:
    """Return the server's model with that name, or its only model."""
    try:
        endpoint = build_remote_endpoint(model)
        served = inference_client.list_served_models(endpoint, seconds=ATTACH_SECONDS)
    except (EngineError, BadInputError):
        if name is None:
            raise
        return ServedModel(name)  # the server may start later, or not support listing its models
    if name is not None:
        known = next((candidate for candidate in served if candidate.has_name(name)), ServedModel(name))
        return replace(known, name=name)
    if len(served) == 1:
        return served[0]
    names = [candidate.name for candidate in served]
    listed = ", ".join(names[:MAX_LISTED_MODELS]) + (" …" if len(names) > MAX_LISTED_MODELS else "")
    raise BadInputError(
        f"{endpoint.base_url} serves {len(names)} models",
        cause=listed or None,
        hint=f"Choose one: {_format_attach_command(model, alias)} --model ID",
    )


def _format_attach_command(model: LocalModel, alias: str) -> str:
    """Format the command line that attaches the model, without the option `--model`."""
    command = ["llm", "hf", "attach", alias, "--endpoint", str(model.endpoint)]
    for option, key in (("--key-env", ENDPOINT_KEY_ENV), ("--key-name", ENDPOINT_KEY_NAME)):
        command += [option, str(model.options[key])] if key in model.options else []
    command += ["--kind", "embedding"] if model.facts.kind == "embedding" else []
    command += [{"image": "--images", "audio": "--audio"}[modality] for modality in model.facts.modalities]
    return shlex.join(command)


def check_health(models: Iterable[LocalModel], *, seconds: float = HEALTH_SECONDS) -> dict[str, EndpointHealth]:
    """Check all remote models at once, for at most `seconds`. Return their health by model id."""
    remote = [model for model in models if model.endpoint is not None]
    health = {model.model_id: EndpointHealth(model.model_id, up=False, problem="timed out") for model in remote}

    def check(model: LocalModel) -> None:
        health[model.model_id] = _check_endpoint_health(model, seconds)

    # Daemon threads, so that a server with a slow response does not delay the end of the command.
    threads = [threading.Thread(target=check, args=(model,), daemon=True) for model in remote]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(health)


def _check_endpoint_health(model: LocalModel, seconds: float) -> EndpointHealth:
    try:
        endpoint = build_remote_endpoint(model)
    except BadInputError as error:
        return EndpointHealth(model.model_id, up=None, problem=f"{_format_problem(error)}. {error.hint or ''}".rstrip())
    try:
        served = inference_client.list_served_models(endpoint, seconds=seconds)
    except (EngineError, BadInputError) as error:
        return EndpointHealth(model.model_id, up=False, problem=_format_problem(error))
    name = model.options.get(ENDPOINT_MODEL)
    if name and served and not any(candidate.has_name(name) for candidate in served):
        # The server may still offer it: some servers accept more names than they list, or any name.
        return EndpointHealth(model.model_id, up=True, problem=f"{model.endpoint} does not list the model {name!r}")
    return EndpointHealth(model.model_id, up=True)


def _format_problem(error: HfModelsError) -> str:
    return f"{error.message}: {error.cause}" if error.cause else error.message
