"""Compare two lockfiles, or this machine with one. Facts are left out: they are the history of a machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llm_hf_models.lockfiles.types import LockChange, LockDiff, LockedModel, Lockfile
from llm_hf_models.system.json_values import to_json
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_size

_ABOUT = ("license", "task", "gated", "private")
_IDENTITY = ("quant", "repo", "revision", "commit", "endpoint", "endpoint_model", "key_env", "key_name", "kind")
MAX_VALUE_CHARS = 200


def diff_lockfiles(before: Lockfile, after: Lockfile) -> LockDiff:
    """Return the changes from one lockfile to another, sorted by model."""
    old, new = ({model.id: model for model in lockfile.models} for lockfile in (before, after))
    changes: list[LockChange] = []
    for model_id in sorted({*old, *new}, key=str.casefold):
        changes += _compare_entries(old.get(model_id), new.get(model_id), model_id)
    return LockDiff(tuple(changes))


def _compare_entries(before: LockedModel | None, after: LockedModel | None, model_id: str) -> list[LockChange]:
    if before is None or after is None:
        return [LockChange(model_id, "model", *(_summarize(model) for model in (before, after)))]
    return [*compare_models(before, after), *_compare_values(model_id, "", _list_facts(before), _list_facts(after))]


def compare_models(before: LockedModel, after: LockedModel) -> list[LockChange]:
    """Return the changes that make one model the other, without the Hub's descriptions such as the licence."""
    found: list[LockChange] = []
    parts: tuple[tuple[str, Mapping[str, object], Mapping[str, object]], ...] = (
        ("", _list_identity(before), _list_identity(after)),
        ("files ", _list_files(before), _list_files(after)),
        ("options ", before.options, after.options),
        ("", {"template": before.template}, {"template": after.template}),
        ("alias ", {alias: alias for alias in before.aliases}, {alias: alias for alias in after.aliases}),
        ("modality ", {one: one for one in before.modalities}, {one: one for one in after.modalities}),
    )
    for prefix, old, new in parts:
        found += _compare_values(after.id, prefix, old, new)
    return found


def _list_identity(model: LockedModel) -> dict[str, object]:
    return {name: getattr(model, name) or None for name in _IDENTITY}


def _list_files(model: LockedModel) -> dict[str, object]:
    return {file.path: f"{file.digest} ({file.size_bytes} bytes, {file.role})" for file in model.files}


def _list_facts(model: LockedModel) -> dict[str, object]:
    sampling = {f"generation_config {key}": value for key, value in model.generation_config.items()}
    return {**{name: getattr(model, name) or None for name in _ABOUT}, **sampling}


def _compare_values(
    model_id: str, prefix: str, before: Mapping[str, object], after: Mapping[str, object]
) -> Iterator[LockChange]:
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if old != new:
            yield LockChange(model_id, f"{prefix}{key}", *(None if value is None else _format(value)
                                                          for value in (old, new)))  # fmt: skip


def _format(value: object) -> str:
    return value if isinstance(value, str) else str(to_json(value))


def _summarize(model: LockedModel | None) -> str | None:
    if model is None:
        return None
    if model.endpoint:
        return clean_text(model.endpoint, MAX_VALUE_CHARS)
    return f"{format_size(model.size_bytes)} at {model.commit or 'no commit'}"
