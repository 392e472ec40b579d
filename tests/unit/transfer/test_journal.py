"""The journal of a transfer: which bytes it may claim after a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_hf_models.system import processes as journals
from llm_hf_models.transfer.journal import Identity, Journal, JournalState, read_journal

# The journal


def test_only_synced_bytes_are_trusted_after_power_loss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    journal = Journal(path, JournalState(Identity(100, "proof")))
    journal.wrote(0, 10)
    count = journal.count
    journal.wrote(20, 30)
    journal.synced(count)
    journal.close()
    before = read_journal(path)
    assert before is not None
    assert list(before.done) == [(0, 10), (20, 30)]
    another_boot = tmp_path / "boot_id"
    another_boot.write_text("another\n")
    monkeypatch.setattr(journals, "_BOOT_ID", another_boot)
    after = read_journal(path)
    assert after is not None
    assert list(after.done) == [(0, 10)]
