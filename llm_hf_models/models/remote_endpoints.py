"""Models served by another server: register them and check that they answer."""

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
from llm_hf_models.inference import client as inference_client
from llm_hf_models.inference.model_endpoint import build_remote_endpoint, read_llm_keys
from llm_hf_models.inference.openai_protocol import MODALITIES, ServedModel
from llm_hf_models.library.records import (
    ENDPOINT_KEY_ENV,
    ENDPOINT_KEY_NAME,
    ENDPOINT_MODEL,
    EndpointHealth,
    LocalModel,
)
from llm_hf_models.library.registered_models import REMOTE_PREFIX
from llm_hf_models.models import names as models_names
from llm_hf_models.models.default_options import ATTACH_SECONDS, HEALTH_SECONDS, MAX_LISTED_MODELS

# Servers elsewhere


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
    """Registers a model that is served elsewhere in OpenAI's protocol; of the same name, in the place of an older one.

    The server is asked for its models: one that serves a single one needs no `model`, and some servers say what theirs
    take beside text.

    Args:
        context: the library.
        name: what to call it here.
        url: the server's address, with or without /v1.
        key_env: the environment variable that holds the key.
        key_name: the name of the key among llm's.
        model: what the server calls it.
        kind: what it is for.
        modalities: what it takes beside text, whatever the server says: image, audio.

    Raises:
        BadInputError: no such name or address, a key that is not set, a server with several models.
        NameTakenError: the name is another model's, here or in llm.
        EngineError: the server does not answer, and `model` is not given.
    """
    alias = parse_alias(name)
    if kind == "embedding" and modalities:
        raise BadInputError("An embedding model takes text alone")
    models_names.refuse_taken_names(context, [alias], kind)
    found = LocalModel(
        model_id=f"{REMOTE_PREFIX}{alias}",
        repo=None,
        revision=None,
        commit=None,
        quant="",
        files=(),
        facts=ModelFacts(kind=kind, tools=kind == "chat", modalities=_sort_modalities(modalities)),
        endpoint=_check_url(url),
        options=_build_key_options(key_env, key_name),
    )
    served = _find_served_model(found, alias, model)
    if kind == "chat":
        takes = _sort_modalities({*modalities, *(served.modalities or ())})
        found = replace(found, facts=replace(found.facts, modalities=takes))
    with context.open_library() as db, db.transaction():
        own = db.register(found).user_options
        db.add_alias(alias, found.model_id)
        db.set_options(found.model_id, {**own, **found.options, ENDPOINT_MODEL: served.name})
        return db.get_model(found.model_id)


def _sort_modalities(modalities: Collection[str]) -> tuple[str, ...]:
    """Those of them that can be sent."""
    return tuple(one for one in MODALITIES if one in modalities)


def _build_key_options(key_env: str | None, key_name: str | None) -> dict[str, str]:
    """Where the key will be found.

    Raises:
        BadInputError: in two places, or llm keeps no key of that name.
    """
    if key_env and key_name:
        raise BadInputError("A key comes from the environment or from llm's keys, not from both")
    if key_name and key_name not in read_llm_keys():
        # Not repeated: it may be the key itself, by mistake.
        raise BadInputError(
            "llm keeps no key of that name", hint="`llm keys` lists them, `llm keys set NAME` adds one."
        )
    return {ENDPOINT_KEY_ENV: key_env} if key_env else {ENDPOINT_KEY_NAME: key_name} if key_name else {}


def _check_url(url: str) -> str:
    """The base address, without a trailing slash.

    Raises:
        BadInputError: it is none.
    """
    try:
        parts = urlsplit(url.strip())
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        plain = not (parts.username or parts.password or parts.query or parts.fragment)
    except ValueError:
        whole = plain = False
    if not whole or not plain:
        raise BadInputError(
            f"{url[:100]!r} is no server's address",
            hint="Write it like http://gpu-box:8000/v1; a key goes into the environment (--key-env VAR).",
        )
    return url.strip().rstrip("/")


def _find_served_model(model: LocalModel, alias: str, name: str | None) -> ServedModel:
    """Which of a server's models it is, by name or because there is no other."""
    try:
        endpoint = build_remote_endpoint(model)
        found = inference_client.list_served_models(endpoint, seconds=ATTACH_SECONDS)
    except (EngineError, BadInputError):
        if name is None:
            raise
        return ServedModel(name)  # it may come up later, or keep its list to itself
    if name is not None:
        known = next((one for one in found if one.has_name(name)), ServedModel(name))
        return replace(known, name=name)
    if len(found) == 1:
        return found[0]
    names = [one.name for one in found]
    listed = ", ".join(names[:MAX_LISTED_MODELS]) + (" …" if len(names) > MAX_LISTED_MODELS else "")
    raise BadInputError(
        f"{endpoint.base_url} serves {len(names)} models",
        cause=listed or None,
        hint=f"Say which: {_format_attach_command(model, alias)} --model ID",
    )


def _format_attach_command(model: LocalModel, alias: str) -> str:
    """The command line that attaches a model as it was asked for, all but the server's name for it."""
    words = ["llm", "hf", "attach", alias, "--endpoint", str(model.endpoint)]
    for option, key in (("--key-env", ENDPOINT_KEY_ENV), ("--key-name", ENDPOINT_KEY_NAME)):
        words += [option, str(model.options[key])] if key in model.options else []
    words += ["--kind", "embedding"] if model.facts.kind == "embedding" else []
    words += [{"image": "--images", "audio": "--audio"}[one] for one in model.facts.modalities]
    return shlex.join(words)


def check_health(models: Iterable[LocalModel], *, seconds: float = HEALTH_SECONDS) -> dict[str, EndpointHealth]:
    """The health of those models that are served elsewhere, by id; all are asked at once, for `seconds` at most."""
    asked = [model for model in models if model.endpoint is not None]
    found = {model.model_id: EndpointHealth(model.model_id, up=False, problem="no answer in time") for model in asked}

    def ask(model: LocalModel) -> None:
        found[model.model_id] = _check_endpoint_health(model, seconds)

    # Daemons: a server that dribbles its answer must not hold up the end of the command.
    threads = [threading.Thread(target=ask, args=(model,), daemon=True) for model in asked]
    until = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return dict(found)


def _check_endpoint_health(model: LocalModel, seconds: float) -> EndpointHealth:
    try:
        endpoint = build_remote_endpoint(model)
    except BadInputError as error:
        return EndpointHealth(model.model_id, up=None, problem=f"{_format_problem(error)}. {error.hint or ''}".rstrip())
    try:
        found = inference_client.list_served_models(endpoint, seconds=seconds)
    except (EngineError, BadInputError) as error:
        return EndpointHealth(model.model_id, up=False, problem=_format_problem(error))
    wanted = model.options.get(ENDPOINT_MODEL)
    if wanted and found and not any(one.has_name(wanted) for one in found):
        # It may serve it all the same: some servers take more names than they list, or any.
        return EndpointHealth(model.model_id, up=True, problem=f"{model.endpoint} lists no model {wanted!r}")
    return EndpointHealth(model.model_id, up=True)


def _format_problem(error: HfModelsError) -> str:
    return f"{error.message}: {error.cause}" if error.cause else error.message
