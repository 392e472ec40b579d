"""Convert the service's values to JSON values, and describe them by a JSON schema, for all interfaces alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path, PurePath
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from llm_hf_models.redaction import redact

MAX_SHOWN_CHARS = 60
_NAME_IN_JSON = "serialization_alias"  # pydantic, which stores some of these dataclasses, knows this key too

# The type of a field that is a point in time, in seconds since 1970. In JSON it is a text (see `format_utc`).
UnixTime = Annotated[float, "Unix time"]


def json_name(name: str) -> dict[str, str]:
    """Return the metadata of a dataclass's field that has another name in results than in Python and in the library.

    Names in results end in their unit (`_bytes`, `_seconds`), and the id of a local model is `id`.
    """
    return {_NAME_IN_JSON: name}


JsonValue: TypeAlias = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None


def to_json(value: object) -> JsonValue:
    """Convert a value of the service to a JSON value, for `--json` and for MCP's structured content.

    A dataclass becomes an object with its fields and public properties. A field declared with `repr=False` contains
    a secret and is omitted. Strings contain no token or key of this process, even if a server repeats it. Points in
    time become texts in UTC. Numbers that JSON can't represent (NaN, infinities) become their names.

    Raises:
        TypeError: the value contains an object without a JSON form, which is a bug in this package.
    """
    return _convert(value, is_time=False)


def _convert(value: object, *, is_time: bool) -> JsonValue:
    """Convert a value. `is_time` tells whether the numbers in it are points in time."""
    if is_dataclass(value):
        return _convert_members(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): _convert(member, is_time=is_time) for key, member in value.items()}
    if isinstance(value, AbstractSet):
        return [_convert(member, is_time=is_time) for member in sorted(value)]
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_convert(member, is_time=is_time) for member in value]
    if isinstance(value, datetime) or (is_time and isinstance(value, (int, float))):
        return format_utc(value)
    return _convert_leaf(value)


def _convert_members(value: object) -> dict[str, JsonValue]:
    kind: type = type(value)
    times = _list_times(kind)
    names = get_json_names(kind)
    return {shown: _convert(getattr(value, name), is_time=name in times) for name, shown in names.items()}


def _convert_leaf(value: object) -> JsonValue:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (str, PurePath)):
        return redact(str(value))
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def format_utc(moment: datetime | float) -> str:
    """Return a point in time to the second, in UTC and in the form of ISO 8601, such as `2026-11-30T01:34:00Z`.

    A number outside the years 1 to 9999, as in a damaged record, is returned as text.
    """
    try:
        found = moment if isinstance(moment, datetime) else datetime.fromtimestamp(moment, timezone.utc)
        return f"{found.astimezone(timezone.utc).replace(microsecond=0, tzinfo=None).isoformat()}Z"
    except (OSError, OverflowError, ValueError):
        return str(moment)


class Result:
    """The base of the dataclasses that the service returns: a short repr, and a form for JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and public properties as JSON values, as `--json` prints them."""
        return _convert_members(self)

    def __init_subclass__(cls) -> None:
        cls.__repr__ = Result.__repr__  # type: ignore[method-assign] # a dataclass keeps the one of its own class

    def __repr__(self) -> str:
        """Return the class and the values that fit on a line: no empty ones, no texts in full, no collections."""
        members = ((name, _shorten(getattr(self, name))) for name in list_public_names(type(self)))
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in members if text)})"


def _shorten(value: object) -> str:
    if value is None or value in ("", (), {}):
        return ""
    if is_dataclass(value):
        return f"{type(value).__name__}(...)"
    if isinstance(value, str):
        value = redact(value)
        return repr(value if len(value) <= MAX_SHOWN_CHARS else value[: MAX_SHOWN_CHARS - 1] + "…")
    if isinstance(value, Mapping | Sequence | AbstractSet):
        return f"<{len(value)} items>"
    return repr(value)


def list_public_names(kind: type) -> list[str]:
    """Return the names of a dataclass's public properties and of its fields that are not secret."""
    names = [field.name for field in fields(kind) if field.repr and not field.name.startswith("_")]
    for base in reversed(kind.__mro__):
        names += [name for name, member in vars(base).items() if isinstance(member, property) and name not in names]
    return [name for name in names if not name.startswith("_")]


@cache  # one entry for each dataclass of the package
def get_member_types(kind: type) -> dict[str, Any]:
    """Return the annotations of a dataclass's public fields and properties, by name."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: hints[name] if name in hints else _get_return_type(kind, name) for name in list_public_names(kind)}


def _get_return_type(kind: type, name: str) -> Any:  # noqa: ANN401 - any annotation
    return get_type_hints(getattr(kind, name).fget, include_extras=True)["return"]


@cache
def get_json_names(kind: type) -> dict[str, str]:
    """Return the names in JSON of a dataclass's public fields and properties, by their names in Python."""
    given = {field.name: field.metadata.get(_NAME_IN_JSON, field.name) for field in fields(kind)}
    return {name: given.get(name, name) for name in list_public_names(kind)}


@cache
def _list_times(kind: type) -> frozenset[str]:
    """Return the names of a dataclass's members that are points in time."""
    return frozenset(name for name, member in get_member_types(kind).items() if _contains_time(member))


def _contains_time(kind: object) -> bool:
    return kind == UnixTime or any(map(_contains_time, get_args(kind)))


# The JSON schema


def build_schema(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - any annotation
    """Return the JSON schema of the values that `to_json` returns for a type, for drafts 7 and 2020-12 alike.

    Args:
        kind: A dataclass, or another annotation of a result, such as a tuple of dataclasses.

    Raises:
        KeyError: a member's annotation has no JSON form, which is a bug in this package.
    """
    shared: dict[str, dict[str, Any]] = {}
    schema = _describe_type(kind, shared)
    schema = shared.pop(kind.__name__) if isinstance(kind, type) and is_dataclass(kind) else schema
    return {**schema, **({"$defs": shared} if shared else {})}


def _describe_type(kind: Any, shared: dict[str, dict[str, Any]]) -> dict[str, Any]:  # noqa: ANN401 - any annotation
    if isinstance(kind, type) and is_dataclass(kind):
        if kind.__name__ not in shared:
            shared[kind.__name__] = {}
            shared[kind.__name__] = _describe_dataclass(kind, shared)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if kind in _LEAF_SCHEMAS:
        return dict(_LEAF_SCHEMAS[kind])
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return {"anyOf": [_describe_type(member, shared) for member in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is None:
        raise KeyError(kind)
    return _describe_container(origin, arguments, shared)


def _describe_container(origin: type, arguments: tuple[Any, ...], shared: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _describe_type(arguments[1], shared)}
    if origin is tuple and arguments[1:] != (Ellipsis,):
        # Drafts 7 and 2020-12 spell the types of single positions in different ways, so any position may have any type.
        members = [_describe_type(member, shared) for member in dict.fromkeys(arguments)]
        items = members[0] if len(members) == 1 else {"anyOf": members}
        return {"type": "array", "items": items, "minItems": len(arguments), "maxItems": len(arguments)}
    return {"type": "array", "items": _describe_type(arguments[0], shared)}


def _describe_dataclass(kind: type, shared: dict[str, dict[str, Any]]) -> dict[str, Any]:
    names = get_json_names(kind)
    properties = {names[name]: _describe_type(member, shared) for name, member in get_member_types(kind).items()}
    return {"type": "object", "properties": properties, "required": list(properties)}


# Strict validators refuse unknown values of `format`.
_TIME_SCHEMA = {"type": "string", "description": "UTC, ISO 8601"}
_LEAF_SCHEMAS: dict[object, dict[str, Any]] = {
    # Explicit, because {} looks like an omission. One branch per type, because some clients reject a list of types.
    Any: {"anyOf": [{"type": kind} for kind in ("null", "boolean", "number", "string", "array", "object")]},
    type(None): {"type": "null"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    datetime: _TIME_SCHEMA,
    UnixTime: _TIME_SCHEMA,
    Path: {"type": "string"},
}
