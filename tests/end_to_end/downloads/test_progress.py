"""The progress of a pull on a real terminal."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("pty", reason="needs POSIX pseudo-terminals")

import fcntl
import pty
import termios

from llm_hf_models import Library
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import HubServer, Stall
from tests.tools.picture import render_screen

REPO = "owner/tiny-GGUF"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Provide a Hub with a model of three shards, whose storage stalls after some bytes of each response."""
    tiny_chat(tmp_path / "tiny-Q8_0.gguf", shards=3, weights_bytes=1_000_000)
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add_repo(REPO, {path.name: path for path in tmp_path.glob("*.gguf")})
        Library().plan(REPO)  # reads the header before the storage stalls
        hub.fault(Stall(after=30_000), on=".gguf", side="storage", times=None)
        yield hub


class Pull:
    """A pull in a terminal of its own."""

    def __init__(self, columns: int) -> None:
        self._child, self._terminal = pty.fork()
        if self._child == 0:
            os.execv(sys.executable, [sys.executable, "-m", "llm", "hf", "pull", REPO])
        self.resize(columns)
        self._output = ""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read_until(self, text: str) -> list[str]:
        """Return the lines of the screen once the process has written a text."""
        start = len(self._output)
        while text not in self._output[start:]:
            self._output += os.read(self._terminal, 10_000).decode()
        return self.read_screen()

    def read_screen(self) -> list[str]:
        return render_screen(self._output).replace("\x1b[0m", "").rstrip().splitlines()

    def press(self, key: bytes) -> None:
        os.write(self._terminal, key)

    def end(self) -> tuple[int, list[str]]:
        """Return the exit code and the lines of the last screen."""
        with suppress(OSError):  # Linux reports the closed other side as this error
            while block := os.read(self._terminal, 10_000):
                self._output += block.decode()
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1]), self.read_screen()


def test_bars_show_a_stall_fit_a_new_width_and_leave_no_trace(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    pulling = Pull(80)
    lines = pulling.read_until("waiting for the network")
    pulling.resize(40)
    narrow = pulling.read_until("waiting for the network")
    for shown, width in ((lines, 80), (narrow, 40)):
        assert [line[:9].strip() for line in shown[-4:]] == ["shard 1/3", "shard 2/3", "shard 3/3", "total"]
        assert max(len(line) for line in shown[-4:]) < width
    hub.clear()
    code, screen = pulling.end()
    assert code == 0
    first_words = [line.split()[0] for line in screen]
    assert first_words[:3] == [f"{REPO},", "Press", "Downloaded"]
    assert first_words[-2:] == ["Prompt", f"hf/{REPO}:Q8_0"]
    assert not {"shard", "total"} & set(first_words)


@pytest.mark.usefixtures("hub")
def test_ctrl_c_leaves_the_received_bytes_without_a_rate() -> None:
    pulling = Pull(80)
    pulling.read_until("waiting for the network")
    pulling.press(b"\x03")
    code, screen = pulling.end()
    assert code == 130
    (total,) = [line for line in screen if line.startswith("total")]
    assert " of 1" in total
    assert "waiting" not in total
    assert screen[screen.index(total) + 1].startswith("Interrupted; the downloaded part is kept")
