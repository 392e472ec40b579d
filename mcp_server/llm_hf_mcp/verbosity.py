"""Shorten the rows of an answer, so that more of them fit on a page: `short`, `normal` or `full`.

At `full`, a row has every field of `llm hf … --json`. At the other levels it has fewer, and no
alias that is another alias with its quantization.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

Level = Literal["short", "normal", "full"]
Verbosity = Annotated[
    Level,
    Field(
        description="Fields of each row: `short` has the most important ones, `normal` those for a choice, "
        "`full` all of them, with fewer rows on a page"
    ),
]
COMMIT_CHARS = 12


@dataclass(frozen=True)
class RowFields:
    """The fields of one kind of row, by the level that adds them. Those in `optional` are left out without a value."""

    always: tuple[str, ...]
    short: tuple[str, ...] = ()
    normal: tuple[str, ...] = ()
    optional: tuple[str, ...] = ("update_note",)


_UPDATE = ("update_available", "update_note")
ROWS: dict[str, RowFields] = {
    "models": RowFields(
        always=("id", "state", "size_bytes"),
        short=("update_available",),
        normal=("aliases", "kind", "endpoint", "freed_bytes", "added", "last_used", "commit", "update_note", "fix"),
        optional=("endpoint", "update_note", "fix"),
    ),
    "results": RowFields(
        always=("id",),
        short=("parameters", "license", "fits", "local_models", *_UPDATE),
        normal=(
            "task", "size_bytes", "downloads", "likes", "created", "updated", "gated", "private", "architecture",
            "context_length",
        ),
    ),
    "variants": RowFields(
        always=("quant", "size_bytes"),
        short=("fit", "chosen", "local_model", *_UPDATE),
        normal=("bits_per_weight", "shards", "mmproj", "mmproj_bytes"),
    ),
    "downloads": RowFields(
        always=("id", "ref", "state", "total_bytes", "done_bytes"),
        short=("requested_action", "error", "needs_worker"),
        normal=(
            "repo", "quant", "bytes_per_second", "remaining_seconds", "requested_by", "background", "created",
            "updated",
        ),
    ),
}  # fmt: skip
# Fields of a whole answer that `short` leaves out.
_ONLY_LONGER = ("tags", "facts", "base_models", "library", "likes", "downloads", "created", "author", "freshness")


def shorten_row(kind: str, row: Mapping[str, Any], level: Level) -> dict[str, Any]:
    """Return a row of an answer, as JSON, with the fields of a level. A row of another kind is not changed."""
    fields = ROWS.get(kind)
    if level == "full" or fields is None or not set(fields.always) <= row.keys():
        return dict(row)
    names = (*fields.always, *fields.short, *(fields.normal if level == "normal" else ()))
    kept = {name: row[name] for name in names if name in row and (row[name] or name not in fields.optional)}
    return {name: _shorten_value(name, value, level) for name, value in kept.items()}


def _shorten_value(name: str, value: Any, level: Level) -> Any:  # noqa: ANN401 - any JSON value
    if name == "fit" and level == "short" and value:
        return {"fits": value["fits"]}
    if name == "aliases":
        return [alias for alias in value if alias.partition(":")[0] == alias or alias.partition(":")[0] not in value]
    if name == "commit" and value:
        return value[:COMMIT_CHARS]
    return value


def shorten_answer(answer: Mapping[str, Any], level: Level) -> dict[str, Any]:
    """Return an answer, as JSON, with shorter rows."""
    kinds = [kind for kind in ROWS if isinstance(answer.get(kind), list)]
    left_out = _ONLY_LONGER if level == "short" else ()
    kept = {name: value for name, value in answer.items() if name in kinds or name not in left_out}
    return {**kept, **{kind: [shorten_row(kind, row, level) for row in answer[kind]] for kind in kinds}}


def relax_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an answer whose rows may have been shortened: fewer fields are required."""
    kinds = [kind for kind in ROWS if "items" in schema["properties"].get(kind, ())]  # `downloads` may be a number
    definitions = dict(schema.get("$defs", {}))
    for kind in kinds:
        name = schema["properties"][kind]["items"]["$ref"].rpartition("/")[2]
        definitions[name] = {**definitions[name], "required": list(ROWS[kind].always)}
    if "Fit" in definitions:
        definitions["Fit"] = {**definitions["Fit"], "required": ["fits"]}
    needed = [name for name in schema["required"] if name not in _ONLY_LONGER or name in kinds]
    return {**schema, "required": needed, "$defs": definitions}
