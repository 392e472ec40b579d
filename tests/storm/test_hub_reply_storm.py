"""Hostile values in each field of each reply of the Hub: the CLI and the library give a result or a clear error.

`make storm` tries every value in every field, STORM_SHARE=0.1 a seeded tenth.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models import Library
from llm_hf_models.errors import HfModelsError
from llm_hf_models.system.text import is_hidden
from tests.conftest import Home
from tests.support.commands import run
from tests.support.ggufs import tiny_chat
from tests.support.hub_server import EditJson, Headers, HubServer

pytestmark = [pytest.mark.storm, pytest.mark.timeout(7200)]

SHARE = float(os.environ.get("STORM_SHARE") or 1)
SEED = 16
REPO, FILE = "acme/tiny-GGUF", "tiny-Q4_K_M.gguf"
CARD = "---\nlicense: mit\n---\n# Tiny\n"
SECONDS_EACH = 20  # on a busy machine; the usual time is 0.1 s
MAX_ERROR_CHARS = 3000
FieldPath = tuple[str | int, ...]

# JSON as it is sent: some values can't be written with a JSON library.
VALUES = (
    *("null", "true", "false", "0", "-1", "1.5", "9223372036854775808", "1e400", "-1e400", "NaN", "1" * 5000),
    *('""', '" "', '"x"', '"null"', '"7"', '"auto"', '"2026-13-45T99:99:99Z"', '"0001-01-01T00:00:00+14:00"'),
    *(r'"\u0000"', r'"\u001b[31mred\u001b]0;title\u0007"', r'"\ud800"', r'"\udfff\ud800"', r'"\u202eevil\u2066"'),
    *('"../../../../etc/passwd"', '"/etc/passwd"', r'"C:\\x\\aux:1"', r'"a\nb\r\nc"', '"%2e%2e%2f%00"', '"a/b/c/d"'),
    *(f'"{"0" * 40}"', f'"{"f" * 64}"', f'"{"x" * 200_000}"', r'"\ud83d\ude00' + r'\u0301" '),
    *("[]", "{}", "[null]", "[[]]", "[{}]", '{"": null}', '{"id": 5}', '["", "x", null, 7, {}]', '{"a": {"b": [1]}}'),
    *("[" * 400 + "]" * 400, '{"a":' * 400 + "1" + "}" * 400, "[" * 100_000 + "]" * 100_000),
    *("[" + "0," * 20_000 + "0]", "{" + ",".join(f'"k{number}": 1' for number in range(5000)) + "}"),
)
MISSING = "missing"  # the field is removed
DEEP_MARK = "\ufdd0"  # stands for the value until the JSON is written

HEADERS = (
    *("ETag", "X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size", "Location", "Content-Range", "Accept-Ranges"),
    *("Content-Type", "Link"),
)
HEADER_VALUES = (
    *("", " ", "null", "-1", "0", "1" * 400, "NaN", '"', '""', 'W/""', '"\x1b[31m"', "\xff\xfe", "../../etc/passwd"),
    *("http://[", "http://127.0.0.1:1/x", "file:///etc/passwd", "//", "http://user:secret@127.0.0.1:1/", "f" * 64),
    *("bytes */*", "bytes 0-0/0", "bytes 5-1/3", "bytes 0-99999999999999999999/1", "x" * 20_000, '<>; rel="next"'),
)


@dataclass(frozen=True)
class Case:
    """One hostile reply, and a command that receives it."""

    on: str  # part of the request's path
    field: FieldPath
    value: str
    command: tuple[str, ...]
    is_header: bool = False

    def plan(self, hub: HubServer) -> None:
        """Let the Hub send it."""
        if self.is_header:
            hub.fault(Headers({str(self.field[0]): self.value}), on=self.on, times=None)
        else:
            hub.fault(EditJson(self.edit), on=self.on, times=None)

    def edit(self, reply: object) -> bytes:
        """Return the reply with the value in the field."""
        changed = json.loads(json.dumps(reply))
        parent: Any = {"root": changed}
        place: Any = parent
        *parents, last = ("root", *self.field)
        with suppress(LookupError, TypeError):  # the request has no such field
            for key in parents:
                place = place[key]
            if self.value == MISSING:
                del place[last]
            else:
                place[last] = DEEP_MARK
        text = json.dumps(parent.get("root"), ensure_ascii=False)
        return text.replace(f'"{DEEP_MARK}"', self.value).encode()


COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "/api/models": (("search", "tiny"), ("search", "tiny", "--json"), ("search", "--fits", "--sort", "downloads")),
    f"/api/models/{REPO}": (
        ("info", REPO), ("info", REPO, "--json"), ("pull", REPO, "-y"), ("pull", REPO, "--dry-run", "--json"),
    ),
    "paths-info": (("pull", REPO, "-y"), ("pull", REPO, "-y", "--json")),
    "whoami": (("whoami",), ("status", "--json")),
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    for name, value in {
        "METADATA_LIFETIME_SECONDS": "0", "METADATA_SECONDS": "3", "HEADER_SECONDS": "3", "STALL_SECONDS": "1",
        "NETWORK_WAIT_SECONDS": "0", "RETRY_SECONDS": "0.01", "DISK_RESERVE": "0", "HEARTBEAT_SECONDS": "0.1",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"LLM_HF_{name}", value)
    with HubServer() as hub:
        repo = hub.add_repo(
            REPO, {FILE: tiny_chat(tmp_path / FILE), "README.md": CARD, "config.json": "{}"}, license="mit",
            task="text-generation", tags=("en",), downloads=7, likes=2, base_models=("acme/tiny",), scans_done=True,
            files_with_issues=(("README.md", "suspicious"),), library="gguf",
            gguf={"total": 84_000, "architecture": "llama", "context_length": 4096, "chat_template": "{{ x }}"},
        )  # fmt: skip
        hub.report(repo, FILE, "safe", avScan="safe", jFrogScan="safe: nothing")
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", hub.add_token("hf_storm", name="ann"))
        yield hub


def record_replies(hub: HubServer) -> dict[str, list[object]]:
    """Return the Hub's replies to each command, by the part of the path that COMMANDS has."""
    replies: dict[str, list[object]] = {}

    def record(on: str) -> Callable[[object], bytes]:
        def edit(reply: object) -> bytes:
            replies.setdefault(on, []).append(reply)
            return json.dumps(reply).encode()

        return edit

    for on, commands in COMMANDS.items():
        for words in commands:
            hub.fault(EditJson(record(on)), on=on, times=None)
            run(*words)
            hub.clear()
    return replies


def list_fields(reply: object, path: FieldPath = ()) -> Iterator[FieldPath]:
    """Yield the path of each value in a reply, the reply itself first."""
    yield path
    if isinstance(reply, dict):
        for key, value in reply.items():
            yield from list_fields(value, (*path, key))
    elif isinstance(reply, list):
        for number, value in enumerate(reply):
            yield from list_fields(value, (*path, number))


def list_cases(replies: dict[str, list[object]], chance: random.Random) -> list[Case]:
    """Return every value in every field, each with one of the commands that read the reply."""
    cases = []
    for on, commands in COMMANDS.items():
        fields = {field for reply in replies[on] for field in list_fields(reply)}
        for field in sorted(fields, key=str):
            cases += [Case(on, field, value, chance.choice(commands)) for value in (*VALUES, MISSING)]
    for name in HEADERS:
        for value in HEADER_VALUES:
            on, commands = chance.choice([(on, commands) for on, commands in COMMANDS.items() if on != "whoami"])
            cases.append(Case(on, (name,), value, chance.choice(commands), is_header=True))
            cases.append(Case("resolve", (name,), value, ("pull", REPO, "-y"), is_header=True))
            cases.append(Case(FILE, (name,), value, ("pull", REPO, "-y"), is_header=True))
    chance.shuffle(cases)
    return cases[: max(60, int(len(cases) * SHARE))]


def test_hostile_reply_gives_a_result_or_a_clear_error(hub: HubServer, home: Home, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    digest = hashlib.sha256((tmp_path / FILE).read_bytes()).hexdigest()
    cases = list_cases(record_replies(hub), chance)
    outside = {path for path in tmp_path.rglob("*") if home.root not in path.parents}
    ends: Counter[str] = Counter()
    faults: list[str] = []
    for case in cases:
        _empty(home)
        hub.clear()
        case.plan(hub)
        started = time.monotonic()
        try:
            ends[f"{case.command[0]}: {_try(case, digest)}"] += 1
        except Exception as error:  # noqa: BLE001 - all faults are listed at the end
            faults.append(f"{_show(case)}: {type(error).__name__}: {str(error)[:300]}")
        if time.monotonic() - started > SECONDS_EACH:
            faults.append(f"{_show(case)}: took {time.monotonic() - started:.0f} s")
    hub.clear()
    print(f"Hub reply storm: {len(cases)} replies, {dict(ends)}")  # noqa: T201
    assert {path for path in tmp_path.rglob("*") if home.root not in path.parents} == outside
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults)


def _empty(home: Home) -> None:
    for folder in (home.llm, home.cache):
        shutil.rmtree(folder)
        folder.mkdir()


def _show(case: Case) -> str:
    return f"{' '.join(case.command)} with {case.on} {case.field} = {case.value[:60]!r}"


def _try(case: Case, digest: str) -> str:
    """Run the command, then the same verb of the library. Return how the command ended."""
    result = run(*case.command, code=None)
    shown = result.output
    assert not [char for char in shown if is_hidden(char) and char not in "\n\t"], f"hidden characters: {shown!r}"
    assert result.exit_code in (0, 1, 2), shown
    if "--json" in case.command:
        assert result.exit_code == 0 or json.loads(result.stdout)["error"]["message"], f"no error message: {shown!r}"
        assert json.loads(result.stdout) is not None
    elif result.exit_code != 0:
        assert re.search("^Error: .", result.stderr, re.MULTILINE), f"no error message: {shown!r}"
    if result.exit_code != 0:
        assert len(shown) < MAX_ERROR_CHARS, f"an error of {len(shown)} characters"
    with suppress(HfModelsError):
        _call_library(case.command)
    for model in Library().list():
        assert [file.sha256 for file in model.files if file.role == "weights"] == [digest], "registered unproven"
    return "answered" if result.exit_code == 0 else "refused"


def _call_library(command: Sequence[str]) -> None:
    library = Library()
    match command[0]:
        case "search":
            library.search("tiny")
        case "info":
            library.info(REPO)
        case "pull":
            library.plan(REPO)
        case "whoami":
            library.whoami()
