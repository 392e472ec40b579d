"""Measure the time that the plugin adds to every `llm` command: `python benchmarks/startup.py`.

It needs no network and no model. The first table shows the CPU time of importing the plugin and running its hooks, in
fresh processes that have imported llm already. The second table times whole `llm` commands, alternately with and
without the plugin. Those times vary by tens of milliseconds, so only the first table has a target.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import LocalModel

MODELS = (0, 1, 200)
TARGET_MS = 15
HOOKS = """
import time, llm, llm.cli
begin = time.process_time()
from llm_hf_models import plugin
plugin.register_commands(cli=llm.cli.cli)
commands = time.process_time()
found = []
plugin.register_models(register=lambda *a, **k: found.append(a), model_aliases=[])
plugin.register_embedding_models(register=lambda *a, **k: found.append(a))
end = time.process_time()
assert len(found) == EXPECTED, len(found)
print((commands - begin) * 1000, (end - begin) * 1000)
"""


def create_user_folder(home: Path, models: int) -> Path:
    """Create a user folder of llm whose library holds this number of models. One in ten is an embedding model."""
    folder = home / str(models)
    if models:
        with Database(folder / "hf/library.db") as db:
            for number in range(models):
                facts = ModelFacts(kind="embedding" if number % 10 == 9 else "chat", tools=True, modalities=("image",))
                name = f"owner/model-{number}-GGUF"
                db.register(
                    LocalModel(
                        f"hf/{name}:Q4_K_M", name, None, "c" * 40, "Q4_K_M", (), facts,
                        aliases=(f"model-{number}", f"model-{number}:Q4_K_M"),
                    )
                )  # fmt: skip
    else:
        folder.mkdir()
    return folder


def build_environment(user: Path, plugins: str) -> dict[str, str]:
    """Return the environment of an `llm` process that loads only these plugins."""
    return {**os.environ, "LLM_USER_PATH": str(user), "LLM_LOAD_PLUGINS": plugins}


def measure_hooks(user: Path, models: int, runs: int) -> tuple[float, float]:
    """Return the median CPU milliseconds of import and command hook, and the same with the model hooks.

    Every command needs the former, `llm models` also the model hooks.
    """
    code = HOOKS.replace("EXPECTED", str(models))
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], env=build_environment(user, ""), capture_output=True, text=True, check=True
        ).stdout
        for _ in range(runs)
    ]
    pairs = [tuple(map(float, text.split())) for text in outputs]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def run_command(user: Path, plugins: str, command: list[str]) -> tuple[float, float]:
    """Run an `llm` command. Return the CPU and wall milliseconds of its process."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "llm", *command],
        env=build_environment(user, plugins),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu * 1000, wall * 1000


def compare_command(user: Path, command: list[str], runs: int) -> tuple[float, float, float]:
    """Return the median CPU milliseconds without and with the plugin, and the median difference of the pairs."""
    without, with_plugin = [], []
    for _ in range(runs):
        without.append(run_command(user, "", command)[0])
        with_plugin.append(run_command(user, "llm-hf-models", command)[0])
    differences = [b - a for a, b in zip(without, with_plugin, strict=True)]
    return statistics.median(without), statistics.median(with_plugin), statistics.median(differences)


def main() -> None:
    """Print the tables. Exit with code 1 if the plugin takes longer than the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="processes per median (default 9)")
    parser.add_argument(
        "--pairs", type=int, default=5, help="pairs of whole processes per row (default 5; 0 skips them)"
    )
    runs, pairs = (arguments := parser.parse_args()).runs, arguments.pairs
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        homes = {models: create_user_folder(Path(folder), models) for models in MODELS}
        print(f"CPU ms added by import and hooks, median of {runs} fresh processes (target: {TARGET_MS})")
        print(f"{'models':>8}{'every command':>16}{'llm models':>14}")
        for models, home in homes.items():
            every_command, llm_models = measure_hooks(home, models, runs)
            worst = max(worst, llm_models)
            print(f"{models:>8}{every_command:>16.1f}{llm_models:>14.1f}")
        if pairs:
            print(f"\nCPU ms of whole processes, median of {pairs} pairs")
            print(f"{'models':>8}  {'command':<14}{'without':>10}{'with':>10}{'difference':>12}")
            for models, home in homes.items():
                for command in (["--version"], ["models"]):
                    without, with_plugin, difference = compare_command(home, command, pairs)
                    print(
                        f"{models:>8}  {'llm ' + command[0]:<14}{without:>10.0f}{with_plugin:>10.0f}{difference:>12.1f}"
                    )
    if worst > TARGET_MS:
        sys.exit(f"The plugin adds {worst:.1f} ms. The target is {TARGET_MS} ms.")


if __name__ == "__main__":
    main()
