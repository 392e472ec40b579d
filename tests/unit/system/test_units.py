"""Parsing and formatting of sizes, counts and durations."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_hf_models.errors import BadInputError
from llm_hf_models.system.units import (
    MAX_NUMBER,
    Unit,
    format_count,
    format_duration,
    format_size,
    format_typed,
    parse_count,
    parse_duration,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("700", 700),
        ("5M", 5_000_000),
        ("5mb", 5_000_000),
        ("2GiB", 2 * 2**30),
        ("2gi", 2 * 2**30),
        ("700 kB", 700_000),
        (" 1.5GB ", 1_500_000_000),
        ("1T", 10**12),
        ("12 B", 12),
        ("0.1G", 100_000_000),
        ("9007199254740993", 9_007_199_254_740_993),
        (str(MAX_NUMBER), MAX_NUMBER),
    ],
)
def test_size_is_parsed_to_the_byte(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "count"), [("7B", 7 * 10**9), ("500m", 500 * 10**6), ("1.5T", 15 * 10**11), ("42", 42)]
)
def test_count_is_parsed(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("300", 300), ("5m", 300), ("1.5h", 5400), ("200ms", 0.2), ("2 d", 172_800), ("0s", 0)]
)
def test_duration_is_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


BAD = [
    "",
    " ",
    "five",
    "-5M",
    "5X",
    "5 5",
    "1e9",
    "M",
    "1.",
    ".5",
    "nan",
    "inf",
    "٣M",
    "9" * 400,
    "9999999999T",
    "0x10",
    "5M\nB",
]


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("5M", 5_000_000),
        ("5M/s", 5_000_000),
        ("5MB/S", 5_000_000),
        (" 2 MiB / s ", 2 * 2**20),
        ("7/s", 7),
        (" OFF ", 0),
    ],
)
def test_rate_is_parsed_as_shown(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", [*BAD, "/s", "5M/h", "5M/s/s", "off/s"])
def test_invalid_rate_is_refused_with_the_way_to_lift_the_limit(text: str) -> None:
    with pytest.raises(BadInputError, match="`off`"):
        parse_rate(text)


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("parse", [parse_size, parse_count, parse_duration])
def test_invalid_value_is_refused_with_a_short_message(parse: object, text: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse(text)  # type: ignore[operator]
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("text", ["0.9", "0.5 B", "0.0000001k"])
def test_value_below_one_byte_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="less than one byte"):
        parse_size(text)
    with pytest.raises(BadInputError, match="less than one"):
        parse_count(text.rstrip(" B"))


@given(st.text(max_size=30) | st.from_regex(r"\s*[0-9]+(\.[0-9]+)? ?[KMGTBmshd]?i?B?\s*", fullmatch=True))
def test_any_text_is_a_number_or_refused(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_count, parse_duration):
        try:
            value = parse(text)
        except BadInputError as error:
            assert error.message  # noqa: PT017 - either outcome is right; anything else fails the test
        else:
            assert math.isfinite(value)
            assert 0 <= value <= MAX_NUMBER


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (98_362_432, "98.4 MB"),
        (99_960_000, "100 MB"),
        (999_600_000, "1 GB"),
        (7_100_000_000, "7.1 GB"),
        (163_273_894_112, "163 GB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_size_is_formatted_as_on_the_hub(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("count", "text"), [(135_000_000, "135M"), (7_241_732_096, "7.2B"), (42, "42"), (10**12, "1T")]
)
def test_count_is_formatted_as_is_usual(count: int, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (45, "45 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (900, "15 min"),
        (3599.6, "1 h"),
        (3659, "1 h"),
        (3900, "1 h 5 min"),
        (172_799, "47 h 59 min"),
        (172_800, "2 d"),
        (200_000, "2 d 7 h"),
        (math.inf, "?"),
        (math.nan, "?"),
    ],
)
def test_duration_is_formatted_in_at_most_two_parts(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 9 * 10**14))
def test_formatted_size_parses_back_to_almost_itself(size: int) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.06)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "bytes", "0"),
        (999, "bytes", "999B"),
        (10**9, "bytes", "1GB"),
        (1_500_000, "bytes per second", "1500kB"),
        (2**30, "bytes", "1073741824B"),
        (0.25, "seconds", "0.25"),
        (1.5, "seconds", "1.5"),
        (90.0, "seconds", "90s"),
        (300, "seconds", "5m"),
        (2_592_000.0, "seconds", "30d"),
        (-1, "seconds", "-1"),
    ],
)
def test_value_is_shown_as_it_can_be_typed(value: float, unit: Unit, text: str) -> None:
    assert format_typed(value, unit) == text
    if value >= 0:
        assert (parse_duration(text) if unit == "seconds" else parse_size(text)) == value
