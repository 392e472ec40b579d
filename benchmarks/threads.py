"""Compare thread counts, spin counts and batch sizes of the engine, on an idle machine and next to busy processes.

    python benchmarks/threads.py [MODEL.gguf] [--tokens 32] [--repeats 3] [--only threads|spins|batch]

Without a model, it uses SmolLM2. The figures are in tokens per second. They are the reason for the values of
machine.choose_thread_count, engine.BATCH_TOKENS and launcher.SPIN_COUNT.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from llm_hf_models import paths, settings
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.inference import engine, launcher, running_engines
from llm_hf_models.inference.protocol import client as inference_client
from llm_hf_models.inference.protocol import openai_protocol
from llm_hf_models.library.database import Database
from llm_hf_models.system import machine
from tests.support import real_weights

PROMPT = "The quick brown fox jumps over the lazy dog and runs into the deep green forest. " * 8
CORES = psutil.cpu_count(logical=False) or 1


@dataclass(frozen=True)
class Case:
    """A configuration of the engine."""

    threads: int
    spins: str = launcher.SPIN_COUNT  # GOMP_SPINCOUNT: how often an idle thread checks for work before it sleeps
    batch: int = engine.BATCH_TOKENS


@contextmanager
def run_busy_processes(count: int) -> Iterator[None]:
    """Run processes that each keep a core fully busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(model: Path, case: Case, tokens: int, repeats: int) -> list[tuple[float, float]]:
    """Return the median prompt and generation speeds (tokens per second), next to no, one and CORES busy processes."""
    os.environ["GOMP_SPINCOUNT"] = case.spins
    engine.BATCH_TOKENS = case.batch
    spec = engine.EngineSpec("benchmark", model, facts=ModelFacts(kind="chat"), context=2048, threads=case.threads)
    turn = openai_protocol.Turn(
        (), {"max_tokens": tokens, "cache_prompt": False, "ignore_eos": True}, raw=True, prompt=PROMPT
    )
    speeds = []
    with Database(paths.library_path()) as db:
        endpoint = engine.ensure_engine(spec, db, settings.load(), keep_alive=60, notice=print)
        for count in (0, 1, CORES):
            with run_busy_processes(count):
                last_events = [list(inference_client.stream_completion(endpoint, turn))[-1] for _ in range(repeats)]
            finishes = [event for event in last_events if isinstance(event, openai_protocol.Finish)]
            speeds.append(
                (
                    statistics.median(finish.prompt_per_second or 0 for finish in finishes),
                    statistics.median(finish.tokens_per_second or 0 for finish in finishes),
                )
            )
        running_engines.stop_engines(db, "benchmark")
    return speeds


def list_cases(only: str | None) -> list[Case]:
    """Return the configurations to compare, or only those of one group."""
    default_threads = machine.choose_thread_count()
    groups = {
        "threads": [Case(n) for n in sorted({1, default_threads, CORES, CORES + 1})],
        "spins": [Case(CORES, spins) for spins in ("0", "1000", "10000", "100000", "300000", "infinite")],
        "batch": [Case(default_threads, batch=batch) for batch in (32, 64, 128, 256, 512)],
    }
    return [case for name, group in groups.items() if only in (None, name) for case in group]


def main() -> None:
    """Print one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="a GGUF file (default: SmolLM2)")
    parser.add_argument("--tokens", type=int, default=32, help="tokens to generate per run (default 32)")
    parser.add_argument("--repeats", type=int, default=3, help="runs per median (default 3)")
    parser.add_argument("--only", choices=("threads", "spins", "batch"), help="run only one group of cases")
    args = parser.parse_args()
    print(f"{CORES} physical cores; prompt / generated tokens per second")
    print(f"{'threads':>7} {'spins':>8} {'batch':>5} | {'idle machine':>13} | {'1 busy':>13} | {CORES} busy processes")
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(LLM_USER_PATH=folder, XDG_RUNTIME_DIR=folder)
        model = args.model or real_weights.smollm2(Path(folder))
        for case in list_cases(args.only):
            speeds = measure(model, case, args.tokens, args.repeats)
            columns = " | ".join(f"{prompt:6.1f}/{generation:6.1f}" for prompt, generation in speeds)
            print(f"{case.threads:7} {case.spins:>8} {case.batch:5} | {columns}", flush=True)


if __name__ == "__main__":
    main()
