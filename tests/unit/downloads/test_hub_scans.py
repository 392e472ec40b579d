"""The Hub's scan results: requested in parallel, refused if one is unsafe, and stored unchanged."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_hf_models import Library
from llm_hf_models.downloads.plan_types import PullOptions, PullPlan
from llm_hf_models.errors import HubUnavailableError, UnsafeFileError
from llm_hf_models.hub import responses
from llm_hf_models.hub.client import PATHS_PER_REQUEST, Hub
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.hub.types import FileScan, ScannerResult
from llm_hf_models.library.database import Database
from llm_hf_models.paths import library_path
from llm_hf_models.servers.catalog import ServedRepo
from tests.support.commands import run, run_json_one
from tests.support.ggufs import tiny_chat, tiny_split
from tests.support.hub_server import HubServer, Page, Stall, Status, run_hub

REPO, FILE = "tests/tiny-GGUF", "tiny-Q4_K_M.gguf"
MODEL = f"hf/{REPO}:Q4_K_M"
CLEAN = {"avScan": "safe", "pickleImportScan": "unscanned", "virusTotalScan": "safe: 0/76 engines detect it."}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with run_hub(monkeypatch, disk_reserve="0") as server:
        yield server


@pytest.fixture
def repo(hub: HubServer, tmp_path: Path) -> ServedRepo:
    return hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE)})


def get_scan() -> Any:
    return next(check for check in Library().show(MODEL).checks if check.kind == "scan")


def test_each_scan_result_is_stored_with_its_date_and_shown(hub: HubServer, repo: ServedRepo) -> None:
    hub.report(repo, FILE, "safe", **CLEAN)
    output = "antivirus safe, pickle imports unscanned, VirusTotal safe"
    assert output in " ".join(run("pull", REPO, "--dry-run", code=None).stdout.split())
    assert run("pull", REPO, "-q", code=None).exit_code == 0
    assert get_scan().result == "no issue reported"
    assert [word["scanner"] for word in get_scan().detail["files"][0]["scanners"]] == [
        "antivirus",
        "pickle imports",
        "VirusTotal",
    ]
    for command in ("show", "verify"):
        assert output in " ".join(run(command, MODEL, code=None).stdout.split()), command
        assert "0/76" in run(command, MODEL, "--json", code=None).stdout, command


@pytest.mark.parametrize("together", ["queued", "safe", "unsafe"])
def test_one_unsafe_scan_refuses_a_pull(hub: HubServer, repo: ServedRepo, together: str) -> None:
    hub.report(repo, FILE, together, **{**CLEAN, "protectAiScan": "unsafe: It runs code when it is loaded."})
    refused = run("pull", REPO, "-q", code=None)
    assert refused.exit_code == 1
    assert "Protect AI unsafe (It runs code when it is loaded.)" in refused.stderr
    assert "--allow-unsafe" in refused.stderr
    assert hub.sent(FILE, side="storage") <= 256 * 1024, "no more than its header"
    assert Library().list() == ()


def test_pull_of_an_unsafe_file_is_recorded(hub: HubServer, repo: ServedRepo) -> None:
    hub.report(repo, FILE, "unsafe", jFrogScan="unsafe: malware")
    done = run("pull", REPO, "--allow-unsafe", code=None)
    assert done.exit_code == 0
    assert f"{FILE}: JFrog unsafe (malware)" in done.output
    assert get_scan().result == "unsafe"
    assert (get_scan().detail["allowed_unsafe"], get_scan().detail["unsafe"]) == (True, [FILE])
    assert "--allow-unsafe" in run("show", MODEL, code=None).stdout


def test_unclear_scan_result_is_shown_before_the_pull(hub: HubServer, repo: ServedRepo) -> None:
    hub.report(repo, FILE, "suspicious", virusTotalScan="suspicious: 2/76 engines detect it.")
    done = run("pull", REPO, code=None)
    assert done.exit_code == 0
    assert f"Warning: Hub scan: {FILE}: VirusTotal suspicious (2/76 engines detect it.)" in done.output
    assert get_scan().result == "suspicious"


@pytest.mark.parametrize(
    ("status", "words", "result"),
    [
        ("queued", {"avScan": "safe", "jFrogScan": "queued"}, "not finished"),
        ("unscanned", {"avScan": "unscanned", "jFrogScan": "error"}, "not scanned"),
        ("safe", {"newScan": "dreadful"}, "dreadful"),
    ],
)
def test_result_shows_the_progress_of_the_scanners(
    hub: HubServer, repo: ServedRepo, status: str, words: dict[str, str], result: str
) -> None:
    hub.report(repo, FILE, status, **words)
    assert Library().plan(REPO).scan == result


@pytest.mark.usefixtures("repo")
@pytest.mark.parametrize("trouble", [Status(404), Status(500), Page()])
def test_missing_scan_results_allow_a_pull_and_record_the_reason(hub: HubServer, trouble: Status | Page) -> None:
    hub.fault(trouble, on="paths-info", times=None)
    assert run("pull", REPO, "-q", code=None).exit_code == 0
    assert get_scan().result == "not asked"
    assert get_scan().detail["problem"]


def read_show() -> str:
    return " ".join(run("show", MODEL).stdout.split())


@pytest.mark.parametrize("trouble", [Status(404), Status(500)])
def test_failed_question_is_not_reported_as_no_issue(hub: HubServer, tmp_path: Path, trouble: Status) -> None:
    hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE)}, scans_done=True)
    assert Library().plan(REPO).scan_state == "no issue reported", "the Hub says so of the whole repo"
    hub.fault(trouble, on="paths-info", times=None)
    planned = run_json_one("pull", REPO, "--dry-run")
    assert planned["scan_state"] == "not asked"
    assert planned["scan"] == f"not asked: {planned['scan_problem']}"
    assert planned["scan"] in " ".join(run("pull", REPO, "--dry-run").stdout.split())
    done = run("pull", REPO, "--json")
    (result,) = json.loads(done.stdout)["results"]
    assert result["plan"]["scan_state"] == "not asked"
    assert f"Warning: Hub scan not asked: {planned['scan_problem']}" in done.stderr
    (check,) = [check for check in run_json_one("show", MODEL)["checks"] if check["kind"] == "scan"]
    assert (check["result"], check["detail"]["problem"]) == ("not asked", planned["scan_problem"])
    assert planned["scan"] in read_show()
    assert planned["scan"] in run("verify", MODEL).stdout
    for output in (done.output, read_show(), json.dumps([planned, result, check])):
        assert "no issue" not in output


def test_known_issue_is_reported_when_the_question_failed(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE)}, scans_done=True, files_with_issues=((FILE, "suspicious"),))
    hub.fault(Status(500), on="paths-info", times=None)
    run("pull", REPO, "-q")
    assert get_scan().result == f"{FILE}: suspicious"
    assert f"not asked for each file: {get_scan().detail['problem']}" in read_show()


def test_hub_that_can_not_be_reached_was_not_asked(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE)}, scans_done=True)
    answered = run_json_one("info", REPO)
    assert (answered["scan_state"], answered["scan_problem"]) == ("no issue reported", None)
    Library().plan(REPO)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert Library().plan(REPO).scan_state == "not asked"
    monkeypatch.setenv("LLM_HF_METADATA_LIFETIME_SECONDS", "0")
    found = run_json_one("info", REPO)
    assert (found["scan_state"], found["scan"]) == ("not asked", f"not asked: {found['scan_problem']}")
    assert found["scan_problem"]
    assert "no issue" not in run("info", REPO).stdout
    assert Library().plan(REPO).scan_state == "not asked"


def test_report_on_some_files_is_no_report_on_the_others(hub: HubServer, tmp_path: Path) -> None:
    names = [f"tiny-Q4_K_M-0000{number}-of-00002.gguf" for number in (1, 2)]
    repo = hub.add_repo(REPO, dict(zip(names, tiny_split(tmp_path, 2, stem="tiny-Q4_K_M"), strict=True)))
    hub.report(repo, names[0], "safe", avScan="safe")
    planned = Library().plan(REPO)
    assert (planned.scan_state, planned.scan) == ("not scanned", "not scanned: 1 of 2 files")
    (repo,) = hub.list_repos()
    hub.report(repo, names[1], "safe", avScan="safe")
    assert Library().plan(REPO).scan_state == "no issue reported"


@pytest.mark.usefixtures("repo")
def test_no_issue_without_an_answer_in_an_old_library_is_corrected(hub: HubServer) -> None:
    hub.fault(Status(500), on="paths-info", times=None)
    run("pull", REPO, "-q")
    with Database(library_path()) as db:
        db.write("update checks set result = 'no issue reported' where kind = 'scan'")
    assert get_scan().result == "not asked"
    assert "no issue" not in read_show()


@pytest.mark.usefixtures("repo")
def test_scans_are_requested_while_the_header_is_read(hub: HubServer) -> None:
    silence = Stall()
    hub.fault(silence, on="paths-info")
    plans: list[PullPlan] = []
    thread = threading.Thread(target=lambda: plans.append(Library().plan(REPO)))
    thread.start()
    hub.wait_until(lambda: hub.count("paths-info") == 1 and hub.sent(FILE, side="storage") > 0)
    assert plans == []
    silence.release.set()
    thread.join(20)
    assert len(plans) == 1


@pytest.mark.usefixtures("repo")
def test_one_request_gets_all_scans_of_a_pull(hub: HubServer) -> None:
    assert run("pull", REPO, "-q", code=None).exit_code == 0
    assert [request.method for request in hub.matching("paths-info")] == ["POST"]


def test_unsafe_file_outside_the_variant_is_ignored(hub: HubServer, tmp_path: Path) -> None:
    repo = hub.add_repo(REPO, {FILE: tiny_chat(tmp_path / FILE), "other-Q8_0.gguf": tiny_chat(tmp_path / "o.gguf")})
    hub.report(repo, "other-Q8_0.gguf", "unsafe", avScan="unsafe")
    assert Library().plan(f"{REPO}:Q4_K_M").unsafe == ()
    with pytest.raises(UnsafeFileError, match="other-Q8_0"):
        Library().plan(f"{REPO}:Q8_0")
    assert Library().plan(f"{REPO}:Q8_0", PullOptions(allow_unsafe=True)).unsafe == ("other-Q8_0.gguf",)


def test_scans_of_many_files_are_requested_in_batches(hub: HubServer) -> None:
    names = [f"m-{number:05d}-of-00120.gguf" for number in range(1, 121)]
    repo = hub.add_repo(REPO, dict.fromkeys(names, b"x"))
    repo = hub.report(repo, names[0], "safe", avScan="safe")
    hub.report(repo, names[-1], "safe", avScan="safe")
    found = Hub(hub.endpoint).fetch_scans(RepoId.parse(REPO), repo.commit, names)
    assert [scan.path for scan in found] == [names[0], names[-1]]
    assert hub.count("paths-info") == -(-len(names) // PATHS_PER_REQUEST)


def test_response_with_unknown_scanners_is_parsed() -> None:
    output = {
        "status": "unsafe",
        "avScan": None,
        "pickleImportScan": {
            "status": "safe",
            "pickleImports": [{"module": "torch", "name": "x", "safety": "innocuous"}],
        },
        "virusTotalScan": {
            "status": "unsafe",
            "message": "3/76\x1b[2J",
            "reportLink": "https://x",
            "reportLabel": None,
        },
        "freshScan": {"status": 7},
    }
    body = json.dumps([{"type": "file", "path": "a", "securityFileStatus": output}, {"type": "file", "path": "b"}])
    assert responses.parse_scans(body.encode(), "hub") == [
        FileScan(
            "a",
            "unsafe",
            (
                ScannerResult("pickle imports", "safe"),
                ScannerResult("VirusTotal", "unsafe", "3/76"),
                ScannerResult("fresh", "no result"),
            ),
        )
    ]


@given(st.recursive(st.none() | st.booleans() | st.text(max_size=5), lambda inner: st.dictionaries(
    st.sampled_from(["path", "status", "avScan", "message", "securityFileStatus"]), inner, max_size=4)
    | st.lists(inner, max_size=3)))  # fmt: skip
def test_any_json_response_is_parsed_or_refused(body: object) -> None:
    try:
        found = responses.parse_scans(json.dumps(body).encode(), "hub")
    except HubUnavailableError:
        return
    assert all(isinstance(scan, FileScan) for scan in found)
