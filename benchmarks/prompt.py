"""Compare time and memory of a prompt through `llm -m` with a plain llama.cpp server and with llm-gguf.

    python benchmarks/prompt.py [MODEL.gguf] [--runs 7] [--tokens 64]      # without a model: SmolLM2-135M

The plain server is xllamacpp.Server in its own process, called over loopback. It runs with its own defaults, and also
with the threads and batch size of llm-hf-models, to separate the cost of the code from the effect of these settings.
llm calls the plain server through its class for OpenAI models. llm-gguf takes part if it is installed.

Whole processes are timed from start to end. "Generation" is the time of the plain server for the same prompt and
length. Each row is the median of several rounds in which the contestants take turns. The plain server's default
threads spin while they wait, so it is much slower on a busy machine: check the load in the first line of the output.
Memory is the peak of the `llm` process. numpy is hidden from it: sqlite-utils would import numpy here, but most users
don't have it installed. llm-gguf can't limit the length of a response, so only the time until its first output is
compared.
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
HOSTED = "plain-server"
CONTEXT = 2048
PLAIN_SERVER = """
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
os._exit(0)  # xllamacpp.Server has no way to stop
"""
LLM_WITH_PEAK_MEMORY = """
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
# Seconds until the first token, seconds until the end, tokens per second between the two.
Timing = tuple[float, float, float]


def time_pieces(pieces: Iterator[object], tokens: int) -> Timing:
    """Time the pieces of a response while they arrive."""
    begin = time.perf_counter()
    next(pieces)
    first = time.perf_counter()
    for _ in pieces:
        pass
    end = time.perf_counter()
    return first - begin, end - begin, (tokens - 1) / (end - first)


def stream_plain_server(address: str, tokens: int) -> Iterator[str]:
    """Yield the pieces of a response of the plain server, with an HTTP client of the standard library."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    messages = [{"role": "user", "content": PROMPT}]
    body = {"messages": messages, "stream": True, "max_tokens": tokens, "temperature": 0}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    for line in connection.getresponse():
        if line.startswith(b"data: {"):
            choices = json.loads(line[6:])["choices"]
            if choices and choices[0]["delta"].get("content"):
                yield choices[0]["delta"]["content"]
    connection.close()


@contextmanager
def run_plain_server(model: Path, *, same_settings: bool) -> Iterator[str]:
    """Run the plain server and yield its address.

    With `same_settings`, it has the threads, spin count and batch size of llm-hf-models instead of its own defaults.
    """
    from llm_hf_models.inference import engine, launcher
    from llm_hf_models.system import machine

    command = [sys.executable, "-c", PLAIN_SERVER, str(model), str(CONTEXT)]
    environment = dict(os.environ)
    if same_settings:
        command += [str(machine.choose_thread_count()), str(engine.BATCH_TOKENS)]
        environment["GOMP_SPINCOUNT"] = launcher.SPIN_COUNT
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()


def stream_llm(tokens: int) -> Iterator[object]:
    """Yield the pieces of the same response through llm's Python API."""
    import llm

    return iter(llm.get_model(MODEL_ID).prompt(PROMPT, temperature=0, max_tokens=tokens, context=CONTEXT))


def time_command(*arguments: str) -> float:
    """Run an `llm` command and return its wall time in seconds."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "llm", *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def time_first_output(*arguments: str) -> float:
    """Return the seconds from the start of an `llm` process until it writes to standard output."""
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
    done = subprocess.run(
        [sys.executable, "-c", LLM_WITH_PEAK_MEMORY, *arguments], capture_output=True, text=True, check=True
    )
    return float(done.stderr.splitlines()[-1])


def configure_hosted_model(address: str) -> None:
    """Configure the plain server as a hosted model, which llm calls through its class for OpenAI models."""
    config = {"model_id": HOSTED, "model_name": HOSTED, "api_base": f"{address}/v1"}
    home = Path(os.environ["LLM_USER_PATH"])
    (home / "extra-openai-models.yaml").write_text(json.dumps([config]))  # JSON is YAML


def register_model(model: Path) -> None:
    """Add the model file to the library of llm-hf-models."""
    from llm_hf_models import paths
    from llm_hf_models.gguf.header import read_header
    from llm_hf_models.library.database import Database
    from llm_hf_models.library.records import LocalFile, LocalModel

    with model.open("rb") as file:
        facts = read_header(file, file_bytes=model.stat().st_size).facts
    weights = LocalFile(model.name, "weights", model.stat().st_size, str(model.absolute()))
    with Database(paths.library_path()) as db:
        db.register(LocalModel(MODEL_ID, None, None, None, "X", (weights,), facts))


def stop_engines() -> None:
    """Stop the engines of llm-hf-models that run the model."""
    from llm_hf_models import paths
    from llm_hf_models.inference import running_engines
    from llm_hf_models.library.database import Database

    with Database(paths.library_path()) as db:
        running_engines.stop_engines(db, MODEL_ID)


def register_with_llm_gguf(model: Path) -> bool:
    """Register the model with llm-gguf. Return False if llm-gguf is not installed."""
    if importlib.util.find_spec("llm_gguf") is None:
        return False
    time_command("gguf", "register-model", "benchmark", str(model.absolute()))
    return True


def take_medians(runs: int, contestants: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Measure the contestants in turns, and return the median of each."""
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(runs):
        for name, measure in contestants.items():
            figures[name].append(measure())
    return {name: statistics.median(values) for name, values in figures.items()}


def print_table(title: str, rows: list[tuple[str, float, str]], unit: str) -> None:
    """Print rows of a name, a figure and a remark."""
    print(f"\n{title}")
    for name, value, remark in rows:
        print(f"  {name:<38}{value:>9.1f} {unit:<9} {remark}")


def compare_processes(model: Path, address: str, runs: int, tokens: int) -> None:
    """Print the tables about whole processes: times from start to end, times until the first output, memory."""
    limits = ("-o", "temperature", "0", "-o", "max_tokens", str(tokens))
    prompt = ("-m", MODEL_ID, PROMPT, *limits, "-o", "context", str(CONTEXT))
    hosted = ("-m", HOSTED, PROMPT, *limits)
    configure_hosted_model(address)

    def cold() -> float:
        stop_engines()
        return time_command(*prompt)

    seconds = take_medians(
        runs,
        {
            "cold": cold,
            "warm": lambda: time_command(*prompt),
            "hosted": lambda: time_command(*hosted),
            "version": lambda: time_command("--version"),
            "generation": lambda: time_pieces(stream_plain_server(address, tokens), tokens)[1],
        },
    )
    ideal = seconds["version"] + seconds["generation"]
    rows = [
        ("llm --version", seconds["version"] * 1000, ""),
        ("generation by the plain server", seconds["generation"] * 1000, f"{tokens} tokens"),
        ("llm -m, warm", seconds["warm"] * 1000, f"{seconds['warm'] / ideal:.2f} x (llm --version + generation)"),
        ("llm -m, cold", seconds["cold"] * 1000, "starts the engine and loads the model"),
        ("llm -m, plain server", seconds["hosted"] * 1000, "through llm's class for OpenAI models"),
    ]
    print_table("Whole processes", rows, "ms")
    compare_first_outputs(model, prompt, hosted, runs)
    compare_memory(prompt, hosted, runs)


def compare_first_outputs(model: Path, prompt: tuple[str, ...], hosted: tuple[str, ...], runs: int) -> None:
    """Print the times from the start of the command until its first output."""

    def cold() -> float:
        stop_engines()
        return time_first_output(*prompt)

    contestants: dict[str, Callable[[], float]] = {
        "llm -m, cold": cold,
        "llm -m, warm": lambda: time_first_output(*prompt),
        "llm -m, plain server": lambda: time_first_output(*hosted),
    }
    if register_with_llm_gguf(model):
        contestants["llm -m with llm-gguf"] = lambda: time_first_output("-m", "gguf/benchmark", PROMPT)
    seconds = take_medians(runs, contestants)
    rows = [
        (name, value * 1000, f"llm -m, cold: {seconds['llm -m, cold'] / value:.2f} x" if "gguf" in name else "")
        for name, value in seconds.items()
    ]
    print_table("From the start of the command to its first output", rows, "ms")


def compare_memory(prompt: tuple[str, ...], hosted: tuple[str, ...], runs: int) -> None:
    """Print the peak memory of `llm` processes, and the difference from `llm --version`."""
    contestants = {
        "llm --version": lambda: measure_peak_memory("--version"),
        "llm -m, warm": lambda: measure_peak_memory(*prompt),
        "llm -m, plain server": lambda: measure_peak_memory(*hosted),
    }
    peaks = take_medians(runs, contestants)
    base = peaks["llm --version"]
    rows = [(name, value / 1e6, f"{(value - base) / 1e6:+.1f} MB") for name, value in peaks.items()]
    print_table("Peak memory of the llm process", rows, "MB")


def compare_responses(same_settings: str, defaults: str, runs: int, tokens: int) -> None:
    """Print times and speeds of responses in this process, from the plain servers and through llm's Python API.

    `same_settings` and `defaults` are the addresses of two plain servers: one with the threads and batch size of
    llm-hf-models, one with its own defaults.
    """
    contestants = {
        "llm-hf-models": lambda: stream_llm(tokens),
        "plain server, same threads and batch": lambda: stream_plain_server(same_settings, tokens),
        "plain server, its defaults": lambda: stream_plain_server(defaults, tokens),
    }
    timings: dict[str, list[Timing]] = {name: [] for name in contestants}
    for _ in range(runs + 1):  # the first round loads the models and is not counted
        for name, stream in contestants.items():
            timings[name].append(time_pieces(stream(), tokens))
    first, speed = (
        {name: statistics.median(timing[index] for timing in rounds[1:]) for name, rounds in timings.items()}
        for index in (0, 2)
    )
    ours = "llm-hf-models"
    delays = [(name, value * 1000, f"{ours}: {(first[ours] - value) * 1000:+.1f} ms") for name, value in first.items()]
    print_table("Time until the first token, model loaded, in one process", delays, "ms")
    ratios = [(name, value, f"{ours}: {speed[ours] / value:.2f} x") for name, value in speed.items()]
    print_table("Speed after the first token", ratios, "tokens/s")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="a GGUF file (default: SmolLM2-135M)")
    parser.add_argument("--runs", type=int, default=7, help="rounds per median (default 7)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to generate per response (default 64)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hf-") as folder:
        os.environ.update(LLM_USER_PATH=f"{folder}/llm", XDG_RUNTIME_DIR=folder)
        model = given.model or real_weights.smollm2(Path(folder))
        register_model(model)
        print(f"{model.name}, {given.runs} rounds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        try:
            with run_plain_server(model, same_settings=True) as same_settings:
                compare_processes(model, same_settings, given.runs, given.tokens)
                with run_plain_server(model, same_settings=False) as defaults:
                    compare_responses(same_settings, defaults, given.runs, given.tokens)
        finally:
            stop_engines()


if __name__ == "__main__":
    main()
