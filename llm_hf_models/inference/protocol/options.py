"""Options for a model or a single prompt: their names, ranges and descriptions.

The same definition serves `llm -o`, the options stored for a model, and the sampling that a header recommends. Most
names are those of llama.cpp's server (tools/server/README.md), so they are sent unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from llm_hf_models.errors import BadInputError
from llm_hf_models.system.text import suggest_word
from llm_hf_models.system.units import format_range, parse_duration, parse_tokens

MAX_SEED = 2**32 - 1
DEFAULT_LOOP_LIMIT = 1000  # tokens

# What applies if nobody sets these options: values of llama.cpp (common_params_sampling; a test compares them with the
# installed version), and of this package. None means no limit.
SAMPLING_DEFAULTS: Mapping[str, float | None] = {
    "temperature": 0.8,
    "top_p": 0.95,
    "top_k": 40,
    "min_p": 0.05,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "mirostat": 0,
    "seed": -1,
    "max_tokens": None,
    "loop_limit": DEFAULT_LOOP_LIMIT,
}

# Options for reasoning: the general one, the variables of chat templates that switch it, and OpenAI's field.
THINK, THINK_VARIABLES, REASONING_EFFORT = "think", ("enable_thinking", "thinking"), "reasoning_effort"

# Options that configure the engine or are translated into another field, so they are not sent unchanged.
_NOT_IN_REQUEST = frozenset(
    {
        "context",
        "threads",
        "gpu_layers",
        "keep_alive",
        "json_object",
        "loop_limit",
        "kind",
        "pooling",
        "truncate",
        THINK,
    }
).union(THINK_VARIABLES)

# Names that differ from the option's, in headers (general.sampling.*, llama.cpp: src/llama-arch.cpp) and in
# generation_config.json (transformers' GenerationConfig).
_SAMPLING_NAMES = {"temp": "temperature", "penalty_repeat": "repeat_penalty", "repetition_penalty": "repeat_penalty"}
MAX_SAMPLING_VALUE = 1e9  # of a repo; a larger number is a mistake, and may not fit into a float
_GENERATION_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_ONLY_FOR_EMBEDDING = frozenset({"pooling", "truncate"})
_EMBEDDING_OPTIONS = _ONLY_FOR_EMBEDDING | {"context", "threads", "gpu_layers", "keep_alive", "kind"}
_ENGINE_OPTIONS = _EMBEDDING_OPTIONS | {"template"}  # that remote endpoints don't support

# Fields of requests with the same effect. If a prompt has one of them, stored options of its group do not apply.
_SAME_EFFECT = (
    {"max_tokens", "max_completion_tokens", "n_predict"},
    {"grammar", "json_object", "json_schema", "response_format", "tools", "functions"},
    {"repeat_penalty", "repetition_penalty"},
    {
        THINK, *THINK_VARIABLES, REASONING_EFFORT, "chat_template_kwargs", "reasoning", "reasoning_budget",
        "thinking_budget_tokens",
    },
)  # fmt: skip
_SWITCHES = {"on": "on", "true": "on", "yes": "on", "off": "off", "false": "off", "no": "off"}


def _parse_keep_alive(value: object) -> object:
    """Convert a duration such as `5m`, `300` or `-1` to seconds."""
    if not isinstance(value, str) or value.strip().startswith("-"):
        return value
    try:
        return parse_duration(value)
    except BadInputError as error:
        raise ValueError(f"{error.message}: {error.hint}") from None


def _parse_think(value: object) -> object:
    """Convert a value to `on`, `off`, or a number of tokens as text."""
    if isinstance(value, bool):
        return "on" if value else "off"
    text = str(value).strip().lower()
    if text in _SWITCHES:
        return _SWITCHES[text]
    try:
        return str(parse_tokens(text))
    except BadInputError:
        raise ValueError("Input should be on, off or a number of tokens") from None


def _parse_tokens(value: object) -> object:
    """Convert a number of tokens such as `16k`; return a value that is not text, or is negative, unchanged."""
    if not isinstance(value, str) or value.strip().startswith("-"):
        return value
    try:
        return parse_tokens(value)
    except BadInputError as error:
        raise ValueError(f"{error.message}: {error.hint}" if error.hint else error.message) from None


def _parse_effort(value: object) -> object:
    """Convert text to lower case; return any other value unchanged."""
    return value.strip().lower() if isinstance(value, str) else value


def _parse_stop(value: object) -> object:
    """Convert a JSON list of strings to a list; return any other value unchanged."""
    if isinstance(value, str) and value.startswith("["):
        try:
            texts = json.loads(value)
        except json.JSONDecodeError:
            return value
        return texts if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts) else value
    return value


def _parse_logit_bias(value: object) -> object:
    """Convert a JSON object to a mapping; return a value that is not text unchanged."""
    if not isinstance(value, str):
        return value
    try:
        biases = json.loads(value)
    except json.JSONDecodeError:
        biases = None
    if not isinstance(biases, dict):
        raise ValueError('Input should be a JSON object such as {"15043": -100, " the": 5}')  # noqa: TRY004 - pydantic needs it
    return biases


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Tokens = Annotated[int, BeforeValidator(_parse_tokens)]  # such as 16k
Number = Annotated[float, Field(allow_inf_nan=False)]


class ModelOptions(BaseModel):
    """Every option with its range and description. An unset option has the model's default, or llama.cpp's."""

    # Build the validator at the first prompt, because `llm models` does not need it.
    model_config = ConfigDict(extra="forbid", defer_build=True)

    temperature: Number | None = Field(
        None,
        ge=0,
        le=10,
        description="Sampling temperature: higher is more random, 0 always picks the likeliest token.",
    )
    top_p: Number | None = Field(
        None, ge=0, le=1, description="Sample from the likeliest tokens whose probabilities add up to this value."
    )
    top_k: int | None = Field(None, ge=0, description="Sample from this many of the likeliest tokens; 0 is all.")
    min_p: Number | None = Field(
        None, ge=0, le=1, description="Minimum probability of a token, relative to the likeliest token."
    )
    repeat_penalty: Number | None = Field(
        None, ge=0, le=10, description="Penalty that divides the odds of repeated tokens; 1 turns it off."
    )
    presence_penalty: Number | None = Field(
        None, ge=-2, le=2, description="Penalty for tokens that occurred before; negative values favor them."
    )
    frequency_penalty: Number | None = Field(
        None, ge=-2, le=2, description="Penalty for tokens by how often they occurred; negative values favor them."
    )
    mirostat: int | None = Field(
        None,
        ge=0,
        le=2,
        description="Version of Mirostat sampling, which targets a fixed perplexity: 1 or 2; 0 is off.",
    )
    mirostat_tau: Number | None = Field(None, ge=0, description="Mirostat's target entropy.")
    mirostat_eta: Number | None = Field(None, ge=0, description="Mirostat's learning rate.")
    seed: int | None = Field(
        None, ge=-1, le=MAX_SEED, description="Random seed, for a reproducible response; -1 picks one at random."
    )
    max_tokens: Tokens | None = Field(None, ge=1, description="Maximum number of tokens to generate.")
    loop_limit: Tokens | None = Field(
        None,
        ge=0,
        le=100_000,
        description="Stop a response that has repeated the same text for this many tokens; 0 never stops it.",
    )
    stop: Annotated[str | list[str] | None, BeforeValidator(_parse_stop)] = Field(
        None, description="Text that ends the response, or a JSON list of texts."
    )
    logit_bias: Annotated[dict[str, Number] | None, BeforeValidator(_parse_logit_bias)] = Field(
        None, description="Biases for tokens, by id or text, as a JSON object; -100 forbids a token."
    )
    grammar: str | None = Field(None, description="GBNF grammar that the response must match.")
    json_object: bool | None = Field(None, description="Respond with a valid JSON object.")
    think: Annotated[str | None, BeforeValidator(_parse_think)] = Field(
        None, description="Reasoning before the response: on, off, or a maximum number of tokens."
    )
    enable_thinking: bool | None = Field(
        None, description="Value of this variable for the chat template: on or off. `think` sets it too."
    )
    thinking: bool | None = Field(
        None, description="Value of this variable for the chat template: on or off. `think` sets it too."
    )
    reasoning_effort: Annotated[Effort | None, BeforeValidator(_parse_effort)] = Field(
        None, description="How much to reason: none, minimal, low, medium, high, xhigh or max."
    )
    context: Tokens | None = Field(
        None, ge=1, description="Context length in tokens, such as 16k; a change loads the model again."
    )
    threads: int | None = Field(None, ge=1, le=1024, description="Number of CPU threads.")
    gpu_layers: int | None = Field(None, ge=-1, description="Number of layers to run on a GPU; -1 is all.")
    keep_alive: Annotated[Number | None, BeforeValidator(_parse_keep_alive)] = Field(
        None,
        ge=-1,
        description="How long the idle model stays in memory, such as 30s or 5m; 0 unloads at once, -1 never.",
    )

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 - pydantic's parameters
        """Return the JSON schema. Each description includes the range and the default, for `llm models --options`."""
        schema = super().model_json_schema(*args, **kwargs)
        for key, field in schema["properties"].items():
            limits = format_range(*get_range(key))
            default = SAMPLING_DEFAULTS.get(key)
            added = [f"Range: {limits}." if limits else "", f"Default: {default:g}." if default is not None else ""]
            field["description"] = " ".join(filter(None, [field.get("description", ""), *added]))
        return schema

    def get_set_values(self) -> dict[str, Any]:
        """Return the options that were set."""
        return {key: value for key, value in self if value is not None}


class StoredOptions(ModelOptions):
    """Options that can be stored for a model: those of a prompt, and those that only `llm hf set` accepts."""

    system: str | None = Field(None, description="Default system prompt.")
    template: str | None = Field(
        None,
        min_length=1,
        description="Chat template (Jinja) that replaces the header's; on the command line, its file.",
    )
    kind: Literal["chat", "base", "embedding"] | None = Field(
        None, description="Kind of model, if the header doesn't tell it: chat, base or embedding."
    )
    pooling: Literal["mean", "cls", "last"] | None = Field(
        None, description="How an embedding model combines the vectors of its tokens: mean, cls or last."
    )
    truncate: bool | None = Field(None, description="Cut texts to embed that are longer than the context.")


def get_range(key: str) -> tuple[float | None, float | None]:
    """Return the smallest and the largest value of an option. None means no limit, or that it is no number."""
    limits = ModelOptions.model_fields[key].metadata
    minimum, maximum = (
        next((getattr(one, name) for one in limits if hasattr(one, name)), None) for name in ("ge", "le")
    )
    return minimum, maximum


def validate_for_model(
    values: Mapping[str, Any], owner: str, *, embedding: bool = False, remote: bool = False
) -> dict[str, Any]:
    """Validate options before they are stored for a model.

    Args:
        values: The options by name. A value may be text from the command line.
        owner: The model's name, for the error message.
        embedding: Whether it is an embedding model, which supports no sampling options or prompts.
        remote: Whether it runs on a remote endpoint, which supports no engine options.

    Raises:
        BadInputError: An option is unknown, out of range or not supported; the message names it.
    """
    options = validate_stored_options(values, owner)
    unsupported = options.keys() - _EMBEDDING_OPTIONS if embedding else options.keys() & _ONLY_FOR_EMBEDDING
    unsupported |= options.keys() & _ENGINE_OPTIONS if remote else set()
    if unsupported:
        key = min(unsupported)
        if remote and key in _ENGINE_OPTIONS:
            raise BadInputError(f"Option {key!r} of {owner}: not supported by a model on a remote endpoint")
        if embedding:
            raise BadInputError(f"Option {key!r} of {owner}: not supported by an embedding model")
        raise BadInputError(
            f"Option {key!r} of {owner}: supported only by an embedding model", hint="If it is one: kind embedding"
        )
    return options


def validate_options(values: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Validate the options of a prompt.

    Args:
        values: The options by name.
        owner: The owner of the options, for the error message.

    Raises:
        BadInputError: An option is unknown or out of range; the message names it.
    """
    return _validate(ModelOptions, values, owner)


def _validate(kind: type[ModelOptions], values: Mapping[str, Any], owner: str) -> dict[str, Any]:
    try:
        return kind.model_validate(dict(values)).get_set_values()
    except ValidationError as error:
        first = error.errors()[0]
        key, message, hint = str(first["loc"][0]), first["msg"], None
        if first["type"] == "extra_forbidden":
            message = "there is no such option"
            hint = f"{suggest_word(key, kind.model_fields)}Options: {', '.join(kind.model_fields)}."
        raise BadInputError(f"Option {key[:60]!r} of {owner}: {message}", hint=hint) from None


def validate_stored_options(values: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Validate the options stored for a model, as `validate_options` does."""
    return _validate(StoredOptions, values, owner)


def extract_sampling(generation_config: object) -> dict[str, float]:
    """Return the numeric sampling values of a repo's generation_config.json, with the file's own names."""
    if not isinstance(generation_config, dict) or generation_config.get("do_sample") is False:
        return {}  # greedy decoding, for which transformers ignores the other values
    values = {key: generation_config.get(key) for key in _GENERATION_NAMES}
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MAX_SAMPLING_VALUE
    }


def convert_sampling(sampling: Mapping[str, float]) -> dict[str, Any]:
    """Return the options that match recommended sampling values. Leave out unknown and invalid ones."""
    options: dict[str, Any] = {}
    for key, value in sampling.items():
        try:
            options |= ModelOptions.model_validate({_SAMPLING_NAMES.get(key, key): value}).get_set_values()
        except ValidationError:
            continue  # an unknown sampler, or out of range
    return {key: value for key, value in options.items() if key not in _NOT_IN_REQUEST}


def drop_overridden(stored: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Return the stored options that still apply to a prompt.

    Args:
        stored: Options that are stored for the model.
        given: Names of the options, or fields of a request, that the prompt has. A schema is `json_schema`.
    """
    overridden = set(given).union(*(group for group in _SAME_EFFECT if not group.isdisjoint(given)))
    return {key: value for key, value in stored.items() if key not in overridden}


def combine_layers(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of two layers, of which the upper one takes precedence.

    An option of the upper layer also replaces those of the lower one with the same effect.
    """
    return drop_overridden(lower, upper) | dict(upper)


def build_request_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request to llama.cpp's server for these options."""
    fields = {key: value for key, value in options.items() if key not in _NOT_IN_REQUEST}
    think, variables = options.get(THINK), {}
    if think is not None:
        # Templates differ in the variable that they read. Most of them read the first.
        variables = dict.fromkeys(THINK_VARIABLES, think not in ("off", "0"))
        if think != "on":
            fields["thinking_budget_tokens"] = int(think) if think.isdigit() else 0
    variables |= {name: options[name] for name in THINK_VARIABLES if options.get(name) is not None}
    if variables:
        fields["chat_template_kwargs"] = variables
    return fields
