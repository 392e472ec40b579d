"""The bars of a transfer: rows, total, rate, and the redraw in a terminal of any width."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from llm_hf_models.cli.live_lines import LiveLines
from llm_hf_models.cli.progress_bars import NO_NETWORK, SILENT_SECONDS, ProgressBars, name_file
from llm_hf_models.cli.views.downloads import make_event, make_watched
from llm_hf_models.downloads.types import DownloadView
from llm_hf_models.transfer.types import Event

SHARDS = [f"folder/Some-Long-Name-Q4_K_M-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
PROJECTOR = "folder/mmproj-F16.gguf"
PARTS = {**{path: f"shard {number}/3" for number, path in enumerate(SHARDS, 1)}, PROJECTOR: "projector"}
MB = 1_000_000


@dataclass(frozen=True)
class MovingFile:
    """A planned file, with the fields that progress needs."""

    path: str
    size: int = 4 * MB
    partial: int = 0


class Terminal:
    """A terminal whose width and clock a test sets."""

    def __init__(
        self,
        files: Sequence[MovingFile] = (),
        columns: int = 80,
        rows: int = 24,
        name: Callable[[str], str] = lambda path: PARTS.get(path, path),
    ) -> None:
        picture = pytest.importorskip("tests.tools.picture", reason="needs POSIX pseudo-terminals")
        self._render, self.output, self.now = picture.render_screen, io.StringIO(), 100.0
        self.columns, self.rows = columns, rows
        lines = LiveLines(self.output)
        lines.get_size = lambda: (self.columns, self.rows)  # type: ignore[method-assign]
        self.bars = ProgressBars(files, name=name, lines=lines, clock=lambda: self.now)

    def send(self, *events: Event) -> None:
        for event in events:
            self.bars.show(event)

    def draw(self) -> list[str]:
        """Return the lines of the screen."""
        self.bars.draw()
        return self.read()

    def read(self) -> list[str]:
        screen: str = self._render(self.output.getvalue())
        return screen.rstrip("\n").splitlines()

    def transfer(self, path: str, *amounts: int, seconds: float = 1.0) -> None:
        for done in amounts:
            self.send(Event("progress", path, done, 4 * MB))
            self.now += seconds


def test_rows_name_shards_and_projector_and_the_total_has_the_rate() -> None:
    terminal = Terminal([*map(MovingFile, SHARDS), MovingFile(PROJECTOR)])
    for path in (*SHARDS, PROJECTOR):
        terminal.send(Event("started", path, 0, 4 * MB))
    for megabyte in (1, 2):
        terminal.now += 1
        for path in (*SHARDS, PROJECTOR):
            terminal.send(Event("progress", path, megabyte * MB, 4 * MB))
    lines = terminal.draw()
    assert [line.split(" ━")[0].rstrip() for line in lines] == [
        "shard 1/3",
        "shard 2/3",
        "shard 3/3",
        "projector",
        "total",
    ]
    assert lines[0].endswith(" 50 %  2 MB of 4 MB")
    assert lines[-1].endswith(" 50 %  8 MB of 16 MB  4 MB/s  2 s left")


def test_finished_rows_make_room_and_the_total_stays() -> None:
    terminal = Terminal(list(map(MovingFile, SHARDS)))
    for path in SHARDS:
        terminal.send(Event("started", path, 0, 4 * MB))
    assert len(terminal.draw()) == 4
    terminal.send(Event("done", SHARDS[0], 4 * MB, 4 * MB))
    lines = terminal.draw()
    assert [line.split()[0] for line in lines] == ["shard", "shard", "total"]
    assert lines[0].startswith("shard 2/3")


@pytest.mark.parametrize("columns", [20, 30, 40, 60, 80, 200])
def test_lines_fit_any_width_and_keep_the_remaining_time(columns: int) -> None:
    terminal = Terminal(list(map(MovingFile, SHARDS)), columns)
    for path in SHARDS:
        terminal.send(Event("started", path, 0, 4 * MB))
    terminal.transfer(SHARDS[0], 10_000, 20_000)
    lines = terminal.draw()
    assert max(map(len, lines)) < columns
    assert len(lines) == 4
    if columns >= 40:
        assert lines[-1].endswith("min 58 s left")
        assert " 0 %" in lines[-1]


def test_changed_width_redraws_in_place() -> None:
    terminal = Terminal(list(map(MovingFile, SHARDS)), 80)
    for path in SHARDS:
        terminal.send(Event("started", path, 0, 4 * MB))
    terminal.draw()
    written = terminal.output.tell()
    terminal.bars.draw()
    assert terminal.output.tell() == written  # unchanged lines are not written again
    for terminal.columns in (40, 120, 60):
        lines = terminal.draw()
        assert [line.split()[0] for line in lines] == ["shard", "shard", "shard", "total"]
        assert max(map(len, lines)) < terminal.columns


def test_reason_replaces_the_rate_when_no_bytes_arrive() -> None:
    terminal = Terminal([MovingFile(SHARDS[0]), MovingFile(SHARDS[1])])
    terminal.send(*(Event("started", path, 0, 4 * MB) for path in SHARDS[:2]))
    terminal.transfer(SHARDS[0], MB, 2 * MB)
    assert terminal.draw()[-1].endswith("MB/s  6 s left")
    terminal.now += SILENT_SECONDS
    terminal.send(Event("progress", SHARDS[0], 2 * MB, 4 * MB))
    assert terminal.draw()[-1].endswith(f"2 MB of 8 MB  {NO_NETWORK}")
    terminal.transfer(SHARDS[1], MB)
    assert "left" in terminal.draw()[-1]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Event("waiting", "a.gguf", 10, 100, "No network: retrying in 2 s"), NO_NETWORK),
        (Event("stalled", "a.gguf", 10, 100, "example.org stopped sending data"), NO_NETWORK),
        (Event("waiting", "a.gguf", 10, 100, "Rate limited by example.org: retrying in 9 s"), "rate limited"),
        (Event("retrying", "a.gguf", 10, 100, "HTTP 503: retrying in 2 s"), "retrying"),
        (Event("waiting", "a.gguf", 10, 100, "queued", by_others=True), "queued"),
        (Event("verifying", "a.gguf", 10, 100), "verifying"),
    ],
    ids=["offline", "stalled", "rate limited", "refused", "queued", "hashing"],
)
def test_line_has_the_reason_for_a_silence(event: Event, reason: str) -> None:
    terminal = Terminal([MovingFile("a.gguf", 100)])
    terminal.send(Event("started", "a.gguf", 0, 100), event)
    terminal.now += SILENT_SECONDS
    terminal.send(Event("progress", "a.gguf", 10, 100))
    assert terminal.draw()[-1].endswith(f"10 B of 100 B  {reason}")


def test_problem_is_printed_once_above_the_bars() -> None:
    terminal = Terminal([MovingFile(SHARDS[0]), MovingFile(SHARDS[1])])
    for path, seconds in itertools.product(SHARDS[:2], (1, 2, 4)):
        terminal.send(Event("retrying", path, 0, 4 * MB, f"connection \x1b[2Jreset: retrying in {seconds} s"))
        terminal.draw()
    lines = terminal.draw()
    assert lines[0] == "shard 1/3: connection reset"
    assert [line.split()[0] for line in lines[1:]] == ["shard", "shard", "total"]


def test_received_bytes_of_an_earlier_pull_are_no_speed() -> None:
    terminal = Terminal([MovingFile("a.gguf", 100 * MB, 90 * MB)])
    terminal.send(Event("started", "a.gguf", 90 * MB, 100 * MB))
    terminal.now += 2
    terminal.send(Event("progress", "a.gguf", 92 * MB, 100 * MB))
    assert terminal.draw()[-1].endswith("92 %  92 MB of 100 MB  1 MB/s  8 s left")


def test_rehashed_file_is_verified_and_not_in_the_total() -> None:
    terminal = Terminal([MovingFile("a.gguf", 10 * MB), MovingFile("b.gguf", 10 * MB)])
    terminal.send(Event("started", "a.gguf", 0, 10 * MB), Event("verifying", "b.gguf", 6 * MB, 10 * MB))
    lines = terminal.draw()
    assert lines[1].endswith("6 MB of 10 MB  verifying")
    assert lines[2].endswith(" 0 %  0 B of 20 MB")


def test_bytes_are_verified_once_all_have_arrived() -> None:
    terminal = Terminal([MovingFile("a.gguf", 10), MovingFile("b.gguf", 10)])
    terminal.send(Event("done", "a.gguf", 10, 10), Event("verifying", "b.gguf", 10, 10))
    terminal.send(Event("progress", "b.gguf", 10, 10))
    assert terminal.draw()[-1].endswith("verifying")


def test_low_terminal_shows_a_part_of_the_rows() -> None:
    files = [MovingFile(f"{number}.gguf") for number in range(30)]
    terminal = Terminal(files, rows=6)
    terminal.send(*(Event("started", file.path, 0, 4 * MB) for file in files))
    lines = terminal.draw()
    assert len(lines) == 5
    assert lines[3] == "and 27 more"
    assert lines[4].startswith("total")


def test_long_name_keeps_its_end() -> None:
    terminal = Terminal([MovingFile(SHARDS[0])], name=name_file)
    terminal.send(Event("started", SHARDS[0], 0, 4 * MB))
    assert terminal.draw()[0].split()[0] == "Some-…-00001-of-00003.gguf"


def test_no_line_remains_after_success() -> None:
    terminal = Terminal([MovingFile("a.gguf"), MovingFile("b.gguf")])
    with terminal.bars as show:
        show(Event("started", "a.gguf", 0, 4 * MB))
        terminal.bars.draw()
    assert terminal.read() == []


def test_received_bytes_remain_without_a_rate_after_an_error() -> None:
    terminal = Terminal([MovingFile(path) for path in SHARDS])

    def fail() -> None:
        with terminal.bars as show:
            show(Event("started", SHARDS[0], 0, 4 * MB))
            terminal.transfer(SHARDS[0], MB, 3 * MB)
            terminal.bars.draw()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    (line,) = terminal.read()
    assert line.startswith("total")
    assert line.endswith(" 25 %  3 MB of 12 MB")


def test_terminal_that_is_stopped_does_not_stop_the_transfer() -> None:
    """Ctrl-S stops a terminal: a write to it then waits."""
    writing, resume = threading.Event(), threading.Event()
    terminal = Terminal([MovingFile("a.gguf")])

    def write(_text: str) -> None:
        writing.set()
        assert resume.wait(60)

    terminal.output = SimpleNamespace(encoding="utf-8", write=write, flush=lambda: None)  # type: ignore[assignment]
    terminal.bars._lines.stream = terminal.output
    with terminal.bars as show:
        show(Event("started", "a.gguf", 0, 4 * MB))
        assert writing.wait(60)
        show(Event("progress", "a.gguf", MB, 4 * MB))
        resume.set()


def make_row(number: int, state: str, done: int, error: str | None = None) -> DownloadView:
    return DownloadView(
        number, f"owner/model-{number}", state, None, "owner/model", "c" * 40, "Q4_K_M", 10 * MB, done, None, None, 1,
        error, "cli", True, 0.0, 0.0,
    )  # type: ignore[arg-type]  # fmt: skip


def test_watched_downloads_have_their_state_and_a_total() -> None:
    states = [("running", 0), ("queued", 0), ("paused", MB), ("verifying", 10 * MB)]
    rows = [make_row(number, *state) for number, state in enumerate(states, 1)]
    terminal = Terminal([MovingFile(*vars(make_watched(row)).values()) for row in rows], name=str)
    terminal.send(*map(make_event, rows))
    terminal.now += 1
    terminal.send(make_event(make_row(1, "running", MB)))
    lines = terminal.draw()
    assert [line.split()[:2] for line in lines[:4]] == [[str(number), f"model-{number}"] for number in (1, 2, 3, 4)]
    for line, state in zip(lines[1:4], ("queued", "paused", "verifying"), strict=True):
        assert line.endswith(state)
    assert lines[4].endswith("12 MB of 40 MB  1 MB/s  28 s left")
    terminal.now += SILENT_SECONDS
    terminal.send(make_event(make_row(1, "running", MB, "a.gguf: No network: retrying in 2 s")))
    lines = terminal.draw()
    assert lines[0] == "1 model-1: a.gguf: No network"
    assert NO_NETWORK in lines[-1]
