"""Format single values, such as sizes, dates and names, for tables. An unknown value becomes an empty string."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from llm_hf_models.llm_plugin import names as llm_plugin_names
from llm_hf_models.system.json_values import to_json
from llm_hf_models.system.units import Unit, format_count, format_duration, format_size, format_typed

if TYPE_CHECKING:
    from llm_hf_models.gguf.facts import ModelFacts

SHORT_COMMIT = 12
MAX_DIGITS = 6


def format_bytes(size: int | None) -> str:
    """Return a number of bytes with its unit."""
    return "" if size is None else format_size(size)


def format_parameters(count: int | None) -> str:
    """Return a number of parameters, such as `7.2B`."""
    return format_count(count) if count else ""


def format_number(number: int | None) -> str:
    """Return a number with thousands separators."""
    return "" if number is None else f"{number:,}"


def format_tokens(count: int | None) -> str:
    """Return a context length with its unit."""
    return f"{count:,} tokens" if count else ""


def format_speed(tokens_per_second: float | None) -> str:
    """Return the speed of an engine, with one decimal below a hundred."""
    if not tokens_per_second:
        return ""
    digits = 0 if tokens_per_second >= 99.95 else 1  # noqa: PLR2004 - rounds to a hundred
    return f"{tokens_per_second:,.{digits}f} tokens/s"


def format_yes_no(value: bool | None) -> str:
    """Return `yes` or `no`, or an empty string for None."""
    return "" if value is None else "yes" if value else "no"


def join_if_present(first: str | None, second: str) -> str:
    """Return both texts, or an empty string if the first one is missing."""
    return f"{first} {second}".rstrip() if first else ""


def format_date(when: datetime | float | None) -> str:
    """Return a time to the minute in the local time zone, such as `2026-03-01 14:05 +02:00`."""
    if not when:
        return ""
    moment = when if isinstance(when, datetime) else datetime.fromtimestamp(when, timezone.utc)
    return _format_moment(moment, "minutes")


def format_time(when: float) -> str:
    """Return a time to the second in the local time zone, such as `2026-03-01 14:05:31 +02:00`."""
    return _format_moment(datetime.fromtimestamp(when, timezone.utc), "seconds")


def _format_moment(moment: datetime, precision: str) -> str:
    date, clock = moment.astimezone().isoformat(timespec=precision).split("T")
    time_of_day, zone = clock[:-6], clock[-6:]
    return f"{date} {time_of_day} {'UTC' if zone == '+00:00' else zone}"


def format_value(value: object) -> str:
    """Return a number with separators and at most six digits after rounding, a text as it is, other values as JSON."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value if isinstance(value, str) else json.dumps(to_json(value))
    if isinstance(value, int) or value.is_integer():
        return f"{int(value):,}"
    return f"{value:.{MAX_DIGITS}g}"


def format_age(then: float | datetime | None) -> str:
    """Return the time since `then` as one figure: `5 min`, `3 d`, `4 months`, `2 years`. None means never."""
    if then is None:
        return ""
    seconds = max(0.0, time.time() - (then.timestamp() if isinstance(then, datetime) else then))
    days = int(seconds // 86400)
    if days >= 730:  # noqa: PLR2004 - two years
        return f"{days // 365} years"
    if days >= 60:  # noqa: PLR2004 - two months
        return f"{days // 30} months"
    return " ".join(format_duration(seconds).split()[:2])


def format_elapsed(seconds: float) -> str:
    """Return a duration, or `under a second`."""
    return format_duration(seconds) if seconds >= 1 else "under a second"


def describe_template(has_template: bool | None, facts: ModelFacts | None) -> str | None:
    """Return whether a chat template exists and which features it supports; None if that is unknown."""
    if not has_template:
        return None if has_template is None else "none"
    features = {"tools": facts and facts.tools, "reasoning": facts and facts.reasoning}
    supported = [name for name, is_supported in features.items() if is_supported]
    return "yes" + (f", with {' and '.join(supported)}" if supported else "")


def explain_missing_aliases(model_id: str, refused: Mapping[str, str], aliases: Sequence[str], kind: str) -> list[str]:
    """Return a line for each name that does not select a model in llm, and the command that gives it another name.

    Args:
        model_id: the model.
        refused: the short names that it did not get, with the reasons.
        aliases: its aliases. llm may use one for a model of another plugin.
        kind: its kind.
    """
    taken = llm_plugin_names.list_taken_names(kind) if aliases else {}
    lines = [f"{name} {reason}." for name, reason in refused.items()]
    lines += [f"{name} is a name of another model in llm: {taken[name]}." for name in aliases if name in taken]
    return [*lines, f"Give this model another name: llm hf alias {model_id} NAME"] if lines else []


def suggest_usage(model_id: str, aliases: Sequence[str], kind: str) -> str:
    """Return the command that uses a model, with its shortest alias that llm doesn't use for another model."""
    # llm runs this command and has loaded its plugins, so no other process is needed as in models/names.py.
    taken = llm_plugin_names.list_taken_names(kind) if aliases else {}
    name = min((alias for alias in aliases if alias not in taken), key=len, default=model_id)
    if kind == "embedding":
        return f"Embed text: llm embed -m {name} -c 'hello'"
    if kind == "reranker":
        return "This model is a reranker; llm has no command for rerankers."
    if kind == "base":
        return f"This is a base model, which continues a text: llm -m {name} 'Once upon a time'"
    return f"Prompt it: llm -m {name} 'hello'"


def format_setting(value: object, unit: Unit | None = None) -> str:
    """Return a setting's value in the form that a user types, such as `5m` for 300 seconds."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float)):
        return format_typed(value, unit) if unit else f"{value:g}" if isinstance(value, float) else str(value)
    return str(value) or "(empty)"


def summarize_scans(files: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return one line for each distinct set of scanner verdicts, with the file or number of files it applies to.

    Args:
        files: scan results in the JSON form that the library stores.
    """
    paths_by_verdict: dict[str, list[str]] = {}
    for file in files:
        verdict = ", ".join(f"{scan['scanner']} {scan['status']}" for scan in file["scanners"])
        paths_by_verdict.setdefault(verdict or file["status"], []).append(file["path"])
    return [
        f"{paths[0] if len(paths) == 1 else f'{len(paths)} files'}: {verdict}"
        for verdict, paths in paths_by_verdict.items()
    ]


def format_server_url(server_address: tuple[Any, ...]) -> str:
    """Return the URL of a local server."""
    host, port = server_address[:2]
    return f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"


def explain_wildcard_host(url: str) -> list[str]:
    """Return a note for users of other machines if the server listens on all interfaces."""
    host = url.removeprefix("http://").rpartition(":")[0]
    is_wildcard = host in ("0.0.0.0", "[::]")  # noqa: S104 - the address is only compared
    return [f"From another machine, use this machine's name or address instead of {host}."] if is_wildcard else []


def format_more(count: int) -> str:
    """Return a note for a list that `--limit` has cut."""
    return f"There are more results than these {count:,}. Raise --limit to see them."


def count_things(count: int, word: str) -> str:
    """Return a number with a word, such as `1 model` and `2 models`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
