"""Measure a large library: `python benchmarks/library.py`.

It needs no network. The rows of 10,000 local models and 500 collections are written directly through the database.
Each model has its own small file with the recorded time stamps, two aliases and three checks, and is a member of a
collection.

The figures are CPU times of whole processes over that of `llm --version`: the smallest of several runs, because other
programs on the machine can only add to them. `its rows` is the time that grows with the number of models:
reading the row, one `stat` per file, formatting, printing. It is the difference between the whole library and an empty
one. `fixed` is the rest, over `llm --version`, and has the target. The last lines show where the time of the rows goes.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import Check, LocalFile, LocalModel
from llm_hf_models.library.summaries import SummaryTables

TARGET_MS = 50
MIN_ROWS_PER_SECOND = 10_000
FACTS = ModelFacts(
    kind="chat", architecture="llama", parameters=600_000_000, quantization="Q4_K_M", weights_bytes=400_000_000,
    tensor_types={"Q4_K": 168, "Q6_K": 29, "F32": 113}, block_count=28, context_length=40_960, embedding_length=1024,
    kv_bytes_per_token=114_688, tokenizer="gpt2", vocabulary_size=151_936, chat_template=True, tools=True,
    license="apache-2.0", base_models=("owner/base",),
)  # fmt: skip
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("hf", "list"),
    ("hf", "list", "-q"),
    ("hf", "show", "hf/owner-7/model-7-GGUF:Q4_K_M"),
    ("hf", "show", "model-7"),
    ("models", "list"),
)


def create_library(user: Path, models: int, collections: int) -> None:
    """Create a user folder of llm whose library has this number of models and collections."""
    files = user / "files"
    files.mkdir(parents=True)
    now = time.time()
    with Database(user / "hf/library.db") as db, db.transaction():
        for number in range(models):
            db.register(make_model(files, number, now))
        for number in range(collections):
            db.write("insert into collections (name, created) values (?, ?)", f"group-{number}", now)
        for number in range(models if collections else 0):
            db.write(
                "insert into collection_members (collection, ref) values (?, ?)",
                number % collections + 1, f"owner-{number % 500}/model-{number}-GGUF:Q4_K_M",
            )  # fmt: skip


def make_model(folder: Path, number: int, now: float) -> LocalModel:
    """Return a model with a file of its own."""
    name, commit = f"owner-{number % 500}/model-{number}-GGUF", f"{number:040x}"
    path = folder / f"model-{number}-Q4_K_M.gguf"
    path.write_bytes(b"GGUF")
    status = path.stat()
    file = LocalFile(
        path.name, "weights", status.st_size, str(path), f"{number:064x}", None, status.st_mtime_ns, status.st_ctime_ns
    )
    checks = (
        Check("digest", "matches", now, {"repo": name, "commit": commit}),
        Check("structure", "valid", now),
        Check("scan", "no issue reported", now),
    )
    return LocalModel(
        f"hf/{name}:Q4_K_M", name, None, commit, "Q4_K_M", (file,), FACTS,
        aliases=(f"model-{number}", f"model-{number}:Q4_K_M"), checks=checks, added=now - number,
    )  # fmt: skip


def run_command(user: Path, command: Sequence[str]) -> float:
    """Run an `llm` command with the plugin only. Return the CPU milliseconds of its process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "llm", *command],
        env={**os.environ, "LLM_USER_PATH": str(user), "LLM_LOAD_PLUGINS": "llm-hf-models"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,  # in an empty library, `show` finds nothing
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def compare_commands(
    full: Path, empty: Path, commands: Sequence[Sequence[str]], runs: int
) -> dict[tuple[str, ...], tuple[float, float]]:
    """Return the CPU milliseconds over `llm --version` of each command: in an empty and in a full library.

    All commands are run in turn, so that a change of the machine's load affects each of them.
    """
    users, version = (empty, full), ("--version",)
    times: dict[tuple[tuple[str, ...], Path], list[float]] = {}
    for _ in range(runs):
        for command in (version, *map(tuple, commands)):
            for user in users:
                times.setdefault((command, user), []).append(run_command(user, command))
    least = {key: min(values) for key, values in times.items()}
    base = min(least[version, user] for user in users)  # it does not read the library
    small, large = ({command: least[command, user] - base for command, _ in least} for user in users)
    return {command: (small[command], large[command]) for command in map(tuple, commands)}


def measure_parts(user: Path, runs: int) -> dict[str, float]:
    """Return the CPU milliseconds of reading all rows, and of formatting them, in this process."""
    from llm_hf_models.cli.views.local import render_local_models

    read, formatted = [], []
    for _ in range(runs):
        with SummaryTables(user / "hf/library.db") as db:
            begin = time.process_time()
            rows = db.list_summaries()
            middle = time.process_time()
        render_local_models(rows, None)
        read.append((middle - begin) * 1000)
        formatted.append((time.process_time() - middle) * 1000)
    return {"read and stat the rows": min(read), "format the rows": min(formatted)}


def main() -> None:
    """Print the table. Exit with code 1 if the fixed cost of `llm hf list` is over the target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=10_000, help="local models (default 10,000)")
    parser.add_argument("--collections", type=int, default=500, help="collections (default 500)")
    parser.add_argument("--runs", type=int, default=7, help="processes per command (default 7)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        full, empty = Path(folder) / "full", Path(folder) / "empty"
        create_library(full, arguments.models, arguments.collections)
        create_library(empty, 0, 0)
        found = compare_commands(full, empty, COMMANDS, arguments.runs)
        parts = measure_parts(full, arguments.runs)
    print(f"{arguments.models:,} models, {arguments.collections} collections; CPU ms over `llm --version`")
    print(f"{'command':<46}{'total':>8}{'fixed':>8}{'its rows':>10}")
    for command, (fixed, total) in found.items():
        print(f"{'llm ' + ' '.join(command):<46}{total:>8.0f}{fixed:>8.0f}{total - fixed:>10.0f}")
    fixed, total = found[COMMANDS[0]]
    rate = arguments.models / max(0.001, total - fixed) * 1000
    print(f"\n`llm hf list` has a fixed cost of {fixed:.0f} ms (target: {TARGET_MS}) and lists {rate:,.0f} rows/s")
    for name, milliseconds in parts.items():
        print(f"    {name}: {milliseconds:.0f} ms")
    if fixed > TARGET_MS:
        sys.exit(f"The fixed cost of `llm hf list` is {fixed:.0f} ms. The target is {TARGET_MS} ms.")
    if rate < MIN_ROWS_PER_SECOND:
        sys.exit(f"`llm hf list` lists {rate:,.0f} rows/s. The target is {MIN_ROWS_PER_SECOND:,}.")


if __name__ == "__main__":
    main()
