"""How models run, as a person arranges it: kept options, where defaults come from, servers elsewhere, their health.

Starts no engine and sends no prompt.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import urlsplit

from llm_hf_models import chat, engine, free_names, model_options, settings
from llm_hf_models.chat import ServedModel
from llm_hf_models.chat_wire import MODALITIES
from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError, EngineError, HfModelsError
from llm_hf_models.gguf_facts import ModelFacts, with_template
from llm_hf_models.model_engine import (
    check_fits,
    defaults_of,
    endpoint_elsewhere,
    kept_keys,
)
from llm_hf_models.records import (
    ENDPOINT_KEY_ENV,
    ENDPOINT_KEY_NAME,
    ENDPOINT_MODEL,
    TEMPLATE,
    Health,
    LocalModel,
    ModelDefault,
)
from llm_hf_models.refs import parse_alias
from llm_hf_models.registered import REMOTE_PREFIX
from llm_hf_models.template_audit import audit

HEALTH_SECONDS = 2.0  # for all servers together: `llm hf list` waits for them
ATTACH_SECONDS = 10.0
MAX_NAMED = 8  # models of a server in a message
_ENGINE_KEYS = ("context", "keep_alive", "gpu_layers", "threads")


# Options


def set_options(context: Context, name: str, values: Mapping[str, Any], unset: Collection[str] = ()) -> LocalModel:
    """Keeps options for a model, all of them or none. They hold where a prompt doesn't give its own.

    Args:
        context: the library.
        name: the model.
        values: by name, as typed or as text; `template` is the template itself.
        unset: options to go back on.

    Raises:
        UnknownModelError: no such model.
        BadInputError: an option is unknown, out of range, not for this model, not set, or both set and unset.
    """
    if both := sorted(set(values) & set(unset)):
        raise BadInputError(f"Option {both[0][:60]!r} can't be both set and unset", hint="Leave one of the two out.")
    with context.db() as db, db.transaction():
        model = db.find(name)
        given = model_options.kept(
            values, model.model_id, embedding=model.facts.kind == "embedding", elsewhere=model.endpoint is not None
        )
        own = model.own_options
        for key in unset:
            if key not in own:
                raise BadInputError(
                    f"Option {key[:60]!r} is not set for {model.model_id}",
                    hint=f"It has {', '.join(sorted(own))}." if own else "None is.",
                )
        if TEMPLATE in given:
            _refuse_template(given[TEMPLATE])
        check_fits(replace(model, facts=with_template(model.facts, given.get(TEMPLATE))), given)
        kept = {key: value for key, value in model.options.items() if key not in unset}
        db.set_options(model.model_id, {**kept, **given})
        return db.model(model.model_id)


def _refuse_template(template: str) -> None:
    for finding in audit(template, TEMPLATE):
        if finding.severity == "error":
            raise BadInputError(f"Option 'template': {finding.message}", cause=finding.code)
        if finding.code == "template-syntax":  # of a file's own only a warning: there the engine has the last word
            raise BadInputError(f"Option 'template' can't be read: {finding.message}", cause=finding.where)


def defaults(model: LocalModel) -> tuple[ModelDefault, ...]:
    """Every default that holds for a model now, with where it comes from; what is llama.cpp's own is left out.

    Raises:
        BadInputError: what is kept for it, or a setting, is none.
    """
    found: dict[str, ModelDefault] = {}
    if model.endpoint is None:
        found |= {default.key: default for default in _engine_defaults(model)}
    for source, layer in defaults_of(model):
        found |= {key: ModelDefault(key, value, source) for key, value in layer.items()}
    return tuple(found.values())


def _engine_defaults(model: LocalModel) -> Iterator[ModelDefault]:
    """What the settings say of how an engine is loaded, as it comes out for this model."""
    now = settings.load()
    most = model.facts.context_length
    for key in _ENGINE_KEYS:
        value, source = getattr(now, key), f"setting ({settings.source_of(key)})"
        if key == "context" and most and not 0 < value <= most:
            value, source = most, "header"
        if key == "threads" and value == 0:
            value, source = engine.default_threads(), "this machine"
        yield ModelDefault(key, value, source)


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
    free_names.refuse_taken(context, [alias], kind)
    found = LocalModel(
        model_id=f"{REMOTE_PREFIX}{alias}",
        repo=None,
        revision=None,
        commit=None,
        quant="",
        files=(),
        facts=ModelFacts(kind=kind, tools=kind == "chat", modalities=_in_order(modalities)),
        endpoint=_checked_url(url),
        options=_key_options(key_env, key_name),
    )
    served = _served(found, alias, model)
    if kind == "chat":
        takes = _in_order({*modalities, *(served.modalities or ())})
        found = replace(found, facts=replace(found.facts, modalities=takes))
    with context.db() as db, db.transaction():
        own = db.register(found).own_options
        db.add_alias(alias, found.model_id)
        db.set_options(found.model_id, {**own, **found.options, ENDPOINT_MODEL: served.name})
        return db.model(found.model_id)


def _in_order(modalities: Collection[str]) -> tuple[str, ...]:
    """Those of them that can be sent."""
    return tuple(one for one in MODALITIES if one in modalities)


def _key_options(key_env: str | None, key_name: str | None) -> dict[str, str]:
    """Where the key will be found.

    Raises:
        BadInputError: in two places, or llm keeps no key of that name.
    """
    if key_env and key_name:
        raise BadInputError("A key comes from the environment or from llm's keys, not from both")
    if key_name and key_name not in kept_keys():
        # Not repeated: it may be the key itself, by mistake.
        raise BadInputError(
            "llm keeps no key of that name", hint="`llm keys` lists them, `llm keys set NAME` adds one."
        )
    return {ENDPOINT_KEY_ENV: key_env} if key_env else {ENDPOINT_KEY_NAME: key_name} if key_name else {}


def _checked_url(url: str) -> str:
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


def _served(model: LocalModel, alias: str, name: str | None) -> ServedModel:
    """Which of a server's models it is, by name or because there is no other."""
    try:
        endpoint = endpoint_elsewhere(model)
        found = chat.served_models(endpoint, seconds=ATTACH_SECONDS)
    except (EngineError, BadInputError):
        if name is None:
            raise
        return ServedModel(name)  # it may come up later, or keep its list to itself
    if name is not None:
        known = next((one for one in found if one.goes_by(name)), ServedModel(name))
        return replace(known, name=name)
    if len(found) == 1:
        return found[0]
    names = [one.name for one in found]
    listed = ", ".join(names[:MAX_NAMED]) + (" …" if len(names) > MAX_NAMED else "")
    raise BadInputError(
        f"{endpoint.base_url} serves {len(names)} models",
        cause=listed or None,
        hint=f"Say which: {_attach_command(model, alias)} --model ID",
    )


def _attach_command(model: LocalModel, alias: str) -> str:
    """The command line that attaches a model as it was asked for, all but the server's name for it."""
    words = ["llm", "hf", "attach", alias, "--endpoint", str(model.endpoint)]
    for option, key in (("--key-env", ENDPOINT_KEY_ENV), ("--key-name", ENDPOINT_KEY_NAME)):
        words += [option, str(model.options[key])] if key in model.options else []
    words += ["--kind", "embedding"] if model.facts.kind == "embedding" else []
    words += [{"image": "--images", "audio": "--audio"}[one] for one in model.facts.modalities]
    return shlex.join(words)


def healths(models: Iterable[LocalModel], *, seconds: float = HEALTH_SECONDS) -> dict[str, Health]:
    """The health of those models that are served elsewhere, by id; all are asked at once, for `seconds` at most."""
    asked = [model for model in models if model.endpoint is not None]
    found = {model.model_id: Health(model.model_id, up=False, problem="no answer in time") for model in asked}

    def ask(model: LocalModel) -> None:
        found[model.model_id] = _health(model, seconds)

    # Daemons: a server that dribbles its answer must not hold up the end of the command.
    threads = [threading.Thread(target=ask, args=(model,), daemon=True) for model in asked]
    until = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return dict(found)


def _health(model: LocalModel, seconds: float) -> Health:
    try:
        endpoint = endpoint_elsewhere(model)
    except BadInputError as error:
        return Health(model.model_id, up=None, problem=f"{_why(error)}. {error.hint or ''}".rstrip())
    try:
        found = chat.served_models(endpoint, seconds=seconds)
    except (EngineError, BadInputError) as error:
        return Health(model.model_id, up=False, problem=_why(error))
    wanted = model.options.get(ENDPOINT_MODEL)
    if wanted and found and not any(one.goes_by(wanted) for one in found):
        # It may serve it all the same: some servers take more names than they list, or any.
        return Health(model.model_id, up=True, problem=f"{model.endpoint} lists no model {wanted!r}")
    return Health(model.model_id, up=True)


def _why(error: HfModelsError) -> str:
    return f"{error.message}: {error.cause}" if error.cause else error.message
