"""Parse and format sizes, rates, counts and durations."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Literal

from llm_hf_models.errors import BadInputError

Unit = Literal["bytes", "bytes per second", "seconds"]
_DECIMAL = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "B": 10**9}
_BINARY = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_TYPED_SIZES = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}
_NUMBER = r"(?P<number>[0-9]{1,30}(?:\.[0-9]{1,30})?)"
# These patterns are compiled when they are used: most commands show sizes and parse none.
_SIZE = _NUMBER + r"\s*(?P<unit>[KMGT]I?)?B?"
_RATE = _SIZE + r"(?:\s*/\s*s)?"
_COUNT = _NUMBER + r"\s*(?P<unit>[KMBT])?"
_TOKENS = _NUMBER + r"\s*(?P<unit>[KM])?"
_DURATION = _NUMBER + r"\s*(?P<unit>ms|s|m|h|d)?"
MIN_BARE_RATE = 1000  # a smaller number without a unit is a mistake, such as 5 for 5M
MAX_NUMBER = 2**63 - 1  # the largest integer in SQLite and TOML
MAX_SECONDS = 100 * 365 * 86400.0  # accepted by the timers of all operating systems

_SECONDS: dict[str, Fraction] = {
    "ms": Fraction(1, 1000),
    "": Fraction(1),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
}

_DURATION_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def _parse_number(pattern: str, text: str, description: str, example: str) -> tuple[Fraction, str]:
    match = re.fullmatch(pattern, text.strip(), re.IGNORECASE)
    if match is None:
        raise BadInputError(f"{text[:40]!r} is not a {description}", hint=f"Use a value such as {example}.")
    return Fraction(match["number"]), (match["unit"] or "")


def _convert_to_int(number: Fraction, text: str, minimum: str, hint: str | None = None) -> int:
    if number > MAX_NUMBER:
        raise BadInputError(f"{text[:40]!r} is too large", hint=hint)
    if 0 < number < 1:  # rounded down it would be 0, which often means no limit
        raise BadInputError(f"{text[:40]!r} is less than {minimum}", hint=hint)
    return int(number)


def parse_size(text: str) -> int:
    """Return the bytes in `5M`, `2GiB`, `700 kB` or a plain number. K, M, G, T are decimal, Ki, Mi, Gi, Ti binary.

    Raises:
        BadInputError: the text is not a size.
    """
    number, unit = _parse_number(_SIZE, text, "size", "5M, 1.5GB or 2GiB")
    return _convert_to_int(number * {**_DECIMAL, **_BINARY}[unit.upper()], text, "one byte")


def parse_rate(text: str) -> int:
    """Return the bytes per second in `5M`, `5 MB/s` or a plain number. `off` is 0, which means no limit.

    Raises:
        BadInputError: the text is not a rate, or a small number without a unit.
    """
    if text.strip().casefold() == "off":
        return 0
    number, unit = _parse_number(_RATE, text, "rate", "5M or 1.5MB/s, or `off` for no limit")
    rate = _convert_to_int(
        number * {**_DECIMAL, **_BINARY}[unit.upper()], text, "one byte per second", "`off` means no limit."
    )
    if 0 < rate < MIN_BARE_RATE and re.fullmatch(_NUMBER, text.strip()):
        hint = f"Write {text.strip()}M for megabytes per second, or {text.strip()}B for bytes per second."
        raise BadInputError(f"{text[:40]!r} has no unit", hint=hint)
    return rate


def parse_tokens(text: str) -> int:
    """Return the number of tokens in `16k`, `1M` or a plain number. K is 1024 and M is 1024², as in context lengths.

    Raises:
        BadInputError: the text is not a number of tokens.
    """
    number, unit = _parse_number(_TOKENS, text, "number of tokens", "8192 or 16k")
    if not unit and number.denominator != 1:
        raise BadInputError(f"{text[:40]!r} is not a whole number of tokens", hint="Use a value such as 8192 or 16k.")
    return _convert_to_int(number * {"": 1, "K": 2**10, "M": 2**20}[unit.upper()], text, "one token")


def parse_count(text: str) -> int:
    """Return the number of parameters in `7B`, `500M` or a plain number.

    Raises:
        BadInputError: the text is not a count.
    """
    number, unit = _parse_number(_COUNT, text, "number of parameters", "7B or 500M")
    return _convert_to_int(number * _DECIMAL[unit.upper()], text, "one parameter")


def parse_duration(text: str) -> float:
    """Return the seconds in `300`, `5m`, `1.5h` or `200ms`.

    Raises:
        BadInputError: the text is not a duration, or it is longer than a hundred years.
    """
    number, unit = _parse_number(_DURATION, text, "duration", "30s, 5m or 2h")
    seconds = number * _SECONDS[unit.lower()]
    if seconds > MAX_SECONDS:
        raise BadInputError(f"{text[:40]!r} is too long")
    return float(seconds)


def parse_age(text: str) -> float:
    """Return the seconds in `90d` or `12h`. A number without a unit is refused: it could mean days.

    Raises:
        BadInputError: the text is not a duration, has no unit, or is longer than a hundred years.
    """
    _require_unit(text, "d", "days")
    return parse_duration(text)


def parse_file_size(text: str) -> int:
    """Return the bytes in `5G` or `700 MB`. A number without a unit is refused: it could mean gigabytes.

    Raises:
        BadInputError: the text is not a size, or has no unit.
    """
    _require_unit(text, "G", "gigabytes")
    return parse_size(text)


def _require_unit(text: str, unit: str, name: str) -> None:
    if re.fullmatch(_NUMBER, text.strip()):
        raise BadInputError(f"{text[:40]!r} has no unit", hint=f"Write {text.strip()[:40]}{unit} for {name}.")


def format_typed(value: float, unit: Unit) -> str:
    """Format a number in the shortest form that `parse_size`, `parse_rate` or `parse_duration` reads as this number."""
    scale = {"d": 86400, "h": 3600, "m": 60, "s": 1} if unit == "seconds" else _TYPED_SIZES
    for name, factor in scale.items():
        if value >= factor and (value / factor).is_integer():
            return f"{int(value / factor)}{name}"
    return f"{value:g}" if value < 1 else str(value)


def format_size(size: float) -> str:
    """Format bytes in decimal units, with one decimal below a hundred, as the Hub does: `98.4 MB`."""
    return _format_scaled(size, ("B", "kB", "MB", "GB", "TB", "PB"), " ")


def format_count(count: float) -> str:
    """Format a number of parameters: `135M`, `7.2B`."""
    return _format_scaled(count, ("", "K", "M", "B", "T"), "")


def _format_scaled(value: float, units: tuple[str, ...], gap: str) -> str:
    step, power = 1000, 0
    while abs(value) >= step - 0.5 and power < len(units) - 1:
        value, power = value / step, power + 1
    unit = units[power]
    digits = 0 if power == 0 or abs(value) >= 99.95 else 1  # noqa: PLR2004 - no decimal from a hundred on
    number = f"{value:.{digits}f}".removesuffix(".0") if digits else f"{value:.0f}"
    return f"{number}{gap}{unit}".rstrip()


def format_duration(seconds: float) -> str:
    """Format seconds in one or two units: `45 s`, `3 min 20 s`, `2 h 5 min`, or `?` if the number is not finite."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004
        return f"{whole} s"
    first = 0 if whole >= 2 * 86400 else 1 if whole >= 3600 else 2  # noqa: PLR2004
    (large, factor), (small, part) = _DURATION_UNITS[first : first + 2]
    count, rest = divmod(whole, factor)
    return f"{count} {large}" + (f" {rest // part} {small}" if rest >= part else "")


def format_range(minimum: float | None, maximum: float | None) -> str:
    """Return a range of numbers as text; empty if it has no limits."""
    if maximum is not None:
        return f"{minimum or 0:,} to {maximum:,}"
    return f"at least {minimum:,}" if minimum is not None else ""
