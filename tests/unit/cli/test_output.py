"""Tables, JSON, errors and progress, with the real values of the service."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TextIO

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli import layout, output
from llm_hf_models.cli.layout import Column
from llm_hf_models.cli.progress import LINE_SECONDS, ProgressLines, show_progress
from llm_hf_models.cli.views import gguf as gguf_views
from llm_hf_models.cli.views import hub as hub_views
from llm_hf_models.cli.views import local as local_views
from llm_hf_models.downloads.types import DownloadEvent, DownloadView
from llm_hf_models.errors import DigestMismatchError, HfModelsError, InterruptedByUserError
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.memory_fit import Fit
from llm_hf_models.gguf.rules import Finding
from llm_hf_models.hub.tokens import Token
from llm_hf_models.hub.types import Location
from llm_hf_models.library.records import Check, EngineRow, LocalFile, LocalModel
from llm_hf_models.models.repos.types import CheckReport, ModelInfo, SearchPage, SearchResult, VariantInfo
from llm_hf_models.models.types import Freshness, LocalModelView
from llm_hf_models.system import json_values
from llm_hf_models.system.text import is_hidden
from llm_hf_models.transfer.types import Event

ESCAPE = "\x1b"
NOW = datetime.now(timezone.utc)


# JSON


def test_json_has_properties_as_well_as_fields(tmp_path: Path) -> None:
    file = LocalFile("m.gguf", "weights", 5, str(tmp_path / "gone"))
    model = LocalModel("hf/o/n:Q8_0", "o/n", None, "c" * 40, "Q8_0", (file,), ModelFacts())
    found: Any = json_values.to_json(model)
    assert found["state"] == "missing"
    assert found["size"] == 5
    assert found["files"][0]["path"] == "m.gguf"


def test_json_of_a_subclass_has_the_properties_of_its_base() -> None:
    found: Any = json_values.to_json(VariantInfo("Q8_0", ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf"), 9))
    assert found["shards"] == 2
    assert found["all_files"] == ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]


@pytest.mark.parametrize(
    "value",
    [
        Token("hf_secret", "environment"),
        Location("https://x/y", {"authorization": "Bearer hf_secret"}, 1, "e", "c"),
        EngineRow("f", "m", 1, 0.0, "/run/x.sock", key="hf_secret"),
    ],
)
def test_json_never_contains_a_secret(value: object) -> None:
    assert "hf_secret" not in json.dumps(json_values.to_json(value))


def test_json_writes_times_paths_and_special_numbers_as_text() -> None:
    value = {"at": datetime(2026, 3, 1, tzinfo=timezone.utc), "path": Path("a/b"), "nan": float("nan"), 3: {2, 1}}
    assert json_values.to_json(value) == {
        "at": "2026-03-01T00:00:00Z", "path": str(Path("a/b")), "nan": "nan", "3": [1, 2],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1796002440.9, "2026-11-30T01:34:00Z"),
        (-1.5, "1969-12-31T23:59:58Z"),
        (datetime(2026, 3, 1, 5, 30, 7, 999, tzinfo=timezone(timedelta(hours=5.5))), "2026-03-01T00:00:07Z"),
        (1e20, "1e+20"),
        (float("nan"), "nan"),
    ],
)
def test_json_has_times_in_utc(at: float | datetime, text: str) -> None:
    assert json_values.format_utc(at) == text


def test_json_of_a_result_has_texts_for_its_times_only() -> None:
    row = DownloadView(
        1, "o/n:Q4", "running", None, "o/n", "c" * 40, "Q4", 100, 50, 5.5, 9.1, 1, None, "cli", True, 0.0, 1.5
    )  # fmt: skip
    found = DownloadEvent("progress", row).to_dict()["download"]
    assert (found["created"], found["updated"]) == ("1970-01-01T00:00:00Z", "1970-01-01T00:00:01Z")
    assert (found["bytes_per_second"], found["remaining_seconds"], row.updated) == (5.5, 9.1, 1.5)
    assert found == json_values.to_json(row) == json_values.to_json([row])[0]  # type: ignore[index]
    schema = json_values.build_schema(DownloadView)["properties"]
    assert schema["created"] == {"type": "string", "description": "UTC, ISO 8601"}
    assert schema["remaining_seconds"]["anyOf"][0] == {"type": "number"}


def test_json_has_no_unix_time_in_any_result() -> None:
    check = Check("digest", "matches", 0.0, {"files": 2.0})
    assert json_values.to_json({"checks": (check,)}) == {
        "checks": [{"kind": "digest", "result": "matches", "at": "1970-01-01T00:00:00Z", "detail": {"files": 2.0}}]
    }
    never = LocalModel("hf/o/n:Q8_0", "o/n", None, "c" * 40, "Q8_0", (), ModelFacts())
    found: Any = json_values.to_json([never, replace(never, last_used=61.0)])
    assert [one["last_used"] for one in found] == [None, "1970-01-01T00:01:01Z"]


def test_json_refuses_values_without_a_json_form() -> None:
    with pytest.raises(TypeError, match="bytes"):
        json_values.to_json({"raw": b"\x00"})


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)


@given(nested)
def test_json_of_any_nested_value_is_strict(value: object) -> None:
    text = json.dumps(json_values.to_json(value), allow_nan=False)
    assert json.loads(text) == json_values.to_json(value)


# Tables


COLUMNS = [Column("ID", min_width=8), Column("SIZE", 1, right=True), Column("NOTE", 3, min_width=6), Column("TASK", 2)]
ROWS = [["owner/one", "1 MB", "a longer note", "chat"], ["owner/two", "10 MB", "", "embed"]]


def test_table_without_a_limit_cuts_nothing_and_has_no_tabs() -> None:
    assert layout.format_table(COLUMNS, ROWS, max_width=None).splitlines()[1:] == [
        "owner/one   1 MB  a longer note  chat",
        "owner/two  10 MB                 embed",
    ]


def test_least_important_column_is_cut_and_then_dropped() -> None:
    cut = layout.format_table(COLUMNS, ROWS, max_width=34).splitlines()
    assert cut[1] == "owner/one   1 MB  a longer…  chat"
    dropped = layout.format_table(COLUMNS, ROWS, max_width=24).splitlines()
    assert dropped[1] == "owner/one   1 MB  chat"
    last = layout.format_table(COLUMNS, ROWS, max_width=9).splitlines()
    assert last[1] == "owner/one"


def test_wrapping_column_continues_on_the_next_line() -> None:
    columns = [Column("KEY"), Column("WHAT", 1, min_width=10, wrap=True)]
    lines = layout.format_table(columns, [["a", "one two three four"], ["b", "five"]], max_width=18).splitlines()
    assert lines[1:] == ["a    one two three", "     four", "b    five"]


def test_extra_column_is_dropped_before_another_is_cut() -> None:
    columns = [Column("ID", min_width=8, keep_end=True), Column("TAGS", 9, min_width=5, extra=True), Column("FITS", 1)]
    rows = [["owner/a-long-name:Q8_0", "one two three", "yes"]]
    assert layout.format_table(columns, rows, max_width=35).splitlines()[1] == "owner/a-long-name:Q8_0  one …  yes"
    assert layout.format_table(columns, rows, max_width=30).splitlines()[1] == "owner/a-long-name:Q8_0  yes"
    assert layout.format_table(columns, rows, max_width=24).splitlines()[1] == "owner/a-lon…e:Q8_0  yes"


def test_column_without_room_continues_below_its_row() -> None:
    words = Column("WHAT", 1, min_width=12, wrap=True, below=True)
    path = Column("PATH", below=True)
    rows = [["key", "a text of several words", "/a/path/that/is/longer/than/the/terminal"]]
    lines = layout.format_table([Column("KEY", min_width=3), words, path], rows, max_width=20).splitlines()
    assert lines[1:] == ["key", "    a text of", "    several words", f"    {rows[0][2]}"]
    wide = layout.format_table([Column("KEY"), words, path], rows, max_width=80).splitlines()
    assert wide[1] == f"key  {rows[0][1]}  {rows[0][2]}"


@given(
    st.lists(st.lists(st.text(max_size=60), min_size=4, max_size=4), max_size=5),
    st.integers(min_value=12, max_value=120),
)
def test_table_is_never_wider_than_its_limit(rows: list[list[str]], limit: int) -> None:
    text = re.sub(r"\x1b\[\d+m", "", layout.format_table(COLUMNS, rows, max_width=limit))
    lines = text.split("\n")
    assert len(lines) == len(rows) + 1
    assert all(layout.count_cells(line) <= limit for line in lines)


def test_empty_column_is_omitted() -> None:
    assert "NOTE" not in layout.format_table(COLUMNS, [["a", "1", "", "x"]], max_width=None)


def test_wide_characters_keep_columns_aligned() -> None:
    lines = layout.format_table(
        [Column("NAME"), Column("N")], [["模型", "1"], ["abcd", "2"]], max_width=None
    ).splitlines()
    assert lines[1:] == ["模型  1", "abcd  2"]


def test_untrusted_text_can_not_control_the_terminal() -> None:
    hostile = f"{ESCAPE}[2Jname{ESCAPE}]0;title\x07\u202e\x07"
    rows = layout.format_table([Column("ID")], [[hostile]], max_width=None).splitlines()[1:]
    assert rows == ["name"]
    assert layout.format_fields([("Label", hostile)], max_width=None) == "Label  name"


def test_long_facts_continue_indented() -> None:
    text = layout.format_fields([("Reason", "one two three four five six"), ("None", None), ("X", "y")], max_width=30)
    assert text == "Reason  one two three four\n        five six\nX       y"


def test_search_fits_eighty_columns() -> None:
    row = SearchResult(
        "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF", "unsloth", task="text-generation", size=18_000_000_000,
        parameters=30_500_000_000, downloads=123_456, likes=512, updated=NOW - timedelta(days=3), license="apache-2.0",
        gated="manual", tags=("gguf", "license:apache-2.0", "conversational"),
        local_models=("hf/unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF:Q4_K_M",), fits=False,
        recommended_quant="UD-Q4_K_XL", recommended_bytes=18_600_000_000,
    )  # fmt: skip
    page = SearchPage((row,), Freshness("hub"))
    narrow, whole = hub_views.render_search(page, 80), hub_views.render_search(page, None)
    assert all(layout.count_cells(line) <= 80 for line in re.sub(r"\x1b\[\d+m", "", narrow).splitlines())
    for text in ("unsloth/Qwen3-Coder-30B", "…Instruct-GGUF", "30.5B", "~18.6 GB", "no", "Q4_K_M", "manual"):
        assert text in narrow
    assert not any(title in narrow for title in ("LIKES", "UPDATED", "TAGS"))
    for text in (row.id, "text-generation", "123,456", "512", "3 d", "apache-2.0", "conversational", "UD-Q4_K_XL"):
        assert text in whole


def test_empty_search_suggests_wider_filters() -> None:
    words = hub_views.render_no_results(SearchPage((), Freshness("hub"), ("drop --fits", "use fewer words")))
    assert words == "No results. To find more:\n  drop --fits\n  use fewer words"


@pytest.mark.parametrize(
    ("fresh", "words"),
    [
        (Freshness("hub"), None),
        (Freshness("cache", 200), "Showing cached data from 3 min 20 s ago. Use --refresh for new data."),
        (Freshness("cache", 200, stale=True), "The Hub is unreachable. Showing cached data from 3 min 20 s ago."),
    ],
)
def test_cached_result_shows_its_age(fresh: Freshness, words: str | None) -> None:
    assert hub_views.render_freshness(fresh) == words


def test_info_shows_each_variant_and_the_recommended_one() -> None:
    fits = Fit(True, 5_200_000_000, 7_100_000_000, 8192, "needs 5.2 GB of 7.1 GB free at 8192 tokens")
    too_large = Fit(False, 9_000_000_000, 7_100_000_000, 8192, "needs 9 GB of 7.1 GB free at 8192 tokens")
    found = ModelInfo(
        "o/n", "o", commit="c" * 40, license="mit", gated="auto", access="Ask for access on the page.",
        chat_template=True, facts=ModelFacts(kind="chat", tools=True, context_length=40960),
        variants=(
            VariantInfo("Q8_0", ("a.Q8_0.gguf",), 8_000_000_000, bits_per_weight=8.5, fit=too_large),
            VariantInfo("Q4_K_M", ("a.Q4_K_M.gguf",), 4_200_000_000, mmproj="mmproj.gguf", mmproj_size=9, fit=fits,
                        chosen=True, local_model="hf/o/n:Q4_K_M"),
        ),
        choice_reason="Q4_K_M: the best that fits", scan="no issue reported",
        scan_state="no issue reported",
    )  # fmt: skip
    text = re.sub(r"\x1b\[\d+m", "", hub_views.render_info(found, 100))
    assert re.search(r"Q8_0 +8\.5 +8 GB +no +needs 9 GB", text)
    assert re.search(r"Q4_K_M +4\.2 GB +9 B +yes +yes +needs 5\.2 GB", text)
    assert "A plain pull chooses Q4_K_M: the best that fits" in text
    for said in ("yes, with tools", "40,960 tokens", "auto", "Ask for access on the page.", "no issue reported", "mit"):
        assert said in text


def make_local_model(**changes: Any) -> LocalModelView:
    values: dict[str, Any] = {
        "id": "hf/o/n:Q8_0", "aliases": ("n", "n:Q8_0"), "state": "ready", "kind": "chat", "repo": "o/n",
        "revision": None, "commit": "c" * 40, "quant": "Q8_0", "size_bytes": 5_000_000,
        "facts": ModelFacts(kind="chat"),
        "files": (LocalFile("n.Q8_0.gguf", "weights", 5_000_000, "/cache/n.Q8_0.gguf"),), "options": {},
        "checks": (), "added": time.time(), "last_used": None, "hub": {},
    }  # fmt: skip
    return LocalModelView(**{**values, **changes})


def test_list_shows_the_state_of_each_model_and_the_fix() -> None:
    gone = make_local_model(id="hf/o/gone:Q4_0", aliases=(), state="missing", fix="llm hf pull o/gone:Q4_0")
    rows = [local_views.summarize(model) for model in (make_local_model(), gone)]
    text = re.sub(r"\x1b\[\d+m", "", local_views.render_local_models(rows, 120))
    assert re.search(r"n +hf/o/n:Q8_0 +5 MB +ready +chat +never +Q8_0 +c{12} +n:Q8_0", text)
    assert re.search(r"  +hf/o/gone:Q4_0 .* missing", text)
    assert local_views.render_repairs(rows) == "hf/o/gone:Q4_0 is missing: llm hf pull o/gone:Q4_0"


def test_show_lists_each_fact_with_its_date() -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=timezone.utc).timestamp()
    day = cli_format.format_date(at)
    assert re.fullmatch(r"2026-03-0[12] \d\d:\d\d (UTC|[+-]\d\d:\d\d)", day)
    checks = (
        Check("digest", "matches", at, {"repo": "o/n", "commit": "c" * 40}),
        Check("scan", "not reported", at),
        Check("structure", "valid", at, {"findings": [{"severity": "warning", "message": "odd alignment"}]}),
        Check("structure", "errors", at - 10),
    )
    text = local_views.render_local_model(make_local_model(checks=checks), 100)
    assert f"Digest         matches o/n@{'c' * 12}, {day}" in text
    assert f"Hub scan       not reported, {day}" in text
    assert f"Structure      valid, {day}\n               warning: odd alignment" in text
    assert "errors" not in text, "the newest fact of a kind counts"
    assert "safe" not in text


@pytest.mark.parametrize(
    ("zone", "shown"), [("UTC", "2026-03-01 12:00:05 UTC"), ("Asia/Kolkata", "2026-03-01 17:30:05 +05:30")]
)
def test_times_have_a_zone(zone: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        at = datetime(2026, 3, 1, 12, 0, 5, tzinfo=timezone.utc)
        assert cli_format.format_time(at.timestamp()) == shown
        assert cli_format.format_date(at) == shown.replace(":05 ", " ")
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("speed", "shown"), [(None, ""), (0.84, "0.8 tokens/s"), (99.96, "100 tokens/s"), (12345.6, "12,346 tokens/s")]
)
def test_speed_has_three_digits(speed: float | None, shown: str) -> None:
    assert cli_format.format_speed(speed) == shown


def test_reason_of_a_finding_is_below_it_in_a_narrow_terminal() -> None:
    why = "A tensor past the end of the file is bad."
    found = Finding("tensor-past-end", "error", "structure", "The tensor data needs 9 bytes.", why=why)
    report = CheckReport("m.gguf", 1, 0, (found,), complete=True)
    lines = gguf_views.render_check(report, 80).splitlines()
    assert lines[1:3] == ["error     tensor-past-end  The tensor data needs 9 bytes.", f"    {why}"]
    assert gguf_views.render_check(report, 120).splitlines()[1].endswith(f"needs 9 bytes.  {why}")


def test_metadata_is_rounded_and_arrays_are_summarised() -> None:
    values = {
        "small": 9.999999747378752e-06, "whole": 1000000.0, "count": 262144, "flag": True, "text": "llama",
        "few": [1, 2.5, "a"], "many": ["<unk>", *range(999)], "skipped": {"type_name": "string", "length": 151936},
        "long": {"length": 1_000_000}, "nested": [[1, 2], [3]],
    }  # fmt: skip
    rows = dict(line.split(maxsplit=1) for line in gguf_views.render_metadata(values, None).splitlines()[1:])
    assert rows == {
        "small": "1e-05", "whole": "1,000,000", "count": "262,144", "flag": "true", "text": "llama",
        "few": '[1, 2.5, "a"]', "many": '1,000 values: "<unk>", 0, 1, 2, 3, 4, …',
        "skipped": "151,936 values of type string", "long": "text of 1,000,000 bytes", "nested": "[[1, 2], [3]]",
    }  # fmt: skip


def test_each_kind_of_model_names_its_command() -> None:
    assert cli_format.suggest_usage("hf/o/n:Q8_0", ("n", "n:Q8_0"), "chat") == "Prompt it: llm -m n 'hello'"
    assert "continues a text: llm -m n 'Once" in cli_format.suggest_usage("hf/o/n:Q8_0", ("n",), "base")
    assert cli_format.suggest_usage("hf/o/n:Q8_0", (), "embedding") == "Embed text: llm embed -m hf/o/n:Q8_0 -c 'hello'"


@pytest.mark.parametrize(
    ("days", "words"), [(0.01, "14 min"), (1.5, "36 h"), (3, "3 d"), (59, "59 d"), (61, "2 months"), (800, "2 years")]
)
def test_ages_have_one_unit(days: float, words: str) -> None:
    assert cli_format.format_age(time.time() - days * 86400) == words


# The card


def test_card_has_no_control_characters_and_links_show_their_target() -> None:
    card = f"# Title\n\nSome *text* {ESCAPE}[31mred and [a link](https://example.org/x).\n\n- one\n- two\n"
    text = output.render_markdown(card, max_width=60)
    assert ESCAPE not in text
    assert "https://example.org/x" in text
    assert "*text*" not in text
    assert max(map(len, text.splitlines())) <= 60


def test_piped_card_stays_markdown() -> None:
    assert output.render_markdown(f"# Title\n\n*text* {ESCAPE}[31mred\n", max_width=None) == "# Title\n\n*text* red"


# Errors, colour and pipes


def test_error_has_message_cause_and_hint_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    error = DigestMismatchError(f"not the file{ESCAPE}[2J", cause="two digests\ndiffer", hint="pull it again")
    assert output.print_error(error) == 1
    text = capsys.readouterr()
    assert text.err == "Error: not the file\ntwo digests\ndiffer\npull it again\n"
    assert text.out == ""


def test_number_stays_with_its_unit_when_a_line_is_wrapped() -> None:
    assert layout.wrap_words("done in 15 min 20 s (16.7 MB/s)", 15) == "done in 15 min\n20 s\n(16.7 MB/s)"
    assert layout.wrap_words("sent 2 big files in all", 8) == "sent 2\nbig\nfiles in\nall"


def test_notes_and_errors_wrap_at_words(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    path = "/a/path/that/is/longer/than/the/terminal"
    output.print_error(HfModelsError("a message of more than thirty cells", cause=f"see {path}", hint="  two\n  lines"))
    output.note(click.style("a note that is dim and has several words", dim=True))
    assert capsys.readouterr().err.splitlines() == [
        "Error: a message of more than", "thirty cells", "see", path, "  two", "  lines",
        "a note that is dim and has", "several words",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InterruptedByUserError(output.INTERRUPTED), "Interrupted; run the same command to continue."),
        (InterruptedByUserError("Cancelled", cause="not shown", hint="llm hf retry 3"), "Cancelled. llm hf retry 3"),
    ],
)
def test_interruption_is_one_line(error: HfModelsError, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert output.print_error(error) == 130
    assert capsys.readouterr().err == f"{line}\n"


@contextmanager
def open_terminal() -> Iterator[TextIO]:
    """Provide a stream that is a terminal."""
    pty = pytest.importorskip("pty", reason="needs POSIX pseudo-terminals")
    ours, theirs = pty.openpty()
    try:
        with os.fdopen(theirs, "w") as stream:
            yield stream
    finally:
        os.close(ours)


def test_colour_is_used_only_on_terminals_that_accept_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with open_terminal() as stream:
        assert output.has_colour(stream)
        monkeypatch.setenv("NO_COLOR", "1")
        assert not output.has_colour(stream)
    assert not output.has_colour(io.StringIO())


def test_closed_pipe_ends_a_command_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", "from llm_hf_models.cli.main import hf; hf()", "settings"],
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
    )  # fmt: skip
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == output.CLOSED_PIPE_EXIT


@given(st.text(st.characters(categories=["Cf", "Cc", "Cs", "Ll", "Lo", "Co"]), max_size=20))
@example("\x7f")
@example("\x80\x9b2J\x9f")
def test_json_escapes_hidden_characters_and_keeps_the_value(text: str) -> None:
    shown = io.StringIO()
    with redirect_stdout(shown):
        output.print_json({"name": text})
    assert json.loads(shown.getvalue()) == {"name": text}
    assert not any(is_hidden(char) for char in shown.getvalue().replace("\n", ""))


def run_settings(where: str) -> subprocess.CompletedProcess[str]:
    """Run `llm hf settings` in a shell that redirects its streams."""
    program = shlex.join([sys.executable, "-c", "from llm_hf_models.cli.main import hf; hf()", "settings"])
    return subprocess.run(
        ["/bin/sh", "-c", f"{program} {where}"], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk on request")
def test_full_disk_behind_stdout_gives_one_clear_error() -> None:
    done = run_settings(">/dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: Can't write to standard output",
        "No space left on device",
    ]


@pytest.mark.skipif(os.name != "posix", reason="a shell's redirections")
@pytest.mark.parametrize("where", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_streams_closed_from_the_start_do_not_end_a_command(where: str) -> None:
    done = run_settings(where)
    assert done.returncode == 0
    assert done.stderr == ""
    assert ("keep_alive" in done.stdout) == (">&-" not in where.split())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk on request")
def test_unencodable_text_does_not_end_a_command() -> None:
    code = "from llm_hf_models.cli import output; output.note('words'); output.emit('data')"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, check=False, timeout=60
        )
    assert done.stdout == b"data\n"


@pytest.mark.parametrize("columns", ["", "0", "-1", "\u00b2", "many", "9" * 30])
def test_invalid_column_settings_change_only_the_layout(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    limit = output.get_width()
    assert limit is None or limit >= 0
    assert "Title" in output.render_markdown("# Title", max_width=40)


@pytest.mark.parametrize(("encoding", "shown_as"), [("ascii", "\\?\\?"), ("utf-8", "模型")])
def test_terminal_without_a_character_shows_question_marks(encoding: str, shown_as: str) -> None:
    code = "from llm_hf_models.cli import output; output.emit('模型'); output.note('模型')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True, encoding="utf-8", check=True, timeout=60,
    )  # fmt: skip
    assert re.fullmatch(rf"{shown_as}\n", done.stdout)
    assert re.fullmatch(rf"{shown_as}\n", done.stderr)


def test_json_keeps_every_character_in_any_encoding() -> None:
    code = "from llm_hf_models.cli import output; output.print_json(['模型'])"
    for encoding in ("ascii", "utf-8"):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True, encoding="utf-8", check=True, timeout=60,
        )  # fmt: skip
        assert json.loads(done.stdout) == ["模型"]


# Progress


@dataclass
class Clock:
    """A clock that a test sets."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_lines_come_at_start_at_intervals_and_at_the_end() -> None:
    text: list[str] = []
    clock = Clock()
    show = ProgressLines(text.append, clock).show
    show(Event("started", "m.gguf", 0, 1000))
    for done in range(0, 1000, 10):
        clock.now += 1
        show(Event("progress", "m.gguf", done, 1000))
    show(Event("verifying", "m.gguf", 1000, 1000))
    show(Event("done", "m.gguf", 1000, 1000))
    assert text[0] == "m.gguf: 1 kB"
    assert text[1] == "m.gguf: 10 % of 1 kB, 9 B/s, 1 min 39 s left"
    assert [line.split()[1] for line in text[1:-2]] == [f"{share}" for share in range(10, 100, 10)]
    assert text[-2] == "m.gguf: verifying the digest"
    assert text[-1] == "m.gguf: done, 1 kB in 1 min 40 s (10 B/s)"


def test_fast_file_prints_only_its_start_and_end() -> None:
    text: list[str] = []
    clock = Clock()
    show = ProgressLines(text.append, clock).show
    show(Event("started", "m.gguf", 0, 1000))
    for done in range(0, 1000, 10):
        clock.now += LINE_SECONDS / 250
        show(Event("progress", "m.gguf", done, 1000))
    show(Event("done", "m.gguf", 1000, 1000))
    assert text == ["m.gguf: 1 kB", "m.gguf: done, 1 kB in 2 s (500 B/s)"]


def test_resumed_file_counts_only_new_bytes_as_speed() -> None:
    text: list[str] = []
    clock = Clock()
    show = ProgressLines(text.append, clock).show
    show(Event("started", "m.gguf", 900, 1000))
    clock.now += 10
    show(Event("done", "m.gguf", 1000, 1000))
    assert text == ["m.gguf: continuing at 90 % of 1 kB", "m.gguf: done, 1 kB, the last 100 B of it in 10 s (10 B/s)"]


def test_finished_file_is_reported_once() -> None:
    text: list[str] = []
    clock = Clock()
    show = ProgressLines(text.append, clock).show
    show(Event("progress", "m.gguf", 500, 1000))
    clock.now += 10
    show(Event("progress", "m.gguf", 900, 1000))
    clock.now += 20
    for _ in range(3):
        clock.now += 10
        show(Event("done", "m.gguf", 1000, 1000))
    assert text[1:] == ["m.gguf: done, 1 kB, the last 500 B of it in 40 s (12 B/s)"]


def test_long_hashing_of_a_file_is_reported_once() -> None:
    for seconds, said_then in ((0.01, []), (LINE_SECONDS, ["m.gguf: 50 % of 1 kB, 100 B/s, 5 s left"])):
        text: list[str] = []
        clock = Clock()
        show = ProgressLines(text.append, clock).show
        show(Event("verifying", "m.gguf", 0, 1000))
        clock.now += seconds
        show(Event("progress", "m.gguf", 500, 1000))
        assert text == said_then
        show(Event("done", "m.gguf", 1000, 1000))
        assert len(text) == 2 * len(said_then)


def test_error_is_reported_once_with_its_reason() -> None:
    text: list[str] = []
    show = ProgressLines(text.append, Clock()).show
    show(Event("started", "m.gguf", 0, 1000))
    for _ in range(3):
        show(Event("waiting", "m.gguf", 10, 1000, f"no network{ESCAPE}[2J, again in 2 s"))
    show(Event("retrying", "m.gguf", 10, 1000, "connection reset"))
    assert text[1:] == ["m.gguf: waiting: no network, again in 2 s", "m.gguf: retrying: connection reset"]


def test_quiet_progress_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress([], quiet=True) as show:
        show(Event("started", "a.gguf", 0, 10))
        show(Event("waiting", "a.gguf", 0, 10, "no network"))
    assert capsys.readouterr() == ("", "")
