"""Field types for the Hub's JSON that fall back to an empty value, so that one odd field spoils nothing else."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, WrapValidator
from pydantic import ValidatorFunctionWrapHandler as Handler

from llm_hf_models.errors import HubUnavailableError
from llm_hf_models.system.text import clean_text

T = TypeVar("T")
MAX_NUMBER = 10**18  # of bytes or parameters; a larger number is an error of the Hub
MAX_NUMBER_CHARS = 19
_FALSE_WORDS = frozenset({"", "false", "no", "0", "none", "null"})


def fall_back_to(make_default: type | None) -> WrapValidator:
    """Return a validator that replaces an invalid value by an empty one, so that the fields next to it stay usable."""

    def read(value: object, handler: Handler) -> Any:  # noqa: ANN401 - of the field's type
        try:
            return handler(value)
        except ValidationError:
            return make_default() if make_default else None

    return WrapValidator(read)


def _drop_bool(value: object) -> object:
    return None if isinstance(value, bool) else value  # pydantic would read True as 1


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def is_text(value: object) -> bool:
    """Return whether a value is a text that can be stored: JSON can also contain half of a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def _drop_unless_text(value: object) -> object:
    return value if is_text(value) else None


def parse_flag(value: object) -> bool:
    """Return a flag. A value that is neither true nor false counts as true, which is the more careful reading."""
    return value.strip().lower() not in _FALSE_WORDS if isinstance(value, str) else bool(value)


OR_NONE, OR_EMPTY = fall_back_to(None), fall_back_to(list)
Text = Annotated[str | None, BeforeValidator(_drop_unless_text)]
Texts = Annotated[list[Text], OR_EMPTY]
Number = Annotated[Annotated[int, Field(ge=0, le=MAX_NUMBER)] | None, BeforeValidator(_drop_bool), OR_NONE]
Time = Annotated[datetime | None, BeforeValidator(_drop_bool), OR_NONE]
Flag = Annotated[bool, BeforeValidator(parse_flag)]

# A digest becomes a file name in the cache, so nothing else may match.
Sha256 = Annotated[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None, BeforeValidator(_lower), OR_NONE]
Sha1 = Annotated[Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None, BeforeValidator(_lower), OR_NONE]


def validate_json(adapter: TypeAdapter[T], body: bytes, host: str) -> T:
    """Parse JSON. Only its outermost form is checked, because the fields fall back to an empty value.

    Raises:
        HubUnavailableError: the body is not JSON, or has another outermost form.
    """
    try:
        text = body.decode("utf-8-sig", "replace")
        return adapter.validate_python(json.loads(text, parse_int=_parse_int, parse_constant=lambda _name: None))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise make_protocol_error(host, first["msg"]) from None
    except (ValueError, RecursionError) as error:
        raise make_protocol_error(host, f"The response is not JSON: {clean_text(str(error), 80)}") from None


def _parse_int(text: str) -> int | None:
    """Return a number, or None for one with so many digits that Python refuses it."""
    return int(text) if len(text) <= MAX_NUMBER_CHARS else None


def make_protocol_error(host: str, why: str) -> HubUnavailableError:
    """Return the error for a response in another format than the Hub's."""
    return HubUnavailableError(
        f"{host} returned an invalid response",
        cause=why,
        hint="Check HF_ENDPOINT, and whether this network requires a login first.",
    )
