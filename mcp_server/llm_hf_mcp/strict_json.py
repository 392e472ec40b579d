"""Refuse what Python's JSON parser accepts, and JSON, UTF-8 or the SDK does not.

These are NaN, Infinity, numbers that become infinite, and half of a surrogate pair in a text.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from mcp_types import PARSE_ERROR

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class InvalidJsonError(ValueError):
    """A message is not valid JSON. The text of the exception says why."""


def parse(text: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Parse JSON in UTF-8.

    Raises:
        InvalidJsonError: It is not valid JSON, or has a number or a character that is not supported.
    """
    try:
        content = json.loads(text.decode(), parse_constant=_refuse_constant, parse_float=_parse_float)
    except InvalidJsonError:
        raise
    except (ValueError, RecursionError):
        raise InvalidJsonError("not valid JSON in UTF-8") from None
    if _SURROGATE.search(text) and not _is_encodable(content):
        raise InvalidJsonError("not supported: a text has half of a surrogate pair")
    return content


def _is_encodable(content: object) -> bool:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidJsonError(f"not valid JSON: it has the value {name}")


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InvalidJsonError("not supported: a number is out of range")
    return number


def find_request_id(text: bytes) -> str | int | None:
    """Return the id of a request that may be invalid, or None if it has none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    request_id = content.get("id") if isinstance(content, dict) and "method" in content else None
    return request_id if type(request_id) in (str, int) and _is_encodable(request_id) else None


def find_error(text: bytes) -> dict[str, Any] | None:
    """Return the JSON-RPC error for a message that is not valid JSON, or None if it is valid."""
    try:
        parse(text)
    except InvalidJsonError as error:
        reply = {"code": PARSE_ERROR, "message": f"The body is {error}"}
        return {"jsonrpc": "2.0", "id": find_request_id(text), "error": reply}
    return None
