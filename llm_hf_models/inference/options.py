"""What a person can set for a model or for one prompt: names, ranges, meaning. Sends nothing and loads nothing.

One definition for `llm -o`, for a model's kept options and for the sampling that a header recommends. The names are
those of llama.cpp's server (tools/server/README.md), so that most go into a request as they stand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from llm_hf_models.errors import BadInputError
from llm_hf_models.system.text import suggest_word
from llm_hf_models.system.units import parse_duration

MAX_SEED = 2**32 - 1

# How an engine is loaded, or what becomes another field: not part of a request as they stand.
_NOT_IN_REQUEST = frozenset({"context", "threads", "gpu_layers", "keep_alive", "json_object", "think"})

# general.sampling.* (llama.cpp: src/llama-arch.cpp) where its word is not the option's.
# Those of generation_config.json are transformers' (GenerationConfig).
_SAMPLING_NAMES = {"temp": "temperature", "penalty_repeat": "repeat_penalty", "repetition_penalty": "repeat_penalty"}
_GENERATION_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_EMBEDDING_OPTIONS = frozenset({"context", "threads", "gpu_layers", "keep_alive"})  # what means something there
_ENGINE_OPTIONS = _EMBEDDING_OPTIONS | {"template"}  # what means nothing to a server elsewhere
_SWITCHES = {"on": "on", "true": "on", "yes": "on", "off": "off", "false": "off", "no": "off"}


def _parse_keep_alive(value: object) -> object:
    """Seconds from `5m`, `300` or `-1`."""
    if not isinstance(value, str) or value.strip().startswith("-"):
        return value
    try:
        return parse_duration(value)
    except BadInputError as error:
        raise ValueError(f"{error.message}: {error.hint}") from None


def _parse_think(value: object) -> object:
    """`on`, `off`, or a number of tokens as text."""
    if isinstance(value, bool):
        return "on" if value else "off"
    text = str(value).strip().lower()
    if text in _SWITCHES:
        return _SWITCHES[text]
    if text.isascii() and text.isdigit():
        return text
    raise ValueError("Input should be on, off or a number of tokens")


def _parse_stop(value: object) -> object:
    """A list from the JSON that a command line gives; any other text is the text itself."""
    if isinstance(value, str) and value.startswith("["):
        try:
            found = json.loads(value)
        except json.JSONDecodeError:
            return value
        return found if isinstance(found, list) and found and all(isinstance(one, str) for one in found) else value
    return value


def _parse_logit_bias(value: object) -> object:
    """A mapping from the JSON that a command line gives."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ValueError('Input should be a JSON object such as {"15043": -100, " the": 5}')  # noqa: TRY004 - pydantic's
    return found


Number = Annotated[float, Field(allow_inf_nan=False)]


class ModelOptions(BaseModel):
    """Every option, its range and what it does. What isn't set is the model's own default, or llama.cpp's."""

    # Building the validator is left to the first prompt: `llm models` has no use for it.
    model_config = ConfigDict(extra="forbid", defer_build=True)

    temperature: Number | None = Field(
        None, ge=0, le=10, description="How freely tokens are chosen: 0 always takes the likeliest."
    )
    top_p: Number | None = Field(
        None, ge=0, le=1, description="Keep the likeliest tokens up to this summed probability."
    )
    top_k: int | None = Field(None, ge=0, description="Keep so many of the likeliest tokens; 0 keeps all.")
    min_p: Number | None = Field(
        None, ge=0, le=1, description="Drop tokens less likely than this part of the likeliest one's probability."
    )
    repeat_penalty: Number | None = Field(
        None, ge=0, le=10, description="Divide the odds of tokens that occurred already; 1 leaves them."
    )
    presence_penalty: Number | None = Field(
        None, ge=-2, le=2, description="Lower (or, negative, raise) the odds of tokens that occurred at all."
    )
    frequency_penalty: Number | None = Field(
        None, ge=-2, le=2, description="Lower (or, negative, raise) the odds of tokens by how often they occurred."
    )
    mirostat: int | None = Field(
        None, ge=0, le=2, description="Keep the text's perplexity steady with Mirostat 1 or 2; 0 is off."
    )
    mirostat_tau: Number | None = Field(None, ge=0, description="Mirostat's target entropy.")
    mirostat_eta: Number | None = Field(None, ge=0, description="Mirostat's learning rate.")
    seed: int | None = Field(
        None, ge=-1, le=MAX_SEED, description="The same seed and prompt give the same answer; -1 draws one."
    )
    max_tokens: int | None = Field(None, ge=1, description="End the answer after so many tokens.")
    stop: Annotated[str | list[str] | None, BeforeValidator(_parse_stop)] = Field(
        None, description="End the answer before this text, or before any of a JSON list of texts."
    )
    logit_bias: Annotated[dict[str, Number] | None, BeforeValidator(_parse_logit_bias)] = Field(
        None, description="Raise or lower the odds of tokens, by id or text, as a JSON object; -100 forbids."
    )
    grammar: str | None = Field(None, description="A GBNF grammar that the answer must match.")
    json_object: bool | None = Field(None, description="Answer with a valid JSON object.")
    think: Annotated[str | None, BeforeValidator(_parse_think)] = Field(
        None, description="Whether a model that can reason does so first: on, off, or how many tokens it may spend."
    )
    context: int | None = Field(
        None, ge=1, description="Context length in tokens; another one than before loads the model again."
    )
    threads: int | None = Field(None, ge=1, le=1024, description="Threads to compute with.")
    gpu_layers: int | None = Field(None, ge=-1, description="Layers to put on a GPU; -1 is all of them.")
    keep_alive: Annotated[Number | None, BeforeValidator(_parse_keep_alive)] = Field(
        None, ge=-1, description="How long the idle model stays in memory: 30s, 5m, 2h; 0 leaves at once, -1 stays."
    )

    def get_set_values(self) -> dict[str, Any]:
        """Those that were set."""
        return {key: value for key, value in self if value is not None}


class StoredOptions(ModelOptions):
    """What a person keeps for a model: the options of a prompt, and what llm has words of its own for."""

    system: str | None = Field(None, description="System prompt where the prompt brings none.")
    template: str | None = Field(
        None, min_length=1, description="Chat template (Jinja) instead of the header's; on the command line, its file."
    )


def validate_for_model(
    values: Mapping[str, Any], whose: str, *, embedding: bool = False, remote: bool = False
) -> dict[str, Any]:
    """Options that a person wants to keep for a model, validated.

    Args:
        values: by name; text as a command line gives it will do.
        whose: the model, for the message.
        embedding: it only embeds, so that sampling and words mean nothing to it.
        remote: its engine is not ours, so that what loads an engine means nothing to it.

    Raises:
        BadInputError: one of them is unknown, out of range, or means nothing here; the message names it.
    """
    found = validate_stored_options(values, whose)
    useless = (found.keys() - _EMBEDDING_OPTIONS if embedding else set()) | (
        found.keys() & _ENGINE_OPTIONS if remote else set()
    )
    if useless:
        key = min(useless)
        kind = "a model that is served elsewhere" if remote and key in _ENGINE_OPTIONS else "an embedding model"
        raise BadInputError(f"Option {key!r} of {whose}: it means nothing to {kind}")
    return found


def validate_options(values: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """Options that were kept earlier, validated now.

    Args:
        values: by name.
        whose: what they belong to, for the message.

    Raises:
        BadInputError: one of them is unknown or out of range; the message names it.
    """
    return _validate(ModelOptions, values, whose)


def _validate(kind: type[ModelOptions], values: Mapping[str, Any], whose: str) -> dict[str, Any]:
    try:
        return kind.model_validate(dict(values)).get_set_values()
    except ValidationError as error:
        first = error.errors()[0]
        key, said, hint = str(first["loc"][0]), first["msg"], None
        if first["type"] == "extra_forbidden":
            said = "there is no such option"
            hint = f"{suggest_word(key, kind.model_fields)}There are {', '.join(kind.model_fields)}."
        raise BadInputError(f"Option {key[:60]!r} of {whose}: {said}", hint=hint) from None


def validate_stored_options(values: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """The same for what a model keeps: KeptOptions."""
    return _validate(StoredOptions, values, whose)


def extract_sampling(generation_config: object) -> dict[str, float]:
    """The sampling that a repo's generation_config.json recommends, as it stands there; empty for nonsense."""
    if not isinstance(generation_config, dict) or generation_config.get("do_sample") is False:
        return {}  # greedy: transformers ignores the rest then
    values = {key: generation_config.get(key) for key in _GENERATION_NAMES}
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def convert_sampling(sampling: Mapping[str, float]) -> dict[str, Any]:
    """The options that a header's `general.sampling.*` sets, less what is no valid option: it comes from outside."""
    found: dict[str, Any] = {}
    for key, value in sampling.items():
        try:
            found |= ModelOptions.model_validate({_SAMPLING_NAMES.get(key, key): value}).get_set_values()
        except ValidationError:
            continue  # another sampler's, or out of range
    return {key: value for key, value in found.items() if key not in _NOT_IN_REQUEST}


def build_request_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request to llama.cpp's server for these options."""
    fields = {key: value for key, value in options.items() if key not in _NOT_IN_REQUEST}
    think = options.get("think")
    if think is not None:
        fields["chat_template_kwargs"] = {"enable_thinking": think not in ("off", "0")}
        if think.isdigit():
            fields["thinking_budget_tokens"] = int(think)
    return fields
