"""Detecting a response that repeats the same text."""

from __future__ import annotations

import random
import time

import pytest

from llm_hf_models.inference.protocol.loop_detection import LoopDetector

WORDS = [f"w{number}" for number in range(50)]


def count_until_loop(pieces: list[str], limit: int = 1000) -> int | None:
    """Return the number of pieces after which a loop is reported."""
    detector = LoopDetector(limit)
    return next((at for at, piece in enumerate(pieces, start=1) if detector.is_loop(piece)), None)


@pytest.mark.parametrize("period", [1, 2, 7, 60, 250, 499])
@pytest.mark.parametrize("before", [0, 1, 777])
def test_repeated_passage_of_any_length_is_a_loop(period: int, before: int) -> None:
    rng = random.Random(period)
    passage = [*rng.choices(WORDS, k=period - 1), "end"]
    start = [f"new{number}" for number in range(before)]
    found = count_until_loop(start + passage * 3000)
    assert found is not None
    assert found - before >= max(1000, 4 * period)
    assert found - before <= max(1000, 4 * period) + 64


@pytest.mark.parametrize(
    "pieces",
    [
        [f"{number}" for number in range(5000)],
        [part for number in range(2000) for part in ("line", str(number))],
        random.Random(1).choices(WORDS, k=5000),
        [*["again"] * 900, "end"] * 3,
        [*WORDS, *random.Random(2).choices(WORDS, k=460)] * 3,
    ],
)
def test_text_that_changes_is_no_loop(pieces: list[str]) -> None:
    assert count_until_loop(pieces) is None


def test_other_limits_apply_and_zero_never_stops() -> None:
    assert count_until_loop(["a"] * 500, limit=10) == 64
    assert count_until_loop(["a"] * 5000, limit=0) is None


def test_detection_is_fast_for_the_worst_text() -> None:
    begun = time.process_time()
    count_until_loop([*["a"] * 999, "b"] * 10)
    assert time.process_time() - begun < 5
