"""Schemas of responses: which are refused, which parts an engine does not enforce, and the check of a response."""

from __future__ import annotations

import time
from typing import Any

import pytest

from llm_hf_models.errors import BadInputError
from llm_hf_models.inference.protocol.json_schema import find_mismatch, find_unenforced

TREE = {"properties": {"children": {"items": {"$ref": "#"}}}, "additionalProperties": False}
DEEP: dict[str, Any] = {}
for _ in range(5000):
    DEEP = {"not": DEEP}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"pattern": "["}, "#/pattern: unclosed character class"),
        ({"items": {"pattern": "^(?=x).*$"}}, "#/items/pattern: look-around"),
        ({"properties": {"a/b": {"pattern": r"^(a)\1$"}}}, "#/properties/a~1b/pattern: backreferences"),
        ({"patternProperties": {"(": {}}}, "#/patternProperties/(: unclosed group"),
        ({"anyOf": [{}, {"type": "text"}]}, "#/anyOf/1/type: 'text' is not valid"),
        ({"type": 7}, "#/type: 7 is not valid"),
        ({"minLength": -1}, "#/minLength: -1 is less than"),
        ({"$ref": "#/nowhere"}, "reference #/nowhere leads to no part"),
        ({"$ref": "http://127.0.0.1:9/x.json"}, "reference http://127.0.0.1:9/x.json leads to no part"),
        ([1], "is not of type 'object'"),
        ("text", "is not of type 'object'"),
        (DEEP, "nested too deeply"),
        ({"patternProperties": {"x": {}}, "unevaluatedProperties": False}, "together"),
    ],
)
def test_schema_that_can_not_be_enforced_is_refused(schema: object, message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        find_unenforced(schema)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "parts"),
    [
        ({"pattern": "^[a-z]{2}-(?:x)$"}, ("#/pattern",)),
        ({"pattern": r"^\d+$"}, ("#/pattern",)),
        ({"pattern": "abc"}, ("#/pattern",)),
        ({"pattern": r"^[a-z]{2}\.(x|y)+$"}, ()),
        ({"properties": {"pattern": {"type": "string"}, "not": {}}, "enum": [{"pattern": "["}]}, ()),
        ({"items": {"uniqueItems": True, "multipleOf": 2}}, ("#/items/uniqueItems", "#/items/multipleOf")),
        ({"$defs": {"a": {"contains": {}}}, "$ref": "#/$defs/a"}, ("#/$defs/a/contains",)),
        ({"items": [{"type": "string"}, {"not": {}}]}, ("#/items/1/not",)),  # draft 7
        ({"type": "number", "minimum": 1}, ("#/minimum",)),
        ({"exclusiveMaximum": 1}, ("#/exclusiveMaximum",)),
        ({"type": "integer", "minimum": 1, "maximum": 2}, ()),
        ({"type": ["integer", "null"], "minimum": 1}, ()),
        (True, ()),
        (TREE, ()),
    ],
)
def test_parts_that_the_engine_ignores_are_listed(schema: object, parts: tuple[str, ...]) -> None:
    assert find_unenforced(schema) == parts


@pytest.mark.parametrize(
    ("schema", "value", "mismatch"),
    [
        ({"properties": {"a": {"pattern": r"^\d$"}}}, {"a": "x"}, r"$.a: 'x' does not match the pattern ^\d$"),
        ({"pattern": r"\bRex\b"}, "is Rex here", None),
        ({"pattern": r"^\p{L}+$"}, "Žofka", None),
        ({"uniqueItems": True}, [1, 1], "$: [1, 1] has non-unique elements (#/uniqueItems in the schema)"),
        ({"patternProperties": {"^x": {"type": "integer"}}}, {"x1": "a"}, "$.x1: 'a' is not of type 'integer'"),
        ({"patternProperties": {"^x": {}}, "additionalProperties": False}, {"x1": 1}, None),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"b": 1}, "$: the property 'b' is not allowed"),
        ({"additionalProperties": {"type": "null"}}, {"b": 1}, "$.b: 1 is not of type 'null'"),
        ({"items": [{"type": "string"}]}, [1], "$[0]: 1 is not of type 'string'"),
        (TREE, {"children": [{"children": [{"x": 1}]}]}, "$.children[0].children[0]: the property 'x' is not allowed"),
        ({"format": "email"}, "nobody", None),  # an annotation
        (False, 1, "$: False schema does not allow 1"),
    ],
)
def test_response_is_checked_against_its_schema(schema: object, value: object, mismatch: str | None) -> None:
    found = find_mismatch(schema, value)
    assert found is mismatch if mismatch is None else mismatch in str(found)


def test_pattern_takes_linear_time() -> None:
    started = time.monotonic()
    assert find_mismatch({"pattern": "^(a+)+$"}, "a" * 5000 + "b")
    assert find_mismatch({"patternProperties": {"^(a+)+$": False}, "additionalProperties": False}, {"a" * 5000: 1})
    assert time.monotonic() - started < 5


def test_endless_reference_is_reported() -> None:
    with pytest.raises(BadInputError, match="without end"):
        find_mismatch({"$ref": "#"}, 1)
