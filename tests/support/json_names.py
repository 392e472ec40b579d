"""The convention for the names of fields in results, as a check of a JSON schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Words for a number of bytes or seconds. A field with such a number ends in its unit.
WORDS = {
    "age", "alive", "available", "bytes", "disk", "duration", "elapsed", "free", "freed", "lifetime", "memory",
    "needed", "partial", "rate", "seconds", "size", "speed", "used", "wait",
}  # fmt: skip
UNITS = ("_bytes", "_seconds", "_per_second", "_per_token")


def list_misnamed_fields(schema: dict[str, Any], name: str) -> Iterator[str]:
    """Yield the fields of a schema and of its definitions whose names break the convention."""
    for owner, part in {name: schema, **schema.get("$defs", {})}.items():
        for field, kind in part.get("properties", {}).items():
            types = {branch.get("type") for branch in kind.get("anyOf", [kind])}
            is_number = bool(types & {"integer", "number"}) and "object" not in types
            if field == "model_id" or (is_number and set(field.split("_")) & WORDS and not field.endswith(UNITS)):
                yield f"{owner}.{field}"
