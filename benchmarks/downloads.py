"""Measure the CPU time that `llm hf downloads` takes more than `llm --version`: `python benchmarks/downloads.py`.

It needs no network. The library holds ten models, 10,000 finished downloads and 100 unfinished ones, one of them
running; each download has a plan of a realistic length. The clock starts after a fresh process has imported llm and
its plugins, because the times of whole processes vary by more than the difference. The benchmark fails if
`llm hf downloads` misses the target.
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

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.library.database import Database
from llm_hf_models.library.download_records import Download
from llm_hf_models.library.records import LocalModel
from llm_hf_models.system.ownership import make_owner_name

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


def fill_library(home: Path) -> None:
    """Create a library with as many records as after years of use."""
    plan = json.dumps({"padding": "x" * PLAN_CHARS})
    with Database(home / "hf/library.db") as db, db.transaction():
        for number in range(FINISHED + UNFINISHED):
            state = "done" if number < FINISHED else "paused"
            name = f"owner/model-{number % 100}-GGUF"
            row = db.add_download(Download(0, f"{name}:Q4_K_M", state, name, "c" * 40, "Q4_K_M", 10**9, plan=plan))
        db.claim_download(row.id, make_owner_name(), stale_seconds=0)
        for number in range(MODELS):
            name = f"owner/model-{number}-GGUF"
            db.register(LocalModel(f"hf/{name}:Q4_K_M", name, None, "c" * 40, "Q4_K_M", (), ModelFacts(kind="chat")))


def measure_cpu_ms(home: Path, command: list[str]) -> float:
    """Return the CPU milliseconds of a command in a fresh process, after the import of llm and its plugins."""
    # Write bytecode, even if the environment forbids it: an installed package has bytecode too.
    own = {"LLM_USER_PATH": str(home), "HF_HOME": str(home / "huggingface"), "PYTHONPYCACHEPREFIX": str(home / "pyc")}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | own
    done = subprocess.run(
        [sys.executable, "-c", RUN, *command], env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stderr.rpartition("cpu ")[2])


def main() -> None:
    """Print the table. Exit with code 1 if `llm hf downloads` misses the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="processes per median (default 9)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        fill_library(home)
        for command in COMMANDS:
            measure_cpu_ms(home, command)  # writes the bytecode
        times = {" ".join(command): [measure_cpu_ms(home, command) for _ in range(runs)] for command in COMMANDS}
    base = statistics.median(times["--version"])
    extra = {name: statistics.median(figures) - base for name, figures in times.items()}
    print(f"CPU ms in addition to `llm --version`, medians of {runs} fresh processes (target: {TARGET_MS})")
    for name in list(extra)[1:]:
        print(f"  llm {name:<20} {extra[name]:>+7.0f}")
    if extra["hf downloads"] > TARGET_MS:
        sys.exit(f"`llm hf downloads` takes {extra['hf downloads']:.0f} ms more; the target is {TARGET_MS} ms")


if __name__ == "__main__":
    main()
