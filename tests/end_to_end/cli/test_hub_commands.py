"""The commands that use the Hub, against a stand-in Hub with real GGUF files."""

from __future__ import annotations

import base64
import http.server
import json
import os
import re
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models import Library
from llm_hf_models.cli.framework import SLOW_SECONDS
from llm_hf_models.downloads.types import DownloadView
from llm_hf_models.downloads.worker import log_path
from llm_hf_models.hub import encrypted_token
from llm_hf_models.library.database import Database
from llm_hf_models.library.download_records import Download, DownloadState
from llm_hf_models.network.tls import BUNDLE_VARIABLES
from llm_hf_models.paths import library_path
from tests.conftest import Home
from tests.support.commands import run, run_json, run_json_one
from tests.support.ggufs import tiny_base, tiny_chat, tiny_split
from tests.support.hub_server import Delay, FlipBit, HubServer, Reset, Stall, Status, Throttle
from tests.support.storage_server import Fault, StorageServer

REPO = "owner/tiny-GGUF"
Q8, Q4 = "tiny-Q8_0.gguf", "tiny-Q4_K_M.gguf"
Q8_BYTES = 4_000_000  # at least; a header is far smaller, so that a fault after this many bytes hits only the weights
HF = (sys.executable, "-c", "from llm_hf_models.cli.main import hf; hf()")
HALF = Q8_BYTES // 2
CARD = "---\nlicense: mit\n---\n# Tiny\n\nA *card* with [a link](https://example.org/x).\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Provide a Hub that the environment points to."""
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def repo(hub: HubServer, tmp_path: Path) -> HubServer:
    """Provide the Hub with a repo of two quantizations."""
    files = {Q8: tiny_chat(tmp_path / Q8, weights_bytes=Q8_BYTES), Q4: tiny_chat(tmp_path / Q4), "README.md": CARD}
    hub.add_repo(
        REPO, files, task="text-generation", license="mit", tags=("gguf", "conversational"), downloads=1234, likes=56,
        gguf={"total": 84_000, "architecture": "llama", "context_length": 4096},
    )  # fmt: skip
    return hub


def list_cached(home: Home) -> list[Path]:
    return [path for path in home.cache.rglob("*.gguf") if path.is_file()]


# Search and info


@pytest.mark.usefixtures("repo")
def test_search_shows_a_row_with_the_known_facts() -> None:
    text = run("search", "tiny").stdout
    for output in (REPO, "1,234", "56", "mit", "text-generation", "conversational"):
        assert output in text
    (row,) = run_json("search", "tiny")["results"]
    assert (row["id"], row["downloads"], row["gated"], row["local_models"]) == (REPO, 1234, False, [])


def test_search_estimates_the_size_of_the_recommended_variant(hub: HubServer, tmp_path: Path) -> None:
    weights = tiny_chat(tmp_path / "any.gguf")
    names = ("m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-F16.gguf", "mmproj-m-F16.gguf", "m.imatrix.gguf")
    hub.add_repo(REPO, dict.fromkeys(names, weights), gguf={"total": 8_000_000_000})
    hub.add_repo("owner/huge-GGUF", {"huge-IQ1_S.gguf": weights}, gguf={"total": 10**15})
    hub.add_repo("owner/odd-GGUF", {"odd.gguf": weights}, gguf={"total": 8_000_000_000})
    hub.add_repo("owner/unknown-GGUF", {"unknown-Q8_0.gguf": weights})
    rows = {row["id"]: row for row in run_json("search", "gguf")["results"]}
    found = {name: (row["recommended_quant"], row["recommended_bytes"], row["fits"]) for name, row in rows.items()}
    assert found[REPO][0] == "Q4_K_M"
    assert found[REPO][1] == pytest.approx(4.92e9, rel=0.02), "Llama-3.1-8B at Q4_K_M has 4.92 GB"
    assert found["owner/huge-GGUF"] == ("IQ1_S", 250_000_000_000_000, False)
    assert found["owner/odd-GGUF"] == ("odd", None, None)
    assert found["owner/unknown-GGUF"] == ("Q8_0", None, None)
    assert re.search(rf"{REPO} +8B +Q4_K_M +~4.9 GB ", run("search", "tiny").stdout)


def test_search_says_if_there_are_more_results(hub: HubServer) -> None:
    for number in range(3):
        hub.add_repo(f"owner/m{number}-GGUF", {"m-Q8_0.gguf": b"GGUF"}, gguf={"total": 1_000_000})
    assert "more results than these 2. Raise --limit" in run("search", "--limit", "2").stderr
    assert "more results than these 2" in run("search", "--limit", "2", "--fits").stderr
    assert run_json("search", "--limit", "2")["more"]
    for limit in (3, 500):
        assert "more results" not in run("search", "--limit", str(limit)).stderr
    assert len(run_json("search", "--limit", "2")["results"]) == 2


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        ("owner/tinny-GGUF", "owner/tiny-GGUF"),
        ("OWNER/tiny", "owner/tiny-GGUF"),
        ("ower/tiny-gguf", "owner/tiny-GGUF"),
        ("owner/quite-different-GGUF", None),
    ],
)
@pytest.mark.usefixtures("repo")
def test_unknown_repo_suggests_a_similar_one(typed: str, suggested: str | None) -> None:
    for command in ("pull", "info"):
        error = run(command, typed, code=1).stderr
        assert "has no public repo" in error
        assert ("Did you mean" in error) == (suggested is not None)
        assert suggested is None or f"Did you mean {suggested!r}?" in error


@pytest.mark.usefixtures("repo")
def test_unknown_quantization_suggests_a_similar_one() -> None:
    assert "Did you mean 'Q4_K_M'?" in run("pull", f"{REPO}:Q4_K_X", code=1).stderr


@pytest.mark.usefixtures("repo")
def test_list_of_downloads_says_if_there_are_more() -> None:
    for quant in ("Q8_0", "Q4_K_M"):
        run("pull", f"{REPO}:{quant}", "-q")
    assert "more results than these 1." in run("downloads", "--all", "--limit", "1").stderr
    assert run("downloads", "--all", "--limit", "2").stderr == ""
    found = run_json("downloads", "--all", "--limit", "1")
    assert (len(found["downloads"]), found["more"]) == (1, True)


@pytest.mark.usefixtures("repo")
def test_search_marks_variants_that_are_installed() -> None:
    run("pull", f"{REPO}:Q8_0", "-q")
    assert re.search(r"Q8_0", run("search", "tiny").stdout)
    assert run_json("search", "tiny")["results"][0]["local_models"] == [f"hf/{REPO}:Q8_0"]


@pytest.mark.usefixtures("repo")
def test_installed_revisions_of_a_variant_are_listed_separately() -> None:
    run("pull", f"{REPO}:Q4_K_M", "-q")
    run("pull", f"{REPO}@main:Q4_K_M", "-q")
    assert re.search(r" (Q4_K_M, @main:Q4_K_M|@main:Q4_K_M, Q4_K_M) ", run("search", "tiny").stdout)


@pytest.mark.usefixtures("repo")
def test_empty_search_suggests_wider_filters_and_exits_with_0() -> None:
    done = run("search", "no", "such", "--author", "nobody", "--license", "mit")
    assert done.stdout == ""
    for output in ("No results.", "--license", "--author", "fewer words"):
        assert output in done.stderr
    assert run_json("search", "nosuch")["results"] == []


def test_repeated_search_comes_from_the_cache_and_reports_its_age(repo: HubServer) -> None:
    run("search", "tiny")
    requested = repo.count("/api/models")
    again = run("search", "tiny")
    assert "Use --refresh for new data" in again.stderr
    assert repo.count("/api/models") == requested
    assert "--refresh" not in run("search", "tiny", "--refresh").stderr
    assert repo.count("/api/models") > requested


@pytest.mark.usefixtures("repo")
def test_info_shows_variants_files_and_card() -> None:
    text = run("info", REPO).stdout
    assert re.search(r"Q8_0 .*\d MB", text)
    assert re.search(r"Q4_K_M .*\d kB", text)
    assert "A plain pull chooses Q4_K_M" in text
    assert "README.md" not in text
    assert "README.md" in run("info", REPO, "--files").stdout
    assert "A *card*" in run("info", REPO, "--card").stdout
    found = run_json_one("info", REPO)
    assert [variant["quant"] for variant in found["variants"] if variant["chosen"]] == ["Q4_K_M"]


@pytest.mark.usefixtures("repo")
def test_card_is_formatted_when_the_width_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = run("info", REPO, "--card").stdout
    assert "*card*" not in text
    assert "https://example.org/x" in text


def test_info_lists_the_conversions_of_a_repo_without_gguf_files(hub: HubServer) -> None:
    hub.add_repo("big/model", {"model.safetensors": b"x", "README.md": CARD})
    text = run("info", "big/model").stdout
    assert "lists no GGUF conversion of it. Search for one: llm hf search model" in text
    for name, downloads in (("a/model-GGUF", 5), ("b/model-GGUF", 1_234_567)):
        hub.add_repo(name, {"m-Q8_0.gguf": b"GGUF"}, base_models=("big/model",), downloads=downloads)
    text = run("info", "big/model", "--refresh").stdout
    assert re.search(r"b/model-GGUF +1,234,567\na/model-GGUF +5\n", text)
    assert text.endswith("Pull the first one: llm hf pull b/model-GGUF\n")
    found = run_json_one("info", "big/model")["conversions"]
    assert found == [{"id": "b/model-GGUF", "downloads": 1_234_567}, {"id": "a/model-GGUF", "downloads": 5}]
    assert "(1,234,567 downloads a month)" in run("pull", "big/model", code=1).stderr
    assert run_json_one("info", "a/model-GGUF")["conversions"] == []


def test_info_marks_the_variants_that_a_pull_refuses(repo: HubServer) -> None:
    assert "REFUSED" not in run("info", REPO).stdout
    repo.change_repo(repo.list_repos()[0], scans_done=True, files_with_issues=((Q8, "unsafe"), (Q4, "suspicious")))
    text = run("info", REPO, "--refresh").stdout
    assert re.search(r"Q8_0 .* unsafe ", text)
    assert not re.search(r"Q4_K_M .* unsafe", text)
    assert "A pull of a variant marked REFUSED needs --allow-unsafe" in text
    refused = {variant["quant"]: variant["refused"] for variant in run_json_one("info", REPO)["variants"]}
    assert refused == {"Q8_0": f"{Q8}: unsafe", "Q4_K_M": None}
    assert "as unsafe" in run("pull", f"{REPO}:Q8_0", code=1).stderr
    run("pull", f"{REPO}:Q4_K_M", "-q")


def test_info_says_that_a_plain_pull_is_refused(repo: HubServer) -> None:
    repo.change_repo(repo.list_repos()[0], scans_done=True, files_with_issues=((Q4, "malicious"),))
    assert "This and every pull of a variant marked REFUSED needs --allow-unsafe" in run("info", REPO).stdout
    assert "--allow-unsafe" in run("pull", REPO, code=1).stderr


def test_pull_of_a_base_model_suggests_to_continue_a_text(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("owner/raw-GGUF", {"raw-F16.gguf": tiny_base(tmp_path / "raw-F16.gguf")})
    error = run("pull", "owner/raw-GGUF").stderr
    assert "This is a base model, which continues a text: llm -m raw 'Once upon a time'" in error
    assert "'hello'" not in error


@pytest.mark.usefixtures("repo")
def test_verify_all_ends_with_the_number_of_models_that_match(home: Home) -> None:
    for quant in ("Q8_0", "Q4_K_M"):
        run("pull", f"{REPO}:{quant}", "-q")
    for words in (("--all",), (f"{REPO}:Q8_0", f"{REPO}:Q4_K_M")):
        assert run("verify", *words).stdout.endswith("\n2 of 2 match.\n")
    assert "of 1 match" not in run("verify", f"{REPO}:Q8_0").stdout
    (path,) = (path for path in list_cached(home) if path.name == Q4)
    path.write_bytes(b"changed")
    assert run("verify", "--all", code=1).stdout.endswith("\n1 of 2 match.\n")


def test_list_is_sorted_by_size_use_or_name(hub: HubServer, tmp_path: Path) -> None:
    for name, size in (("bear", 500_000), ("ant", 1_000_000), ("Cow", 0)):
        weights = tiny_chat(tmp_path / f"{name}-F16.gguf", weights_bytes=size, name=name)
        hub.add_repo(f"owner/{name}-GGUF", {weights.name: weights})
        run("pull", f"owner/{name}-GGUF", "-q")
    with Database(library_path()) as db:
        db.touch_model("hf/owner/bear-GGUF:F16")

    def list_names(*words: str) -> list[str]:
        return [line.split()[0] for line in run("list", *words).stdout.splitlines()[1:]]

    assert list_names() == ["Cow", "ant", "bear"]
    assert list_names("--sort", "name") == ["ant", "bear", "Cow"]
    assert list_names("--sort", "size") == ["ant", "bear", "Cow"]
    assert list_names("--sort", "used") == ["bear", "Cow", "ant"]


def test_info_announces_a_scan_when_the_repo_has_no_results(repo: HubServer) -> None:
    repo.report(repo.list_repos()[0], Q4, "unsafe", avScan="unsafe")
    assert "not reported for the repo; a pull checks each file" in run("info", REPO).stdout
    assert "as unsafe" in run("pull", REPO, code=1).stderr


# Pull


def test_pull_prints_the_id_to_stdout_and_the_rest_to_stderr(repo: HubServer) -> None:
    done = run("pull", REPO)
    assert done.stdout == f"hf/{REPO}:Q4_K_M\n"
    assert repo.sent(Q4, side="storage") > 0
    for output in (f"{REPO}, Q4_K_M: ", f"{Q4}: done", "Digests match the Hub's", "llm -m tiny 'hello'"):
        assert output in done.stderr
    assert run_json("list")["models"][0]["state"] == "ready"


def test_second_pull_is_instant_and_reports_it(repo: HubServer) -> None:
    run("pull", REPO)
    sent = repo.sent(side="storage")
    done = run("pull", REPO)
    assert done.stdout == f"hf/{REPO}:Q4_K_M\n"
    assert "is already on this machine" in done.stderr
    assert repo.sent(side="storage") == sent


@pytest.mark.usefixtures("repo")
def test_pull_of_several_starts_after_all_were_found() -> None:
    assert run("pull", f"{REPO}:Q4_K_M", f"{REPO}:Q1_0", code=1).stdout == ""
    assert "names one model" in run("pull", REPO, f"{REPO}:Q8_0", "-a", "walrus", code=2).stderr
    assert run_json("list")["models"] == []
    planned = run_json("pull", f"{REPO}:Q4_K_M", f"{REPO}:Q1_0", f"{REPO}:Q8_0", "--dry-run", code=1)
    assert [plan["quant"] for plan in planned["results"]] == ["Q4_K_M", "Q8_0"]
    assert [(one["name"], one["error"]["code"]) for one in planned["errors"]] == [(f"{REPO}:Q1_0", "quant_not_found")]
    assert run("pull", f"{REPO}:Q4_K_M", f"{REPO}:Q8_0", "-q").stdout == f"hf/{REPO}:Q4_K_M\nhf/{REPO}:Q8_0\n"
    found = run_json("pull", f"{REPO}:Q4_K_M", f"{REPO}:Q8_0", "-q")["results"]
    assert [pulled["id"] for pulled in found] == run("list", "-q").stdout.split()[::-1]
    assert [repo["id"] for repo in run_json("info", REPO, REPO)["results"]] == [REPO, REPO]


@pytest.mark.usefixtures("repo")
def test_quiet_pull_prints_only_the_id() -> None:
    done = run("pull", f"{REPO}:Q8_0", "-q")
    assert (done.stdout, done.stderr) == (f"hf/{REPO}:Q8_0\n", "")


@pytest.mark.usefixtures("repo")
def test_pull_sets_aliases_and_suggests_the_requested_one() -> None:
    assert "llm -m walrus 'hello'" in run("pull", f"{REPO}:Q8_0", "-a", "walrus").stderr
    assert run_json_one("show", "walrus")["id"] == f"hf/{REPO}:Q8_0"
    assert "walrus" in run("pull", f"{REPO}:Q4_K_M", "-a", "walrus", code=2).stderr


def test_dry_run_shows_the_plan_and_fetches_no_weights(repo: HubServer, home: Home) -> None:
    text = run("pull", REPO, "--dry-run").stdout
    for output in (f"hf/{REPO}:Q4_K_M", Q4, "to download", "Fits", "Folder", "Aliases"):
        assert output in text
    plan = run_json_one("pull", REPO, "--dry-run")
    assert plan["fetch_bytes"] == plan["total_bytes"] == (Path(repo.list_repos()[0].files[1].location)).stat().st_size
    assert list_cached(home) == []
    assert run_json("list")["models"] == []


@pytest.mark.usefixtures("repo")
def test_pull_writes_any_file_to_a_folder_and_prints_its_path(tmp_path: Path) -> None:
    done = run("pull", f"{REPO}:README.md", "--to", tmp_path / "docs")
    path = Path(done.stdout.strip())
    assert path == tmp_path / "docs" / "README.md"
    assert path.read_text(encoding="utf-8") == CARD


@pytest.mark.usefixtures("repo")
def test_empty_folder_name_is_refused() -> None:
    assert "The folder's name is empty" in run("pull", f"{REPO}:README.md", "--to", "", code=2).stderr


def test_pull_fetches_every_shard_of_a_split_model(hub: HubServer, tmp_path: Path) -> None:
    shards = tiny_split(tmp_path, 3, stem="tiny-Q8_0")
    hub.add_repo("owner/split-GGUF", {shard.name: shard for shard in shards})
    run("pull", "owner/split-GGUF")
    assert len(run("path", "split", "--all").stdout.splitlines()) == 3


def test_repo_without_gguf_files_lists_its_conversions(repo: HubServer) -> None:
    repo.add_repo("base/tiny", {"model.safetensors": b"x" * 100})
    repo.change_repo(next(one for one in repo.list_repos() if one.id == REPO), base_models=("base/tiny",))
    output = run("pull", "base/tiny", code=1).stderr
    assert "base/tiny has no GGUF files" in output
    assert f"llm hf pull {REPO}" in output


def test_pull_names_the_missing_shard_of_a_split_model(hub: HubServer, tmp_path: Path) -> None:
    first, _, last = tiny_split(tmp_path, 3, stem="tiny-Q8_0")
    shards = {first.name: first, last.name: last}
    hub.add_repo("owner/broken-GGUF", shards)
    output = run("pull", "owner/broken-GGUF", code=1).stderr
    assert "owner/broken-GGUF has no complete GGUF model\ntiny-Q8_0: shard 00002 of 3 is missing\n" in output
    assert "Note: tiny-Q8_0: shard 00002 of 3 is missing" in run("info", "owner/broken-GGUF").stdout
    hub.add_repo("owner/half-GGUF", {**shards, Q4: tiny_chat(tmp_path / Q4)})
    output = run("pull", "owner/half-GGUF:Q8_0", code=1).stderr
    assert "shard 00002 of 3 is missing" in output
    assert "Available variants: Q4_K_M" in output
    assert run("pull", "owner/half-GGUF", "-q").stdout == "hf/owner/half-GGUF:Q4_K_M\n"


def test_pasted_address_names_the_same_model_as_the_repo(repo: HubServer) -> None:
    pages = (f"blob/main/{Q8}", "tree/main/Q8_0", f"resolve/main/{Q8}?download=true")
    for ref in (f"{REPO}:Q8_0", *(f"https://huggingface.co/{REPO}/{page}" for page in pages)):
        assert run("pull", ref, "-q").stdout == f"hf/{REPO}:Q8_0\n"
    assert len(run_json("list")["models"]) == 1
    assert repo.sent(Q8, side="storage")


@pytest.mark.usefixtures("repo")
def test_two_different_revisions_are_refused() -> None:
    output = run("pull", f"{REPO}@v1.0", "--revision", "main", code=2).stderr
    assert "The model ref names revision v1.0, but --revision is main" in output
    assert "names revision v1.0" in run("info", f"https://hf.co/{REPO}/tree/v1.0", "--revision", "main", code=2).stderr
    assert run("pull", f"{REPO}@main:Q8_0", "--revision", "main", "-q").stdout == f"hf/{REPO}@main:Q8_0\n"


def test_address_of_another_host_is_refused_without_a_request(repo: HubServer) -> None:
    note = f"Using 127.0.0.1 instead of evil.example for {REPO}."
    for words in (("pull", "--dry-run"), ("info",), ("inspect",)):
        assert note in run(*words, f"https://evil.example/{REPO}").stderr, words
        for host in ("https://huggingface.co", "https://hf.co", repo.endpoint):
            assert "Using 127.0.0.1 instead of" not in run(*words, f"{host}/{REPO}").stderr


def test_interrupted_pull_prints_one_line_and_can_be_continued(repo: HubServer, home: Home) -> None:
    repo.fault(Stall(after=HALF), on=Q8, side="storage", times=None)
    with subprocess.Popen(
        [*HF, "pull", f"{REPO}:Q8_0", "--connections", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=dict(os.environ),  # without the COLUMNS that readline may have set in this process, which wraps notes
    ) as pull:  # fmt: skip
        repo.wait_until(lambda: repo.sent(Q8, side="storage") >= HALF)
        pull.send_signal(signal.SIGINT)
        out, err = pull.communicate(timeout=30)
    assert pull.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "Interrupted" in err.splitlines()[-1]
    assert list_cached(home) == []
    repo.clear()
    again = run("pull", f"{REPO}:Q8_0")
    assert again.stdout == f"hf/{REPO}:Q8_0\n"
    assert f"{Q8}: continuing at" in again.stderr
    assert run("verify", "--all").exit_code == 0


def test_pull_reports_transient_errors_and_completes(repo: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_RETRY_SECONDS", "0.01")
    repo.fault(Reset(after=HALF), on=Q8, side="storage", times=2)
    done = run("pull", f"{REPO}:Q8_0", "--connections", "1")
    assert f"{Q8}: retrying: " in done.stderr
    assert done.stdout == f"hf/{REPO}:Q8_0\n"


# Bad input and network errors


@pytest.mark.parametrize(
    ("ref", "output"),
    [
        ("owner/none", "owner/none"),
        (f"{REPO}:Q3_K_S", "Q8_0"),
        (f"{REPO}:none.gguf", "none.gguf"),
        (f"{REPO}@v9", "v9"),
    ],
)
@pytest.mark.usefixtures("repo")
def test_missing_repo_or_file_gives_one_clear_error(ref: str, output: str) -> None:
    done = run("pull", ref, code=1)
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert output in done.stderr


def test_unknown_revision_error_lists_the_revisions(repo: HubServer) -> None:
    repo.change_repo(repo.list_repos()[0], revisions=("main", "v1.0"))
    assert "has no revision 'v9'\nUse one of: main, v1.0\n" in run("pull", f"{REPO}@v9", code=1).stderr
    assert "Did you mean 'v1.0'?" in run("pull", f"{REPO}@v1", code=1).stderr
    repo.fault(Status(500), on="/refs")
    output = run("pull", f"{REPO}@v9", code=1).stderr
    assert output.endswith("Omit the revision to use the default branch.\n")


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("content", [None, "garbage"])
def test_every_command_names_unreadable_certificates(
    repo: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, content: str | None
) -> None:
    bundle = tmp_path / "bundle.pem"
    if content:
        bundle.write_text(content)
    for name in BUNDLE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(bundle))
    assert repo.requests == []
    for words in (("pull", REPO), ("search", "tiny")):
        done = subprocess.run([*HF, *words], capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"Error: Can't read the certificates in {bundle}\n")
        assert f"Change or unset the environment variable {variable}." in done.stderr


def test_gated_repo_behind_a_redirect_is_not_reported_as_a_refused_token(
    repo: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.add_repo("owner/gated-GGUF", {Q4: repo.list_repos()[0].files[0].location}, gated="auto")
    monkeypatch.setenv("HF_TOKEN", repo.add_token("hf_of_ann"))

    class Front(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(307)
            self.send_header("Location", f"{repo.endpoint}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Front) as front:
        thread = threading.Thread(target=front.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{front.server_port}")
        output = run("pull", "owner/gated-GGUF", code=1).stderr
        front.shutdown()
        thread.join()
    assert "which receives no token" in output
    assert "not been granted" not in output


def test_error_names_the_proxy_that_requires_a_password(repo: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    run("info", REPO)
    repo.forget_requests()
    with StorageServer(b"-") as proxy:
        proxy.always = Fault(status=407)
        monkeypatch.setenv("http_proxy", proxy.url.partition("/file")[0])
        monkeypatch.setenv("no_proxy", "")
        done = subprocess.run([*HF, "info", "o/other"], capture_output=True, text=True, check=False, timeout=60)
        kept = subprocess.run([*HF, "info", REPO, "--refresh"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The proxy requires authentication")
    assert (kept.returncode, REPO in kept.stdout) == (0, True)
    assert "The proxy requires authentication" in kept.stderr
    assert repo.requests == []


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX signal")
def test_terminated_pull_leaves_a_paused_download(repo: HubServer) -> None:
    repo.fault(Stall(after=HALF), on=Q8, side="storage", times=None)
    with subprocess.Popen([*HF, "pull", f"{REPO}:Q8_0", "-q"], stderr=subprocess.PIPE) as pull:
        repo.wait_until(lambda: repo.sent(Q8, side="storage") >= HALF)
        pull.terminate()
        pull.communicate(timeout=30)
    assert pull.returncode == -signal.SIGTERM
    (row,) = run_json("downloads")["downloads"]
    assert (row["state"], row["error"]) == ("paused", None)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_plain_http_endpoint_is_not_reported_as_a_bad_certificate(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak_plainly() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(answer)

        threading.Thread(target=speak_plainly, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"https://127.0.0.1:{server.getsockname()[1]}")
        output = run("search", "tiny", code=1).stderr
    assert "TLS handshake" in output
    assert "http://" in output
    assert "certificate" not in output


def test_password_in_the_endpoint_is_never_shown(repo: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.change_repo(repo.list_repos()[0], gated="manual")
    monkeypatch.setenv("HF_ENDPOINT", repo.endpoint.replace("://", "://ann:s3cret@"))
    repo.add_token(f"Basic {base64.b64encode(b'ann:s3cret').decode()}")
    output = [run(*words).output for words in (("status",), ("status", "--json"), ("info", REPO))]
    output += [run("pull", ref, code=1).output for ref in (REPO, "owner/none", f"{REPO}@v9", f"{REPO}:none.gguf")]
    repo.fault(Status(403), side="hub", times=None)
    output.append(run("search", "other", code=1).output)
    for endpoint in ("ftp://ann:s3cret@127.0.0.1", "http://ann:s3cret@127.0.0.1:1"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        output.append(run("search", "another", code=2 if endpoint.startswith("ftp") else 1).output)
    assert not any("s3cret" in text for text in output)
    assert repo.endpoint in output[0]


def test_gated_repo_error_says_where_to_request_access(repo: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    gated = next(one for one in repo.list_repos() if one.id == REPO)
    repo.change_repo(gated, gated="manual")
    output = run("pull", REPO, code=1).stderr
    assert "llm hf login" in output
    monkeypatch.setenv("HF_TOKEN", repo.add_token("hf_no_access"))
    output = run("pull", REPO, "--dry-run", code=1).stderr
    assert f"{repo.endpoint}/{REPO}" in output
    assert "hf_no_access" not in output


def test_local_commands_work_without_a_network(repo: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    run("pull", REPO, "-q")
    run("search", "tiny")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    requested = len(repo.requests)
    assert REPO in run("search", "tiny", "--refresh").stdout
    assert run("show", "tiny").exit_code == 0
    assert run("search", "other", code=1).stderr.startswith("Error: ")
    assert len(repo.requests) == requested


# The library, filled from the Hub


def test_rm_frees_files_that_no_other_model_uses(repo: HubServer, home: Home) -> None:
    run("pull", REPO, "-q")
    size = sum(path.stat().st_size for path in list_cached(home))
    found = run_json_one("rm", "tiny", "-y")
    assert found["freed_bytes"] == size
    assert list_cached(home) == []
    assert repo.list_repos()


@pytest.mark.usefixtures("repo")
def test_ambiguous_name_lists_the_matching_models() -> None:
    run("pull", f"{REPO}:Q8_0", "-q")
    run("pull", f"{REPO}:Q4_K_M", "-q")
    output = run("show", REPO, code=2).stderr
    assert f"hf/{REPO}:Q8_0" in output
    assert f"hf/{REPO}:Q4_K_M" in output


@pytest.mark.parametrize("command", ["inspect", "check", "pull"])
def test_unreadable_header_on_the_hub_is_named(command: str, hub: HubServer) -> None:
    hub.add_repo("owner/odd-GGUF", {Q8: b"no model, whatever its name says"})
    output = run(command, "owner/odd-GGUF", code=1).stderr
    assert f"Error: {Q8} of owner/odd-GGUF: This is not a GGUF file" in output


def test_import_is_verified_against_its_repo(repo: HubServer, tmp_path: Path) -> None:
    assert repo.list_repos()
    done = run("import", tmp_path / Q8, "--repo", REPO)
    assert f"Digest: matches {REPO}@" in done.stderr
    other = tiny_chat(tmp_path / "other.gguf", answer="Something else.")
    assert "is not a file of" in run("import", other, "--repo", REPO, code=1).stderr


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("Q4_K_M", f"{Q8} is not the file that {REPO}:Q4_K_M names\nIt is the Q8_0 variant of {REPO}.\n"),
        (Q4, f"{Q8} is not the file that {REPO}:{Q4} names\nIt is the Q8_0 variant of {REPO}.\n"),
        ("Q9_9", f"There is no variant 'Q9_9'\n{Q8} is Q8_0.\n"),
    ],
)
def test_import_registers_the_named_variant_of_the_repo(named: str, why: str, repo: HubServer, tmp_path: Path) -> None:
    assert repo.list_repos()
    assert why in run("import", tmp_path / Q8, "--repo", f"{REPO}:{named}", code=1).stderr
    assert run_json("list")["models"] == []
    for right in ("q8_0", Q8):
        assert run("import", tmp_path / Q8, "--repo", f"{REPO}:{right}", "-q").stdout == f"hf/{REPO}:Q8_0\n"


# The queue


def test_background_pull_is_queued_followed_and_finished(repo: HubServer) -> None:
    number = run("pull", f"{REPO}:Q8_0", "--background").stdout.strip()
    assert number.isdigit()
    done = run("downloads", "--watch", number)
    assert f"Download {number} ({REPO}:Q8_0) is done." in done.stderr
    assert re.search(rf"{number} +{re.escape(REPO)}:Q8_0 +done +100 %", run("downloads", "--all").stdout)
    assert "done" in run("downloads", "log", number).stdout
    assert run_json("list")["models"][0]["id"] == f"hf/{REPO}:Q8_0"
    assert run_json("downloads", "clear") == {"removed": 1}
    assert repo.sent(Q8, side="storage") > 0


def test_background_pull_of_an_installed_model_is_a_download_too(repo: HubServer, tmp_path: Path) -> None:
    run("pull", f"{REPO}:Q8_0", "-q")
    before, sent = run_json_one("show", f"{REPO}:Q8_0"), repo.sent(side="storage")
    rang = tmp_path / "rang"
    os.mkfifo(rang)
    queued = run("pull", f"{REPO}:Q8_0", "-a", "walrus", "--background", "--on-done", f'echo "$LLM_HF_MODEL" > {rang}')
    number = queued.stdout.strip()
    assert queued.stderr.splitlines() == [
        f"hf/{REPO}:Q8_0 is already on this machine.",
        f"Download {number} has nothing to download and ends at once. Show it: llm hf downloads --all",
    ]
    assert rang.read_text("utf-8") == f"hf/{REPO}:Q8_0\n"
    assert "is done" in run("downloads", "--watch", number).stderr
    after = run_json_one("show", "walrus")
    assert {**after, "aliases": before["aliases"]} == before
    assert repo.sent(side="storage") == sent


def test_watching_a_failed_download_shows_the_reason_and_exits_with_1(repo: HubServer) -> None:
    repo.fault(FlipBit(HALF), on=Q8, side="storage", times=None)
    number = run("pull", f"{REPO}:Q8_0", "--background", "-q").stdout.strip()
    output = run("downloads", "--watch", number, code=1).stderr
    assert run_json("downloads", "--all")["downloads"][0]["done_bytes"] == 0
    assert "failed" in output
    assert "The digest was wrong twice" in output
    assert run_json("list")["models"] == []


def test_worker_that_can_not_start_is_reported_and_not_restarted(
    repo: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repo.list_repos()
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "0.5")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/filelock.py").write_text("raise ImportError('a broken wheel')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    number = run("pull", f"{REPO}:Q8_0", "--background", "-q").stdout.strip()
    output = run("downloads", "--watch", number, code=1).stderr
    assert "no worker has started it: ImportError: a broken wheel" in output
    assert str(log_path()) in output
    assert log_path().read_text().count("ImportError: a broken wheel") <= 3
    monkeypatch.delenv("PYTHONPATH")
    (*_, end) = Library().follow(int(number))
    assert (end.kind, end.download.error) == ("done", None)


def test_download_can_be_paused_and_resumed(repo: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_HEARTBEAT_SECONDS", "0.5")
    repo.fault(Stall(after=HALF), on=Q8, side="storage", times=None)
    number = run("pull", f"{REPO}:Q8_0", "--background", "--connections", "1", "-q").stdout.strip()
    repo.wait_until(lambda: repo.sent(Q8, side="storage") >= HALF)
    run("pause", number)
    assert "is paused" in run("downloads", "--watch", number).stderr
    repo.clear()
    run("resume", number)
    assert "is done" in run("downloads", "--watch", number).stderr


def add_downloads(*states: DownloadState) -> None:
    """Add a download in each of these states, without a process that carries it out."""
    with Database(library_path()) as db:
        for state in states:
            db.add_download(Download(0, "a/b", state, "a/b", "c" * 40, "Q4_K_M", 1))


def test_command_for_all_downloads_skips_one_that_has_just_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_downloads("queued", "queued", "queued")
    listed = Library.downloads

    def listed_and_ended(*args: Any, **kwargs: Any) -> tuple[DownloadView, ...]:
        rows = listed(*args, **kwargs)
        with Database(library_path()) as db:
            db.update_download(2, state="done")
        return rows

    monkeypatch.setattr(Library, "downloads", listed_and_ended)
    assert [(row["id"], row["state"]) for row in run_json("pause", "--all")["results"]] == [
        (3, "paused"),
        (1, "paused"),
    ]
    assert "nothing to pause" in run("pause", "2", code=2).stderr


def test_pending_pause_of_all_downloads_can_be_undone() -> None:
    add_downloads("running", "running", "done")
    with Database(library_path()) as db:
        db.update_download(2, wanted="pause")
    assert [row["id"] for row in run_json("resume", "--all")["results"]] == [2]
    with Database(library_path()) as db:
        assert [row.wanted for row in db.list_downloads()] == [None, None, None]


def test_command_handles_downloads_up_to_the_first_unknown_one() -> None:
    add_downloads("queued", "queued", "queued")
    assert [row["state"] for row in run_json("pause", "2", "3", "2")["results"]] == ["paused", "paused"]
    done = run("pause", "1", "99", code=1)
    assert "Download 1 (a/b) is paused." in done.stderr
    assert "There is no download 99" in done.stderr
    found = run_json("resume", "1", "99", code=1)
    assert [row["id"] for row in found["results"]] == [1]
    assert [(one["name"], one["error"]["code"]) for one in found["errors"]] == [("99", "not_found")]


def test_ending_download_is_shown_as_such_and_can_not_be_retried() -> None:
    add_downloads("running")
    assert run_json_one("cancel", "1")["requested_action"] == "cancel"
    assert "running, cancelling" in run("downloads").stdout
    assert "nothing to retry" in run("retry", "1", code=2).stderr
    add_downloads("running")
    assert run_json_one("pause", "2")["requested_action"] == "pause"
    assert "nothing to retry" in run("retry", "2", code=2).stderr


def test_resume_and_retry_errors_name_the_other_command() -> None:
    add_downloads("failed", "cancelled", "paused", "done")
    assert "Continue it with `llm hf retry 1`." in run("resume", "1", code=2).stderr
    assert "Continue it with `llm hf retry 2`." in run("resume", "2", code=2).stderr
    assert "Continue it with `llm hf resume 3`." in run("retry", "3", code=2).stderr
    for verb, states in ("resume", "paused"), ("retry", "failed or cancelled"):
        assert f"Only a download that is {states} can be changed this way." in run(verb, "4", code=2).stderr


def test_cancel_all_cancels_every_open_download() -> None:
    add_downloads("queued", "running", "verifying", "paused", "failed", "done", "cancelled")
    run("cancel", "--all")
    with Database(library_path()) as db:
        assert [row.wanted or row.state for row in reversed(db.list_downloads())] == [
            "cancelled", "cancel", "cancel", "cancelled", "cancelled", "done", "cancelled"
        ]  # fmt: skip


def test_watch_can_print_json_lines(repo: HubServer) -> None:
    repo.fault(Stall(after=HALF), on=Q8, side="storage")
    number = run("pull", f"{REPO}:Q8_0", "--background", "-q").stdout.strip()
    watching = run("downloads", "--watch", number, "--json")
    rows = [json.loads(line) for line in watching.stdout.splitlines()]
    assert (rows[-1]["id"], rows[-1]["state"], rows[-1]["done_bytes"]) == (
        int(number), "done", rows[-1]["total_bytes"]
    )  # fmt: skip
    assert rows[0].keys() == run_json("downloads", "--all")["downloads"][0].keys()
    assert all(one != next_one for one, next_one in pairwise(rows))
    assert watching.stderr == ""
    assert run("downloads", "--watch", "--json").stdout == "", "no download is open"
    assert run_json("downloads", "--all", "--limit", 2**63)["downloads"] == rows[-1:], "larger than an SQLite integer"


# The account


def test_token_is_encrypted_shown_to_its_owner_and_forgotten(hub: HubServer, home: Home) -> None:
    token = hub.add_token("hf_secret_of_ann", name="ann", organisations=("walruses",))
    done = run("login", stdin=f"{token}\nopen sesame\nopen sesame\n")
    assert "Logged in as ann." in done.stderr
    assert token not in done.output
    shown = run("whoami", stdin="open sesame\n")
    assert re.search(r"Name +ann", shown.stdout)
    assert "walruses" in shown.stdout
    assert token not in shown.output
    for path in home.root.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes()
    assert "Removed the token" in run("logout").stderr
    assert run("whoami", code=1).exit_code == 1


def test_only_a_refused_request_asks_for_the_passphrase(repo: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    token = repo.add_token("hf_secret_of_ann", access=("owner/gated-GGUF",))
    repo.add_repo("owner/gated-GGUF", {Q8: Path(repo.list_repos()[0].files[2].location)}, gated="manual")
    run("login", stdin=f"{token}\nopen sesame\nopen sesame\n")
    encrypted_token.lock()
    repo.forget_requests()
    for words in (("search", "tiny"), ("info", REPO), ("pull", REPO), ("status",)):
        done = run(*words, stdin="")
        assert "assphrase" not in done.stderr, words
    assert not any("authorization" in request.headers for request in repo.requests)
    refused = run("pull", "owner/gated-GGUF", stdin="", code=1).stderr
    assert refused.count("no input was given. Continuing without the stored token.") == 1
    output = refused.partition("Error: ")[2]
    assert "LLM_HF_PASSPHRASE" in output
    assert "llm hf login" not in output
    assert "LLM_HF_PASSPHRASE" in run("whoami", stdin="", code=1).stdout
    monkeypatch.setenv("LLM_HF_PASSPHRASE", "open sesame")
    assert run("pull", "owner/gated-GGUF", "-q", stdin="").stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX terminal")
def test_ctrl_c_at_the_passphrase_ends_the_command(repo: HubServer) -> None:
    run("login", stdin=f"{repo.add_token('hf_secret_of_ann')}\nopen sesame\nopen sesame\n")
    encrypted_token.lock()
    repo.forget_requests()
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [*HF, "whoami"], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as search:  # fmt: skip
        assert search.stderr is not None
        requested = ""
        while "(not shown)" not in requested:
            requested += search.stderr.read(1)
        search.send_signal(signal.SIGINT)
        out, output = search.communicate(timeout=30)
    os.close(ours)
    os.close(theirs)
    assert (search.returncode, out, repo.requests) == (130, "", [])
    assert "Interrupted" in output


def test_refused_token_error_names_the_environment_variable(repo: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert repo.requests == []
    for name in ("HUGGING_FACE_HUB_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, "hf_wrong")
        output = run("pull", REPO, code=1).stderr
        assert f"{name} overrides any other token. Change or unset it." in output
        assert "llm hf login" not in output
        monkeypatch.delenv(name)


def test_refused_token_is_not_stored(hub: HubServer) -> None:
    assert hub.endpoint
    done = run("login", "--token-stdin", stdin="hf_wrong\n", code=1)
    assert done.stderr.startswith("Error: ")
    assert "hf_wrong" not in done.output
    assert "No token was stored." in run("logout").stderr


def test_whoami_shows_the_source_of_the_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "HF_TOKEN", hub.add_token("hf_env", name="bob", kind="fineGrained", scopes=("repo.content.read",))
    )
    found = run_json("whoami")
    assert (found["account"]["name"], found["source"]) == ("bob", "environment")
    assert "repo.content.read" in run("whoami").stdout
    assert "hf_env" not in run("whoami").output


@pytest.mark.usefixtures("repo")
def test_status_shows_a_summary_of_the_machine(hub: HubServer) -> None:
    run("pull", REPO, "-q")
    text = run("status").stdout
    for output in ("Memory", "Disk", "1 model", hub.endpoint, "none running", "llm-hf-models"):
        assert output in text
    assert run_json("status")["models"] == 1


# A slow Hub


def read_terminal(terminal: int, end: bytes) -> str:
    """Return the output on a terminal up to `end`."""
    output = b""
    while end not in output:
        output += os.read(terminal, 1000)
    return output.decode()


def stays_silent(terminal: int) -> bool:
    """Return whether nothing is printed on a terminal for longer than a command waits before it names the Hub."""
    return select.select([terminal], [], [], SLOW_SECONDS + 1)[0] == []


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX terminal")
def test_slow_hub_is_announced_once_on_a_terminal(repo: HubServer) -> None:
    stall = Stall()
    repo.fault(stall, on="/api/models")
    ours, theirs = os.openpty()
    with subprocess.Popen([*HF, "search", "tiny", "--json"], stdout=subprocess.PIPE, stderr=theirs) as search:
        os.close(theirs)
        output = read_terminal(ours, b"\n")
        stall.release.set()
        out, _ = search.communicate(timeout=30)
    os.close(ours)
    assert output.strip() == f"Waiting for {repo.endpoint.partition('://')[2]}…"
    assert [row["id"] for row in json.loads(out)["results"]] == [REPO]


def test_slow_hub_is_not_announced_without_a_terminal(repo: HubServer) -> None:
    repo.fault(Delay(SLOW_SECONDS + 0.5), on="/api/models")
    done = subprocess.run([*HF, "search", "tiny"], capture_output=True, text=True, check=False, timeout=60)
    assert REPO in done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX terminal")
@pytest.mark.parametrize(
    ("words", "seconds"), [(("search", "tiny"), 0), (("pull", REPO, "-q"), SLOW_SECONDS + 0.5)], ids=["at once", "-q"]
)
def test_fast_or_quiet_commands_do_not_announce_a_slow_hub(
    words: tuple[str, ...], seconds: float, repo: HubServer
) -> None:
    from tests.tools.picture import run_in_terminal

    repo.fault(Delay(seconds), on="/api/models")
    code, screen = run_in_terminal([*HF, *words], os.environ)
    assert (code, "Waiting" in screen) == (0, False)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX terminal")
def test_slow_hub_is_not_announced_during_a_prompt(repo: HubServer) -> None:
    run("login", stdin=f"{repo.add_token('hf_secret_of_ann')}\nopen sesame\nopen sesame\n")
    encrypted_token.lock()
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [*HF, "whoami"], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True
    ) as search:
        read_terminal(ours, b"(not shown): ")
        silent = stays_silent(ours)
        search.send_signal(signal.SIGINT)
        search.communicate(timeout=30)
    os.close(ours)
    os.close(theirs)
    assert silent


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX terminal")
@pytest.mark.usefixtures("repo")
def test_slow_command_names_the_hub_only_if_it_uses_the_hub() -> None:
    run("pull", REPO, "-q")
    ours, theirs = os.openpty()
    with closing(sqlite3.connect(library_path(), isolation_level=None)) as library:
        library.execute("pragma locking_mode = exclusive")
        library.execute("begin exclusive")
        with subprocess.Popen([*HF, "inspect", "tiny"], stdout=subprocess.PIPE, stderr=theirs) as inspecting:
            silent = stays_silent(ours)
            library.close()
            out, _ = inspecting.communicate(timeout=30)
    os.close(ours)
    os.close(theirs)
    assert silent
    assert b"llama" in out


# The mirror


@pytest.mark.usefixtures("repo")
def test_another_machine_pulls_from_a_mirror_of_this_one(tmp_path: Path) -> None:
    run("pull", REPO, "-q")
    words = ("--host", "0.0.0.0", "--port", "0", "--allow", REPO, "--allow", "o/typo")
    with subprocess.Popen(
        [*HF, "mirror", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
    ) as mirror:  # fmt: skip
        assert mirror.stdout is not None
        address = mirror.stdout.readline().strip()
        there = {**os.environ, "HF_ENDPOINT": address.replace("0.0.0.0", "127.0.0.1"),
                 "LLM_USER_PATH": str(tmp_path / "there"), "HF_HOME": str(tmp_path / "hf"),
                 "HF_HUB_CACHE": str(tmp_path / "hf/hub")}  # fmt: skip
        pulled = subprocess.run([*HF, "pull", REPO], env=there, capture_output=True, text=True, check=False, timeout=60)
        mirror.send_signal(signal.SIGINT)
        _, output = mirror.communicate(timeout=30)
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout == f"hf/{REPO}:Q4_K_M\n"
    assert f"HF_ENDPOINT={address}" in output
    assert "Anyone who can reach this address" in output
    assert "use this machine's name or address instead of 0.0.0.0" in output
    assert output.startswith("Not on this machine: o/typo. List local models with `llm hf list`.\n")
    assert output.endswith("Stopped.\n")
    assert mirror.returncode == 0


@pytest.mark.usefixtures("repo")
def test_model_can_be_removed_with_an_invalid_endpoint(home: Home) -> None:
    run("pull", REPO, "-q")
    done = subprocess.run(
        [*HF, "rm", "-y", REPO], env={**os.environ, "HF_ENDPOINT": "http://[::1"}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list_cached(home) == []


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX terminal")
@pytest.mark.parametrize("command", ["pull", "info"])
def test_bytes_of_a_slow_header_are_shown_on_a_terminal(command: str, repo: HubServer) -> None:
    repo.add_repo("owner/slow", {Q8: repo.list_repos()[0].find_file(Q8).location})  # type: ignore[union-attr]
    repo.fault(Throttle(120_000), on=Q8, side="storage", times=1)
    ours, theirs = os.openpty()
    with subprocess.Popen([*HF, command, "owner/slow"], stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        output = read_terminal(ours, b"kB")
        process.communicate(timeout=60)
    os.close(ours)
    assert re.search(r"\r\x1b\[KReading the header… [\d.]+ kB", output)
    assert process.returncode == 0
