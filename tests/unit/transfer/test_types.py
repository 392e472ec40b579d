"""The value types of a transfer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_hf_models.transfer.types import Ranges

# The journal


@given(pairs=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=30))
def test_ranges_are_a_set_of_positions(pairs: list[tuple[int, int]]) -> None:
    ranges, plain = Ranges(), set()
    for start, end in pairs:
        ranges.add(start, end)
        plain |= set(range(start, end))
    assert {i for start, end in ranges for i in range(start, end)} == plain
    assert ranges.total == len(plain)
    assert {i for start, end in ranges.iter_gaps(61) for i in range(start, end)} == set(range(61)) - plain
    for i in range(61):
        run = ranges.find_run_end(i)
        assert set(range(i, run)) <= plain
        assert run not in plain
