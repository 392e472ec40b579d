"""Render options, engines, remote endpoints and the relay as text. `max_width` is in columns; None means no limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli.layout import Column, format_table
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_range, format_size

if TYPE_CHECKING:
    from llm_hf_models.library.records import EndpointHealth, ModelDefault
    from llm_hf_models.library.types import ModelSummary
    from llm_hf_models.models.types import LocalModelView, SamplingValue
    from llm_hf_models.servers.openai_relay import RelayServer
    from llm_hf_models.types import EngineView

MAX_VALUE_CHARS = 60


class _HealthText(NamedTuple):
    """Texts for the health of a remote endpoint: in a table, before its problem, and after attaching it."""

    state: str
    problem_prefix: str
    attach_prefix: str


_HEALTH_TEXTS = {
    True: _HealthText("up", "is up, but", ""),
    False: _HealthText("down", "is down", "The server does not respond now: "),
    None: _HealthText("no key", "was not checked", "The server was not checked: "),
}


def render_defaults(found: Sequence[ModelDefault], max_width: int | None) -> str:
    """Return a table of the model's default options."""
    columns = [Column("OPTION"), Column("DEFAULT", min_width=16), Column("SOURCE", 1)]
    return format_table(columns, [[one.key, _format_value(one), one.source] for one in found], max_width=max_width)


def render_sampling(found: Sequence[SamplingValue], max_width: int | None) -> str:
    """Return a table of the sampling values in force."""
    columns = [Column("SAMPLING"), Column("IN FORCE", min_width=16), Column("RANGE", 2), Column("SOURCE", 1)]
    rows = [
        [
            one.key,
            "no limit" if one.value is None else cli_format.format_value(one.value),
            format_range(one.minimum, one.maximum),
            one.source,
        ]
        for one in found
    ]
    return format_table(columns, rows, max_width=max_width)


def _format_value(one: ModelDefault) -> str:
    if one.key == "template":
        return f"{len(one.value):,} characters"
    if one.key == "keep_alive":
        return cli_format.format_setting(one.value, "seconds")
    if isinstance(one.value, str):
        text = clean_text(one.value, MAX_VALUE_CHARS + 1)
        return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…"
    if isinstance(one.value, bool):
        return cli_format.format_setting(one.value)
    return cli_format.format_value(one.value)


def format_state(model: ModelSummary) -> str:
    """Return a model's state for a table, with its health if it is on a remote endpoint."""
    if model.health is None:
        return model.state
    return f"{model.state}, {_HEALTH_TEXTS[model.health.up].state}"


def format_problem(health: EndpointHealth) -> str:
    """Return a sentence about the problem of a remote endpoint."""
    return f"{health.model_id} {_HEALTH_TEXTS[health.up].problem_prefix}: {health.problem}"


def render_attached(model: LocalModelView) -> str:
    """Return the new name of a remote endpoint and the command to use it."""
    takes = f", takes {' and '.join(('text', *model.facts.modalities))}" if model.facts.modalities else ""
    lines = [f"Attached {model.id}: {model.endpoint_model} at {model.endpoint}{takes}"]
    if model.health is not None and model.health.problem:
        lines.append(_HEALTH_TEXTS[model.health.up].attach_prefix + model.health.problem)
    if model.key_in_the_clear:
        lines.append("The API key is sent unencrypted. Use https outside a trusted network.")
    return "\n".join([*map(clean_text, lines), cli_format.suggest_usage(model.id, model.aliases, model.kind)])


def render_relay(url: str, server: RelayServer, *, key_given: bool, open_to_others: bool) -> str:
    """Return how to use the OpenAI relay, with its key if the relay generated it."""
    names = sorted(set(server.names.values()))
    lines = [
        f"Serving {', '.join(names)} through an OpenAI-compatible API.",
        f"export OPENAI_BASE_URL={url}/v1",
        *cli_format.explain_wildcard_host(url),
    ]
    if not key_given:
        lines.append(f"export OPENAI_API_KEY={server.key}")
    if open_to_others:
        lines.append("Anyone who can reach this address and knows the key can use these models. Nothing is encrypted.")
    return "\n".join([*lines, "Press Ctrl-C to stop."])


def render_engines(running: Sequence[EngineView], max_width: int | None) -> str:
    """Return a table of running engines."""
    columns = [
        Column("MODEL", min_width=24, keep_end=True),
        Column("MEMORY", 1, right=True),
        Column("CONTEXT", 5, right=True),
        Column("UPTIME", 3, right=True),
        Column("IDLE", 2, right=True),
        Column("SPEED", 4, right=True),
        Column("PID", 6, right=True),
        Column("CONFINED BY", 7, extra=True),
        Column("ADDRESS", 8, extra=True),
    ]
    rows = [
        [
            engine.id,
            format_size(engine.memory_bytes) if engine.memory_bytes else "",
            cli_format.format_number(engine.context),
            cli_format.format_age(engine.started),
            cli_format.format_age(engine.last_used),
            cli_format.format_speed(engine.tokens_per_second),
            str(engine.pid),
            ", ".join(engine.layers) or "nothing",
            engine.address,
        ]
        for engine in running
    ]
    return format_table(columns, rows, max_width=max_width)


def render_missing_layers(running: Sequence[EngineView]) -> str:
    """Return a line with the reason for each missing sandbox layer, or an empty string."""
    return "\n".join(
        clean_text(f"{engine.id} (PID {engine.pid}) runs without {layer}: {reason}")
        for engine in running
        for layer, reason in engine.missing.items()
    )


def render_stopped(count: int) -> str:
    """Return the number of stopped engines as a sentence."""
    return f"Stopped {count} {'engine' if count == 1 else 'engines'}." if count else "No engine was running."
