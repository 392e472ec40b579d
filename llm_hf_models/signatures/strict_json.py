"""Read JSON from others strictly: no duplicate keys, no odd numbers, and each value of its type."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from llm_hf_models.errors import BadSignatureError

MAX_NUMBER_CHARS = 20


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        data: UTF-8 without a byte order mark.
        what: the subject of an error message, such as "The signature file".

    Raises:
        BadSignatureError: the data is not JSON, or not strict.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_build_object,
            parse_int=_parse_number,
            parse_float=_parse_number,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError):  # deep nesting is a RecursionError
        raise BadSignatureError(f"{what} is not valid JSON") from None
    if not isinstance(value, dict):
        raise BadSignatureError(f"{what} is not a JSON object")
    return value


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) != len(pairs):
        raise ValueError("a key occurs twice")
    return built


def _parse_number(text: str) -> int:
    """Return a whole number. Some writers add `.0`; no other fraction is in these formats."""
    if len(text) > MAX_NUMBER_CHARS:
        raise ValueError("the number is too long")
    return int(text.removesuffix(".0"))


def _refuse_constant(text: str) -> None:
    raise ValueError(text)


def get_object(parent: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a member that is an object.

    Raises:
        BadSignatureError: it is missing or of another type.
    """
    value: dict[str, Any] = _get(parent, key, dict, "an object")
    return value


def get_list(parent: dict[str, Any], key: str, max_length: int) -> list[Any]:
    """Return a member that is a list of at least one and at most `max_length` values.

    Raises:
        BadSignatureError: it is missing, of another type, empty or too long.
    """
    value: list[Any] = _get(parent, key, list, "a list")
    if not 1 <= len(value) <= max_length:
        raise BadSignatureError(f"The signature's field {key} has {len(value)} values", cause=f"At most {max_length}.")
    return value


def get_text(parent: dict[str, Any], key: str) -> str:
    """Return a member that is a text, which may not be empty.

    Raises:
        BadSignatureError: it is missing, of another type or empty.
    """
    value: str = _get(parent, key, str, "a text")
    if not value:
        raise BadSignatureError(f"The signature's field {key} is empty")
    return value


def get_bytes(parent: dict[str, Any], key: str) -> bytes:
    """Return a member that is base64, in the one canonical spelling of its bytes.

    Raises:
        BadSignatureError: it is missing, empty or not canonical base64.
    """
    text = get_text(parent, key)
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        raise BadSignatureError(f"The signature's field {key} is not base64")
    return data


def check_object(value: object, what: str) -> dict[str, Any]:
    """Return a value that is an object.

    Raises:
        BadSignatureError: it is of another type.
    """
    if not isinstance(value, dict):
        raise BadSignatureError(f"{what} is not an object")
    return value


def check_keys(value: dict[str, Any], allowed: frozenset[str], what: str) -> None:
    """Raise an error if an object has other keys.

    Raises:
        BadSignatureError: a key is not allowed.
    """
    if not value.keys() <= allowed:
        raise BadSignatureError(f"{what} has unknown fields")


def _get(parent: dict[str, Any], key: str, kind: type, words: str) -> Any:  # noqa: ANN401 - of the type `kind`
    value = parent.get(key)
    if not isinstance(value, kind):
        raise BadSignatureError(f"The signature's field {key} is missing or is not {words}")
    return value
