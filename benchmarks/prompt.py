"""Measure the time and memory of a prompt with `llm -m`, with a stopped (cold) and a running (warm) engine.

The comparison is llama.cpp's own server, used through llm's class for OpenAI models, and llm-gguf if installed.

    python benchmarks/prompt.py [MODEL.gguf] [--runs 7] [--tokens 64]      # without a model: SmolLM2-135M

Whole processes are timed from start to end; "generation" is the bare server's time for the same prompt and length.
The bare server is xllamacpp.Server in its own process, used over loopback. It runs once with its own defaults, and
once with our engine's threads and batch, to separate the cost of our code from the effect of those settings. Each
row is the median of several rounds in which the contestants take turns. On a busy machine the defaults are much
slower, because their threads spin: check the load that is printed first. Memory is the peak of the `llm` process
alone. numpy is hidden from it, because sqlite-utils would import it and users don't have it. llm-gguf has no length
limit, so its time until the first word is compared.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support import real_weights

PROMPT = "Write a long story about a walrus who learns to read."
MODEL_ID = "hf/benchmark/model:X"
HOSTED = "bare-server"
CONTEXT = 2048
BARE = """
import os, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.port, params.verbosity = sys.argv[1], int(sys.argv[2]), 0, 1
if len(sys.argv) > 3:
    threads, params.n_batch = map(int, sys.argv[3:])
    params.n_ubatch = params.n_batch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
os._exit(0)  # the server has no stop method
"""
LLM_COMMAND = """
import sys
sys.modules["numpy"] = None
from llm.cli import cli
try:
    cli(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
try:
    lines = open("/proc/self/status").read().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
except OSError:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak, file=sys.stderr)
"""
Timing = tuple[float, float, float]  # seconds to the first token and to the end, tokens per second in between


def time_pieces(pieces: Iterator[object], tokens: int) -> Timing:
    begin = time.perf_counter()
    next(pieces)
    first = time.perf_counter()
    for _ in pieces:
        pass
    end = time.perf_counter()
    return first - begin, end - begin, (tokens - 1) / (end - first)


def stream_bare(address: str, tokens: int) -> Iterator[str]:
    """Yield the chunks of one response of the bare server, with only the standard library."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    messages = [{"role": "user", "content": PROMPT}]
    request = {"messages": messages, "stream": True, "max_tokens": tokens, "temperature": 0}
    connection.request("POST", "/v1/chat/completions", json.dumps(request), {"Content-Type": "application/json"})
    for line in connection.getresponse():
        if line.startswith(b"data: {"):
            choices = json.loads(line[6:])["choices"]
            if choices and choices[0]["delta"].get("content"):
                yield choices[0]["delta"]["content"]
    connection.close()


@contextmanager
def run_bare_server(model: Path, *, like_ours: bool) -> Iterator[str]:
    from llm_hf_models.inference import engine, launcher
    from llm_hf_models.system import machine

    command = [sys.executable, "-c", BARE, str(model), str(CONTEXT)]
    environment = dict(os.environ)
    if like_ours:
        command += [str(machine.default_threads()), str(engine.BATCH_TOKENS)]
        environment["GOMP_SPINCOUNT"] = launcher.SPIN_COUNT
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()


def stream_ours(tokens: int) -> Iterator[object]:
    """Return the chunks of the same response through llm's Python API."""
    import llm

    return iter(llm.get_model(MODEL_ID).prompt(PROMPT, temperature=0, max_tokens=tokens, context=CONTEXT))


def time_command(*arguments: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "llm", *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def time_first_word(*arguments: str) -> float:
    """Return the seconds from the start of a process until its first output."""
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "llm", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        if not process.stdout.read(1):
            sys.exit(f"llm {' '.join(arguments)} printed nothing")
        seconds = time.perf_counter() - begin
        process.kill()
    return seconds


def measure_peak_memory(*arguments: str) -> float:
    """Return the peak memory of an `llm` process, in bytes."""
    done = subprocess.run([sys.executable, "-c", LLM_COMMAND, *arguments], capture_output=True, text=True, check=True)
    return float(done.stderr.splitlines()[-1])


def register_hosted(address: str) -> None:
    """Register the bare server with llm as an OpenAI-compatible model."""
    model = {"model_id": HOSTED, "model_name": HOSTED, "api_base": f"{address}/v1"}
    home = Path(os.environ["LLM_USER_PATH"])
    (home / "extra-openai-models.yaml").write_text(json.dumps([model]))  # JSON is YAML


def register(model: Path) -> None:
    from llm_hf_models import paths
    from llm_hf_models.gguf.header import read_header
    from llm_hf_models.library.database import Database
    from llm_hf_models.library.records import LocalFile, LocalModel

    with model.open("rb") as file:
        facts = read_header(file, file_bytes=model.stat().st_size).facts
    one = LocalFile(model.name, "weights", model.stat().st_size, str(model.absolute()))
    with Database(paths.library_path()) as db:
        db.register(LocalModel(MODEL_ID, None, None, None, "X", (one,), facts))


def stop_engines() -> None:
    from llm_hf_models import paths
    from llm_hf_models.inference import running_engines
    from llm_hf_models.library.database import Database

    with Database(paths.library_path()) as db:
        running_engines.stop_model(db, MODEL_ID)


def register_llm_gguf(model: Path) -> bool:
    """Register the model with llm-gguf. Return False if llm-gguf is not installed."""
    if importlib.util.find_spec("llm_gguf") is None:
        return False
    time_command("gguf", "register-model", "benchmark", str(model.absolute()))
    return True


def run_rounds(runs: int, contestants: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Return the median seconds of each contestant. The contestants take turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(runs):
        for name, race in contestants.items():
            times[name].append(race())
    return {name: statistics.median(values) for name, values in times.items()}


def print_table(title: str, rows: list[tuple[str, float, str]], unit: str) -> None:
    print(f"\n{title}")
    for name, value, remark in rows:
        print(f"  {name:<34}{value:>9.1f} {unit:<9} {remark}")


def compare_processes(model: Path, address: str, runs: int, tokens: int) -> None:
    limits = ("-o", "temperature", "0", "-o", "max_tokens", str(tokens))
    prompt = ("-m", MODEL_ID, PROMPT, *limits, "-o", "context", str(CONTEXT))
    hosted = ("-m", HOSTED, PROMPT, *limits)
    register_hosted(address)

    def cold() -> float:
        stop_engines()
        return time_command(*prompt)

    found = run_rounds(
        runs,
        {
            "cold": cold,
            "warm": lambda: time_command(*prompt),
            "hosted": lambda: time_command(*hosted),
            "version": lambda: time_command("--version"),
            "generation": lambda: time_pieces(stream_bare(address, tokens), tokens)[1],
        },
    )
    ideal = found["version"] + found["generation"]
    rows = [
        ("llm --version", found["version"] * 1000, ""),
        ("generation by the bare server", found["generation"] * 1000, f"{tokens} tokens"),
        ("llm -m, warm", found["warm"] * 1000, f"{found['warm'] / ideal:.2f} x (llm --version + generation)"),
        ("llm -m, cold", found["cold"] * 1000, "starts the engine and loads the model"),
        ("llm -m, the bare server as hosted", found["hosted"] * 1000, "through llm's class for OpenAI models"),
    ]
    print_table("Whole processes", rows, "ms")
    compare_first_words(model, prompt, hosted, runs)
    compare_memory(prompt, hosted, runs)


def compare_first_words(model: Path, prompt: tuple[str, ...], hosted: tuple[str, ...], runs: int) -> None:
    def cold() -> float:
        stop_engines()
        return time_first_word(*prompt)

    contestants: dict[str, Callable[[], float]] = {
        "llm -m, cold": cold,
        "llm -m, warm": lambda: time_first_word(*prompt),
        "llm -m, the bare server as hosted": lambda: time_first_word(*hosted),
    }
    if register_llm_gguf(model):
        contestants["llm -m with llm-gguf"] = lambda: time_first_word("-m", "gguf/benchmark", PROMPT)
    found = run_rounds(runs, contestants)
    rows = [
        (name, value * 1000, f"ours, cold, takes {found['llm -m, cold'] / value:.2f} x" if "gguf" in name else "")
        for name, value in found.items()
    ]
    print_table("From the start of the command to its first word", rows, "ms")


def compare_memory(prompt: tuple[str, ...], hosted: tuple[str, ...], runs: int) -> None:
    contestants = {
        "llm --version": lambda: measure_peak_memory("--version"),
        "llm -m, warm": lambda: measure_peak_memory(*prompt),
        "llm -m, the bare server as hosted": lambda: measure_peak_memory(*hosted),
    }
    found = run_rounds(runs, contestants)
    least = found["llm --version"]
    rows = [(name, value / 1e6, f"{(value - least) / 1e6:+.1f} MB") for name, value in found.items()]
    print_table("Peak memory of the llm process", rows, "MB")


def compare_responses(like_ours: str, defaults: str, runs: int, tokens: int) -> None:
    contestants = {
        "ours": lambda: stream_ours(tokens),
        "bare server, our threads and batch": lambda: stream_bare(like_ours, tokens),
        "bare server, its defaults": lambda: stream_bare(defaults, tokens),
    }
    found: dict[str, list[Timing]] = {name: [] for name in contestants}
    for _ in range(runs + 1):  # the first round warms all of them up
        for name, pieces in contestants.items():
            found[name].append(time_pieces(pieces(), tokens))
    first, speed = (
        {name: statistics.median(one[index] for one in each[1:]) for name, each in found.items()} for index in (0, 2)
    )
    later = [(name, value * 1000, f"ours {(first['ours'] - value) * 1000:+.1f} ms") for name, value in first.items()]
    print_table("First token of a warm response, in one process", later, "ms")
    ratios = [(name, value, f"ours {speed['ours'] / value:.2f} x") for name, value in speed.items()]
    print_table("Speed after the first token", ratios, "tokens/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hf-") as folder:
        os.environ.update(LLM_USER_PATH=f"{folder}/llm", XDG_RUNTIME_DIR=folder)
        model = given.model or real_weights.smollm2(Path(folder))
        register(model)
        print(f"{model.name}, {given.runs} rounds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        try:
            with run_bare_server(model, like_ours=True) as like_ours:
                compare_processes(model, like_ours, given.runs, given.tokens)
                with run_bare_server(model, like_ours=False) as defaults:
                    compare_responses(like_ours, defaults, given.runs, given.tokens)
        finally:
            stop_engines()


if __name__ == "__main__":
    main()
