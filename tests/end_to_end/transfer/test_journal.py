"""The journal of a long transfer, and damaged journals."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_hf_models.transfer import journal as transfer_journal
from llm_hf_models.transfer.journal import Identity, Journal, JournalState, read_journal

# The journal


def test_journal_stays_short_in_a_long_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(transfer_journal, "MAX_RECORDS", 50)
    path = tmp_path / "x.journal"
    journal = Journal(path, JournalState(Identity(10_000, "proof")))
    journal.validator('"etag"')
    for start in range(0, 2000, 2):
        journal.wrote(start, start + 1)
        if start % 20 == 0:
            journal.wrote(start + 1, start + 2)
            journal.synced(journal.count - 1)
        state = read_journal(path)
        assert state is not None
        assert state.done.end_of_run(start) > start
    journal.close()
    assert state.validator == '"etag"'
    assert state.done.total == 1100
    assert 1090 <= state.durable.total < 1100
    assert path.read_bytes().count(b"w ") < 1000 + 50


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_journal_never_claims_unwritten_bytes(tmp_path: Path, data: st.DataObject) -> None:
    size = 1000
    written = data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, 50)), max_size=12))
    path = tmp_path / "x.journal"
    identity = Identity(size, "proof")
    journal = Journal(path, JournalState(identity))
    true: set[int] = set()
    for start, length in written:
        end = min(size, start + length)
        journal.wrote(start, end)
        true |= set(range(start, end))
        if data.draw(st.booleans()):
            journal.synced(journal.count)
    journal.close()
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    path.write_bytes(bytes(raw[:cut]) + data.draw(st.binary(max_size=40)))
    state = read_journal(path)
    if state is not None:
        assert state.identity == identity
        claimed = {i for start, end in state.done for i in range(start, end)}
        assert claimed <= true
