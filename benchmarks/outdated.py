"""Measure `llm hf outdated` over 200 repos whose Hub replies after 100 ms: `python benchmarks/outdated.py`.

The tests' Hub runs in a process of its own and waits before each reply. Half of the repos are unchanged (one request),
the others have another card or other weights (two requests, and at the first comparison a third one for the earlier
list of files). The clock runs around `Library.outdated()`. The baseline is arithmetic: the same requests one after
another. The benchmark fails if the first comparison takes longer than the target.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from llm_hf_models import Library
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import LocalFile, LocalModel
from llm_hf_models.servers.catalog import ServedRepo
from llm_hf_models.system.hashing import compute_digests
from tests.support.hub_server import HubServer

REPOS, LATENCY_SECONDS, TARGET_SECONDS = 200, 0.1, 5.0
FILE = "model-Q4_K_M.gguf"
WEIGHTS = b"GGUF" * 250


def serve(pipe: Connection) -> None:
    """Serve the repos, with an earlier commit of each that has changed, until the pipe is closed."""
    with HubServer() as hub:
        first = [add_commit(hub, number, WEIGHTS, "one") for number in range(REPOS)]
        for number in range(0, REPOS, 4):
            add_commit(hub, number, WEIGHTS, "two")
            add_commit(hub, number + 1, WEIGHTS * 2, "one")
        hub.latency = LATENCY_SECONDS
        pipe.send((hub.endpoint, [repo.commit for repo in first]))
        while pipe.recv():
            pipe.send(len(hub.requests))
            hub.forget_requests()


def add_commit(hub: HubServer, number: int, weights: bytes, card: str) -> ServedRepo:
    """Add a commit to a repo."""
    return hub.add_repo(f"owner/model-{number}-GGUF", {FILE: weights, "README.md": card})


def fill_library(home: Path, commits: list[str]) -> None:
    """Record a model of each repo."""
    path = home / "weights"
    path.write_bytes(WEIGHTS)
    file = LocalFile(FILE, "weights", len(WEIGHTS), str(path), compute_digests(path).sha256)
    with Database(home / "hf/library.db") as db, db.transaction():
        for number, commit in enumerate(commits):
            name = f"owner/model-{number}-GGUF"
            db.register(LocalModel(f"hf/{name}:Q4_K_M", name, None, commit, "Q4_K_M", (file,), ModelFacts()))


def measure(pipe: Connection) -> tuple[float, int]:
    """Return the seconds of one comparison, and the number of requests."""
    begin = time.perf_counter()
    found = Library().outdated()
    seconds = time.perf_counter() - begin
    statuses = [row.status for row in found.models]
    assert (statuses.count("card"), statuses.count("new files")) == (REPOS // 4, REPOS // 4), found.problem
    pipe.send(True)
    return seconds, pipe.recv()


def main() -> None:
    """Print the table. Exit with code 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="comparisons per median (default 5)")
    runs = parser.parse_args().runs
    pipe, other = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(other,), daemon=True)
    server.start()
    endpoint, commits = pipe.recv()
    first, later = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            own = {"LLM_USER_PATH": folder, "HF_HOME": f"{folder}/hf-home", "HF_ENDPOINT": endpoint}
            own["HF_HUB_DISABLE_TELEMETRY"] = "1"
            os.environ.update(own)
            fill_library(Path(folder), commits)
            first.append(measure(pipe))
            later.append(measure(pipe))
    pipe.send(False)
    server.join()
    print(f"llm hf outdated over {REPOS} repos, {LATENCY_SECONDS * 1000:.0f} ms per reply, medians of {runs} runs")
    for name, figures in (("first comparison", first), ("later comparison", later)):
        seconds, requests = statistics.median(one for one, _ in figures), figures[0][1]
        serial = requests * LATENCY_SECONDS
        print(
            f"  {name}: {seconds:5.2f} s, {requests} requests, {serial / seconds:4.1f} times as fast as"
            f" one after another ({serial:.1f} s)"
        )
    if statistics.median(one for one, _ in first) > TARGET_SECONDS:
        sys.exit(f"The target is {TARGET_SECONDS:.0f} s.")


if __name__ == "__main__":
    main()
