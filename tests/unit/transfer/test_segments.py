"""How bytes are divided among connections, and how many connections there are. Times are simulated."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_hf_models.transfer import pacing
from llm_hf_models.transfer import segments as transfer_segments
from llm_hf_models.transfer.pacing import (
    REFUSED_SECONDS,
    REPROBE_SECONDS,
    TRIAL_SECONDS,
    ConnectionTuner,
    RateLimiter,
)
from llm_hf_models.transfer.segments import (
    MAX_SEGMENTS_BYTES,
    MIN_SEGMENT_BYTES,
    Segment,
    SegmentQueue,
)
from llm_hf_models.transfer.types import Ranges

MB = 1 << 20


def watch_width(
    width: ConnectionTuner, rate: float, *, seconds: float, start: float = 0.0, cores: float = 0.0
) -> float:
    """Let `width` observe connections with `rate` bytes per second that keep `cores` busy; return the time after."""
    for step in range(1, int(seconds / 0.05) + 1):
        now = start + step * 0.05
        width.update(now, int(now * rate), width.wanted, cpu=now * cores)
    return now


def grow_width(width: ConnectionTuner, each: float, *, cores_each: float = 0.0) -> float:
    """Let `width` observe connections with `each` bytes per second until it wants no more; return the seconds."""
    now = fetched = cpu = 0.0
    while width.wanted < 8 and now < 5:
        now += 0.05
        fetched += 0.05 * width.wanted * each
        cpu += 0.05 * width.wanted * cores_each
        width.update(now, int(fetched), width.wanted, cpu=cpu)
    return now


@given(
    size=st.integers(1, 700 * MB),
    done=st.lists(st.tuples(st.integers(0, 700 * MB), st.integers(1, 90 * MB)), max_size=4),
    sharers=st.integers(1, 16),
    stops=st.lists(st.floats(0, 1), max_size=12),
)
def test_each_missing_byte_is_handed_out_exactly_once(
    size: int, done: list[tuple[int, int]], sharers: int, stops: list[float]
) -> None:
    have = Ranges()
    for start, length in done:
        have.add(min(start, size), min(start + length, size))
    segments, missing = SegmentQueue(size, have), size - have.total
    fetched = 0
    while not segments.is_finished:
        active = [segment for _ in range(sharers) if (segment := segments.take(sharers))]
        assert active
        for segment in active:
            left = segments.count_remaining(segment)
            count = segments.advance(segment, int(left * stops.pop()) if stops else left)
            have.add(segment.position - count, segment.position)
            fetched += count
            segments.give_back(segment)
    assert fetched == missing
    assert list(have) == [(0, size)]


def test_pieces_become_smaller_towards_the_end() -> None:
    segments = SegmentQueue(2048 * MB, Ranges())
    pieces: list[Segment] = []
    while piece := segments.take(8):
        pieces.append(piece)
        segments.advance(piece, piece.end - piece.position)
    sizes = [piece.end - piece.first for piece in pieces]
    assert sizes[0] == MAX_SEGMENTS_BYTES // 8
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert max(sizes[-4:]) < 2 * MIN_SEGMENT_BYTES


def test_single_connection_takes_few_pieces() -> None:
    segments = SegmentQueue(2048 * MB, Ranges())
    requests = 0
    while piece := segments.take(1):
        requests += 1
        segments.advance(piece, piece.end - piece.position)
        segments.give_back(piece)
    assert requests == 4


def test_rest_that_is_too_small_to_share_is_not_shared() -> None:
    segments = SegmentQueue(MB, Ranges())
    assert segments.has_work
    piece = segments.take(8)
    assert piece is not None
    assert not segments.has_work
    assert segments.take(8) is None
    segments.give_back(piece)
    assert segments.has_work


def test_small_rest_is_taken_over_from_a_slow_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfer_segments, "SPLIT_SECONDS", 0.0)
    segments = SegmentQueue(MB, Ranges())
    slow = segments.take(8)
    assert slow is not None
    assert segments.advance(slow, 1) == 1
    assert segments.take(8) is None
    monkeypatch.setattr(transfer_segments, "RESCUE_SECONDS", 0.0)
    quick = segments.take(8)
    assert quick is not None
    assert (quick.position, quick.end) == (1, MB)
    assert segments.advance(slow, 5) == 0


def test_slow_connections_are_joined_by_others_within_half_a_second() -> None:
    width = ConnectionTuner(8, cores=2)
    assert grow_width(width, 10e6) < 0.5
    assert width.wanted == 8


def test_fast_connections_are_joined_by_others_if_cores_are_idle() -> None:
    width = ConnectionTuner(8, cores=8)
    grow_width(width, 250e6, cores_each=0.4)
    assert width.wanted == 4  # a gigabyte a second: no digest is much faster


def test_machine_busy_with_one_connection_gets_no_others() -> None:
    width = ConnectionTuner(8, cores=2)
    grow_width(width, 250e6, cores_each=1.2)
    assert width.wanted == width.planned == 1


def test_useless_connections_are_removed_and_tried_again_later() -> None:
    width = ConnectionTuner(8, cores=2)
    now = 0.0
    for patience in (5, REPROBE_SECONDS + 5):
        tried = set()
        until = now + patience
        while now < until:
            now = watch_width(width, 12e6, seconds=0.1, start=now)
            tried.add(width.wanted)
        assert tried == {1, 4}
        assert width.wanted == width.planned == 1


def test_wire_faster_than_the_cpu_gets_one_connection() -> None:
    width = ConnectionTuner(8, cores=2)
    assert width.planned == 8
    watch_width(width, 900e6, seconds=1)
    assert width.wanted == width.planned == 1


def test_limit_reached_by_one_connection_adds_no_others() -> None:
    width = ConnectionTuner(8, cores=2)
    for step in range(20):
        width.update(step * 0.05, int(step * 0.05 * 2e6), 1, cpu=0, limit=2_000_000)
    assert width.wanted == width.planned == 1


def test_changed_limit_does_not_count_earlier_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "RATE_RECHECK_SECONDS", 0.0)
    rate, stopped = [50_000], threading.Event()
    stopped.set()
    pace = RateLimiter(lambda: rate[0])
    pace.throttle(6 * MB, stopped)
    rate[0] = 10_000_000
    pace.throttle(1, threading.Event())  # two minutes, if all were counted


def test_server_that_refuses_connections_gets_no_more_requests() -> None:
    width = ConnectionTuner(8, cores=2)
    width.record_refusal(3, 0.0)
    now = watch_width(width, 1e6, seconds=REFUSED_SECONDS - 1)
    assert width.wanted == 3
    now = watch_width(width, 1e6, seconds=2 * TRIAL_SECONDS, start=now)
    assert width.wanted == 8, "but perhaps later"
