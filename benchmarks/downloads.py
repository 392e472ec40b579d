"""Measure the CPU time of listing downloads, compared with `llm --version`: `python benchmarks/downloads.py`.

The library has 100 unfinished downloads (one of them running) and 10,000 finished ones, each with a plan of realistic
length, and ten models. Each figure is the CPU time of fresh processes after llm and its plugins are imported, because
the times of whole processes vary by more than the differences measured. The exit code is 1 if `llm hf downloads`
misses the target. No network is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from llm_hf_models.downloads.running import make_owner_name
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.library.database import Database
from llm_hf_models.library.download_records import Download
from llm_hf_models.library.records import LocalModel

UNFINISHED, FINISHED, MODELS = 100, 10_000, 10
PLAN_CHARS = 4_000
TARGET_MS = 50
COMMANDS = (["--version"], ["hf", "downloads"], ["hf", "downloads", "--all"], ["hf", "list"])
RUN = """
import contextlib, sys, time
from llm.cli import cli
begin = time.process_time()
with contextlib.suppress(SystemExit):
    cli.main(sys.argv[1:])
print("cpu", (time.process_time() - begin) * 1000, file=sys.stderr)
"""


def fill(home: Path) -> None:
    """Create a library as it is after years of use."""
    plan = json.dumps({"padding": "x" * PLAN_CHARS})
    with Database(home / "hf/library.db") as db, db.transaction():
        for number in range(FINISHED + UNFINISHED):
            state = "done" if number < FINISHED else "paused"
            name = f"owner/model-{number % 100}-GGUF"
            row = db.open_download(Download(0, f"{name}:Q4_K_M", state, name, "c" * 40, "Q4_K_M", 10**9, plan=plan))
        db.claim_download(row.id, make_owner_name(), stale_seconds=0)
        for number in range(MODELS):
            name = f"owner/model-{number}-GGUF"
            db.register(LocalModel(f"hf/{name}:Q4_K_M", name, None, "c" * 40, "Q4_K_M", (), ModelFacts(kind="chat")))


def cpu_ms(home: Path, command: list[str]) -> float:
    """Return the CPU milliseconds of a command in a fresh process, after llm and its plugins are imported."""
    # Let the process write bytecode, as for an installed package; the environment may disable that.
    own = {"LLM_USER_PATH": str(home), "HF_HOME": str(home / "huggingface"), "PYTHONPYCACHEPREFIX": str(home / "pyc")}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | own
    done = subprocess.run(
        [sys.executable, "-c", RUN, *command], env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stderr.rpartition("cpu ")[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        fill(home)
        for command in COMMANDS:
            cpu_ms(home, command)  # compiles the imported modules
        every = {" ".join(command): [cpu_ms(home, command) for _ in range(runs)] for command in COMMANDS}
    base = statistics.median(every["--version"])
    more = {name: statistics.median(figures) - base for name, figures in every.items()}
    print(f"CPU ms more than `llm --version`, medians of {runs} fresh processes (target: {TARGET_MS})")
    for name in list(more)[1:]:
        print(f"  llm {name:<20} {more[name]:>+7.0f}")
    if more["hf downloads"] > TARGET_MS:
        sys.exit(f"`llm hf downloads` costs {more['hf downloads']:.0f} ms; the target is {TARGET_MS} ms")


if __name__ == "__main__":
    main()
