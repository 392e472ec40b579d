"""Figures and names as short words for tables; empty where there is nothing to say. Lays nothing out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from llm_hf_models.llm_plugin import names as llm_plugin_names
from llm_hf_models.system.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from llm_hf_models.gguf.facts import ModelFacts

SHORT_COMMIT = 12


def format_bytes(size: int | None) -> str:
    """Bytes with a unit."""
    return "" if size is None else format_size(size)


def format_parameters(count: int | None) -> str:
    """A number of parameters: `7.2B`."""
    return format_count(count) if count else ""


def format_number(number: int | None) -> str:
    """A number with its thousands set apart."""
    return "" if number is None else f"{number:,}"


def format_tokens(count: int | None) -> str:
    """A context length."""
    return f"{count} tokens" if count else ""


def format_yes_no(value: bool | None) -> str:
    """Yes, no or nothing."""
    return "" if value is None else "yes" if value else "no"


def join_if_present(first: str | None, second: str) -> str:
    """Both, or nothing where there is no first."""
    return f"{first} {second}".rstrip() if first else ""


def format_date(when: datetime | float | None) -> str:
    """`2026-03-01 14:05` in this machine's time zone."""
    if not when:
        return ""
    moment = when if isinstance(when, datetime) else datetime.fromtimestamp(when, timezone.utc)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def format_time(when: float) -> str:
    """`2026-03-01 14:05:31`: a moment among others, to the second."""
    return datetime.fromtimestamp(when, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def format_age(then: float | datetime | None) -> str:
    """How long ago, in one figure: `5 min`, `3 d`, `4 months`, `2 years`. Empty for never."""
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
    """How long something took."""
    return format_duration(seconds) if seconds >= 1 else "under a second"


def describe_template(there: bool | None, facts: ModelFacts | None) -> str | None:
    """Whether there is a chat template, and what it speaks of; None where that isn't known."""
    if not there:
        return None if there is None else "none"
    spoken_of = {"tools": facts and facts.tools, "reasoning": facts and facts.reasoning}
    more = [word for word, holds in spoken_of.items() if holds]
    return "yes" + (f", with {' and '.join(more)}" if more else "")


def suggest_usage(model_id: str, aliases: Sequence[str], kind: str) -> str:
    """The command that uses a model: in it its shortest name, of those that llm doesn't give to another one."""
    taken = llm_plugin_names.list_taken_names(kind) if aliases else {}
    name = min((alias for alias in aliases if alias not in taken), key=len, default=model_id)
    if kind == "embedding":
        return f"Embed with it: llm embed -m {name} -c 'hello'"
    if kind == "reranker":
        return "It is a reranker: llm has no command for one."
    return f"Talk to it: llm -m {name} 'hello'"


def format_setting(value: object) -> str:
    """A setting's value as a person would write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if value != "" else "(empty)"


def summarize_scans(files: Iterable[Mapping[str, Any]]) -> list[str]:
    """Each scanner's word, a line for all files of which the very same was said. As the library keeps them (JSON)."""
    same: dict[str, list[str]] = {}
    for file in files:
        said = ", ".join(f"{word['scanner']} {word['status']}" for word in file["scanners"])
        same.setdefault(said or file["status"], []).append(file["path"])
    return [f"{paths[0] if len(paths) == 1 else f'{len(paths)} files'}: {said}" for said, paths in same.items()]


def format_server_url(server_address: tuple[Any, ...]) -> str:
    """Where a server of ours answers."""
    host, port = server_address[:2]
    return f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"


def explain_wildcard_host(url: str) -> list[str]:
    """What other machines must know of an address that stands for all of this machine's."""
    host = url.removeprefix("http://").rpartition(":")[0]
    everywhere = host in ("0.0.0.0", "[::]")  # noqa: S104 - what was bound is told, nothing is bound
    return [f"On another machine write this machine's name or address for {host}."] if everywhere else []
