"""Any value of the service as what JSON can hold, and the schema of that: one shape for every face. Parses nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import PurePath
from typing import Any, TypeAlias, get_type_hints

JsonValue: TypeAlias = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None


def to_json(value: object) -> JsonValue:
    """Any value of the service as what JSON can hold: the one shape for `--json` and for MCP's structured content.

    Dataclasses become objects of their fields and their public properties; a field declared with `repr=False` holds
    a secret and is left out. Figures that JSON can't hold (NaN, infinities) become their names.

    Raises:
        TypeError: the value holds something that has no JSON form; a bug of ours.
    """
    if is_dataclass(value):
        return {name: to_json(getattr(value, name)) for name in public_names(type(value))}
    if isinstance(value, Mapping):
        return {str(key): to_json(member) for key, member in value.items()}
    if isinstance(value, AbstractSet):
        return [to_json(member) for member in sorted(value)]
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [to_json(member) for member in value]
    return _json_leaf(value)


def _json_leaf(value: object) -> JsonValue:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def public_names(kind: type) -> list[str]:
    """What of a dataclass is told: fields that are no secrets, and public properties."""
    names = [field.name for field in fields(kind) if field.repr and not field.name.startswith("_")]
    for base in reversed(kind.__mro__):
        names += [name for name, member in vars(base).items() if isinstance(member, property) and name not in names]
    return [name for name in names if not name.startswith("_")]


def schema_of(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever an annotation may be
    """The JSON schema (2020-12) of what `to_json` makes of a value of this type."""
    from pydantic import TypeAdapter
    from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
    from pydantic_core import core_schema

    class Schema(GenerateJsonSchema):
        def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
            found, cls = super().dataclass_schema(schema), schema["cls"]
            names = public_names(cls)
            members = found.get("properties", {})
            told = {name: members[name] if name in members else _property_schema(cls, name) for name in names}
            return {**found, "properties": told, "required": names}

        def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 - names say enough
            return False

    return TypeAdapter(kind).json_schema(mode="serialization", schema_generator=Schema)


def _property_schema(cls: type, name: str) -> dict[str, Any]:
    member = next(vars(base)[name] for base in cls.__mro__ if name in vars(base))
    return schema_of(get_type_hints(member.fget)["return"])
