"""Check a JSON schema before a prompt, and the response against it.

llama.cpp turns a schema into a grammar, but ignores the keywords and patterns that it does not support. So the response
is checked too. jsonschema is imported only here, when a prompt has a schema. Patterns are matched by pydantic's engine,
whose time grows linearly: a client of `llm hf serve` may send any pattern.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from llm_hf_models.errors import BadInputError
from llm_hf_models.system.text import clean_text

if TYPE_CHECKING:
    from jsonschema.protocols import Validator
    from pydantic import TypeAdapter

MAX_SHOWN_CHARS = 200
_SUBSCHEMAS = (
    "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then", "unevaluatedItems",
    "unevaluatedProperties",
)  # fmt: skip
_LISTS_OF_SUBSCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPS_OF_SUBSCHEMAS = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")

# Keywords that llama.cpp's grammars ignore (common/json-schema-to-grammar.cpp in b11549).
_IGNORED = frozenset({
    "contains", "dependentRequired", "dependentSchemas", "if", "maxProperties", "minProperties", "multipleOf", "not",
    "patternProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties", "uniqueItems",
})  # fmt: skip
# Keywords that they support for the type `integer` only.
_FOR_INTEGERS = frozenset({"exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum"})
# Patterns that its grammars support are anchored and have no escapes of classes (`\d`) or special groups (`(?:`).
_SUPPORTED_PATTERN = re.compile(r"\^(?:[^\\(]|\\[^A-Za-z0-9]|\((?!\?))*\$", re.DOTALL)


def find_unenforced(schema: object) -> tuple[str, ...]:
    """Check a schema. Return the parts that llama.cpp does not enforce, as JSON pointers such as `#/items/not`.

    Raises:
        BadInputError: The schema is not valid, or the response can't be checked against it.
    """
    _create_validator(schema)
    return tuple(
        f"#{where}/{_escape(key)}"
        for where, part in _list_parts(schema)
        for key, value in part.items()
        if _is_ignored(part, key, value)
    )


def _is_ignored(part: Mapping[str, Any], key: str, value: object) -> bool:
    """Return whether llama.cpp ignores a keyword of a subschema."""
    if key == "pattern":
        return isinstance(value, str) and not _SUPPORTED_PATTERN.fullmatch(value)
    if key in _FOR_INTEGERS:
        types = part.get("type", "number")
        return "number" in types or "integer" not in types
    return key in _IGNORED


def find_mismatch(schema: object, value: object) -> str | None:
    """Return the first part of a JSON value that does not match a schema, as a sentence; None if it matches.

    Raises:
        BadInputError: The schema is not valid.
    """
    from jsonschema.exceptions import best_match

    try:
        error = best_match(_create_validator(schema).iter_errors(value))
    except RecursionError:
        raise BadInputError("The schema refers to itself without end") from None
    if error is None:
        return None
    rule = "".join(f"/{_escape(str(part))}" for part in error.absolute_schema_path)
    return f"{error.json_path}: {_shorten(error.message)} (#{rule} in the schema)"


def _create_validator(schema: object) -> Validator:
    """Return the validator of a schema, after checking the schema itself.

    Raises:
        BadInputError: The schema is not valid, or the response can't be checked against it.
    """
    from referencing import Registry

    try:
        for kind in _list_dialects(schema):
            error = _find_schema_error(kind, schema)
            if error is None:
                # An empty registry: a reference to another document is never fetched.
                validator: Validator = kind(schema, registry=Registry())
                _check_patterns(schema)
                _check_references(schema)
                return validator
    except RecursionError:
        raise BadInputError("The schema is nested too deeply") from None
    raise BadInputError("The schema is not valid", cause=error)


def _list_dialects(schema: object) -> Iterator[Any]:
    """Yield the validator classes of the schema's dialect, or of the two that are in use if it does not name one."""
    from jsonschema import Draft7Validator, Draft202012Validator
    from jsonschema.validators import validator_for

    declared = validator_for(schema, default=None) if isinstance(schema, Mapping) else None
    for kind in [declared] if declared else [Draft202012Validator, Draft7Validator]:
        yield _replace_pattern_keywords(kind)


@functools.cache
def _replace_pattern_keywords(kind: Any) -> Any:  # noqa: ANN401 - jsonschema creates its classes at run time
    from jsonschema.validators import extend

    return extend(
        kind,
        {
            "pattern": _apply_pattern,
            "patternProperties": _apply_pattern_properties,
            "additionalProperties": _apply_additional_properties,
        },
    )


def _find_schema_error(kind: Any, schema: object) -> str | None:  # noqa: ANN401
    from jsonschema.exceptions import best_match

    error = best_match(kind(kind.META_SCHEMA).iter_errors(schema))
    if error is None:
        return None
    where = "".join(f"/{_escape(str(part))}" for part in error.absolute_path)
    return f"#{where}: {_shorten(error.message)}"


def _check_patterns(schema: object) -> None:
    """Check that each pattern is a regular expression that can be matched in linear time.

    Raises:
        BadInputError: A pattern is not, or can't be applied.
    """
    for where, part in _list_parts(schema):
        patterns = {"pattern": part.get("pattern")} if isinstance(part.get("pattern"), str) else {}
        inner = part.get("patternProperties")
        patterns |= {f"patternProperties/{_escape(one)}": one for one in inner} if isinstance(inner, Mapping) else {}
        for key, pattern in patterns.items():
            if problem := _find_pattern_problem(str(pattern)):
                raise BadInputError(
                    f"The schema's pattern {_shorten(str(pattern))} can't be enforced",
                    cause=f"#{where}/{key}: {problem}",
                    hint="Correct or remove it. Look-around and back references are not supported.",
                )
        if inner and "unevaluatedProperties" in part:
            raise BadInputError(f"The schema has patternProperties and unevaluatedProperties together, at #{where}")


def _check_references(schema: object) -> None:
    """Check that each reference leads to a part of the schema.

    Raises:
        BadInputError: A reference does not.
    """
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resolver = None
    for where, part in _list_parts(schema):
        reference = part.get("$ref")
        if not isinstance(reference, str):
            continue
        if resolver is None:
            resource = Resource.from_contents(schema, default_specification=DRAFT202012)
            resolver = Registry().with_resource("", resource).resolver()
        try:
            resolver.lookup(reference)
        except (Unresolvable, ValueError, AttributeError):
            raise BadInputError(
                f"The schema's reference {_shorten(reference)} leads to no part of it", cause=f"#{where}/$ref"
            ) from None


def _list_parts(schema: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each subschema with its JSON pointer. Values in `const`, `enum` and `default` are not subschemas."""
    pending: list[tuple[str, object]] = [("", schema)]
    while pending:
        where, part = pending.pop()
        if not isinstance(part, Mapping):
            continue
        yield where, part
        for key, value in part.items():
            if key in _SUBSCHEMAS and isinstance(value, Mapping):
                pending.append((f"{where}/{key}", value))
            elif key in _LISTS_OF_SUBSCHEMAS and isinstance(value, list):
                pending += [(f"{where}/{key}/{index}", one) for index, one in enumerate(value)]
            elif key in _MAPS_OF_SUBSCHEMAS and isinstance(value, Mapping):
                pending += [(f"{where}/{key}/{_escape(str(name))}", one) for name, one in value.items()]


# Patterns


@functools.lru_cache(maxsize=256)
def _compile_pattern(pattern: str) -> TypeAdapter[str]:
    from pydantic import Field, TypeAdapter

    return TypeAdapter(Annotated[str, Field(pattern=pattern)])


def _find_pattern_problem(pattern: str) -> str | None:
    from pydantic_core import SchemaError

    try:
        _compile_pattern(pattern)
    except SchemaError as error:
        return _shorten(str(error).rpartition("error: ")[2])
    return None


def _matches(pattern: str, text: str) -> bool:
    from pydantic import ValidationError

    try:
        _compile_pattern(pattern).validate_python(text)
    except ValidationError:
        return False
    return True


def _apply_pattern(_: Validator, pattern: str, instance: object, __: object) -> Iterator[Exception]:
    from jsonschema import ValidationError

    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match the pattern {pattern}")


def _apply_pattern_properties(
    validator: Any,  # noqa: ANN401 - the protocol lacks `descend`
    patterns: Mapping[str, object],
    instance: object,
    _: object,
) -> Iterator[Exception]:
    for pattern, part in patterns.items() if isinstance(instance, Mapping) else ():
        for key, value in instance.items() if isinstance(instance, Mapping) else ():
            if _matches(pattern, key):
                yield from validator.descend(value, part, path=key, schema_path=pattern)


def _apply_additional_properties(
    validator: Any,  # noqa: ANN401 - the protocol lacks `descend`
    additional: object,
    instance: object,
    schema: Mapping[str, Any],
) -> Iterator[Exception]:
    from jsonschema import ValidationError

    if not isinstance(instance, Mapping):
        return
    patterns = schema.get("patternProperties", {})
    extras = [
        key
        for key in instance
        if key not in schema.get("properties", {}) and not any(_matches(pattern, key) for pattern in patterns)
    ]
    if additional is False and extras:
        yield ValidationError(f"the property {extras[0]!r} is not allowed")
    elif isinstance(additional, Mapping):
        for key in extras:
            yield from validator.descend(instance[key], additional, path=key)


def _escape(name: str) -> str:
    return clean_text(name.replace("~", "~0").replace("/", "~1"), MAX_SHOWN_CHARS)


def _shorten(text: str) -> str:
    return clean_text(text, MAX_SHOWN_CHARS)
