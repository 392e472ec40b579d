"""What a prompt costs through `llm -m`, cold and warm, in time and memory: beside llama.cpp's bare server asked by
llm's own class for hosted models, and beside llm-gguf where that is installed.

    python benchmarks/prompt.py [MODEL.gguf] [--runs 7] [--tokens 64]      # without a model: SmolLM2-135M

Whole processes are timed from start to end; "generation" is what the bare server needs for the same prompt and length.
The bare server is xllamacpp.Server in a process of its own, asked over loopback: once with its own defaults, and
once with our engine's threads and batch, so that what our code costs stands apart from what those choices cost. Each
row is the median of several rounds in which the contestants take turns. On a busy machine the defaults, which spin,
fall far behind: look at the load that is printed first. Memory is the peak of the asking process alone, with numpy out
of sight, which users don't have and sqlite-utils would import. llm-gguf can't be told when to stop: what is compared
is the time until its first word stands on the terminal.
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
os._exit(0)  # it can't be stopped
"""
ASKING = """
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


def stamped(pieces: Iterator[object], tokens: int) -> Timing:
    begin = time.perf_counter()
    next(pieces)
    first = time.perf_counter()
    for _ in pieces:
        pass
    end = time.perf_counter()
    return first - begin, end - begin, (tokens - 1) / (end - first)


def bare_pieces(address: str, tokens: int) -> Iterator[str]:
    """One answer of the bare server, piece by piece, through the standard library alone."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    messages = [{"role": "user", "content": PROMPT}]
    asked = {"messages": messages, "stream": True, "max_tokens": tokens, "temperature": 0}
    connection.request("POST", "/v1/chat/completions", json.dumps(asked), {"Content-Type": "application/json"})
    for line in connection.getresponse():
        if line.startswith(b"data: {"):
            choices = json.loads(line[6:])["choices"]
            if choices and choices[0]["delta"].get("content"):
                yield choices[0]["delta"]["content"]
    connection.close()


@contextmanager
def bare_server(model: Path, *, like_ours: bool) -> Iterator[str]:
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


def our_pieces(tokens: int) -> Iterator[object]:
    """The same answer through llm's Python API."""
    import llm

    return iter(llm.get_model(MODEL_ID).prompt(PROMPT, temperature=0, max_tokens=tokens, context=CONTEXT))


def wall(*arguments: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "llm", *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def until_first_word(*arguments: str) -> float:
    """Seconds from the start of a process until something stands on its standard output."""
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "llm", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        if not process.stdout.read(1):
            sys.exit(f"llm {' '.join(arguments)} said nothing")
        seconds = time.perf_counter() - begin
        process.kill()
    return seconds


def peak_memory(*arguments: str) -> float:
    """The most memory that an `llm` process holds, in bytes."""
    done = subprocess.run([sys.executable, "-c", ASKING, *arguments], capture_output=True, text=True, check=True)
    return float(done.stderr.splitlines()[-1])


def as_hosted(address: str) -> None:
    """Tells llm of the bare server, as of a hosted model: asked by llm's own class for OpenAI's."""
    said = {"model_id": HOSTED, "model_name": HOSTED, "api_base": f"{address}/v1"}
    home = Path(os.environ["LLM_USER_PATH"])
    (home / "extra-openai-models.yaml").write_text(json.dumps([said]))  # JSON is YAML


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


def llm_gguf(model: Path) -> bool:
    """Registers the model with llm-gguf. False where that is not installed."""
    if importlib.util.find_spec("llm_gguf") is None:
        return False
    wall("gguf", "register-model", "benchmark", str(model.absolute()))
    return True


def rounds(runs: int, contestants: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Each contestant's median seconds; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(runs):
        for name, race in contestants.items():
            times[name].append(race())
    return {name: statistics.median(values) for name, values in times.items()}


def table(title: str, rows: list[tuple[str, float, str]], unit: str) -> None:
    print(f"\n{title}")
    for name, value, remark in rows:
        print(f"  {name:<34}{value:>9.1f} {unit:<9} {remark}")


def processes(model: Path, address: str, runs: int, tokens: int) -> None:
    limits = ("-o", "temperature", "0", "-o", "max_tokens", str(tokens))
    prompt = ("-m", MODEL_ID, PROMPT, *limits, "-o", "context", str(CONTEXT))
    hosted = ("-m", HOSTED, PROMPT, *limits)
    as_hosted(address)

    def cold() -> float:
        stop_engines()
        return wall(*prompt)

    found = rounds(
        runs,
        {
            "cold": cold,
            "warm": lambda: wall(*prompt),
            "hosted": lambda: wall(*hosted),
            "version": lambda: wall("--version"),
            "generation": lambda: stamped(bare_pieces(address, tokens), tokens)[1],
        },
    )
    ideal = found["version"] + found["generation"]
    rows = [
        ("llm --version", found["version"] * 1000, ""),
        ("generation by the bare server", found["generation"] * 1000, f"{tokens} tokens"),
        ("llm -m, warm", found["warm"] * 1000, f"{found['warm'] / ideal:.2f} x (llm --version + generation)"),
        ("llm -m, cold", found["cold"] * 1000, "the engine started and the model loaded"),
        ("llm -m, the bare server as hosted", found["hosted"] * 1000, "by llm's own class for OpenAI's"),
    ]
    table("Whole processes", rows, "ms")
    first_words(model, prompt, hosted, runs)
    memory(prompt, hosted, runs)


def first_words(model: Path, prompt: tuple[str, ...], hosted: tuple[str, ...], runs: int) -> None:
    def cold() -> float:
        stop_engines()
        return until_first_word(*prompt)

    contestants: dict[str, Callable[[], float]] = {
        "llm -m, cold": cold,
        "llm -m, warm": lambda: until_first_word(*prompt),
        "llm -m, the bare server as hosted": lambda: until_first_word(*hosted),
    }
    if llm_gguf(model):
        contestants["llm -m with llm-gguf"] = lambda: until_first_word("-m", "gguf/benchmark", PROMPT)
    found = rounds(runs, contestants)
    rows = [
        (name, value * 1000, f"ours, cold, takes {found['llm -m, cold'] / value:.2f} x" if "gguf" in name else "")
        for name, value in found.items()
    ]
    table("From the command to its first word", rows, "ms")


def memory(prompt: tuple[str, ...], hosted: tuple[str, ...], runs: int) -> None:
    contestants = {
        "llm --version": lambda: peak_memory("--version"),
        "llm -m, warm": lambda: peak_memory(*prompt),
        "llm -m, the bare server as hosted": lambda: peak_memory(*hosted),
    }
    found = rounds(runs, contestants)
    least = found["llm --version"]
    rows = [(name, value / 1e6, f"{(value - least) / 1e6:+.1f} MB") for name, value in found.items()]
    table("Memory of the asking process at its peak", rows, "MB")


def answers(like_ours: str, defaults: str, runs: int, tokens: int) -> None:
    contestants = {
        "ours": lambda: our_pieces(tokens),
        "bare server, our threads and batch": lambda: bare_pieces(like_ours, tokens),
        "bare server, its defaults": lambda: bare_pieces(defaults, tokens),
    }
    found: dict[str, list[Timing]] = {name: [] for name in contestants}
    for _ in range(runs + 1):  # the first round warms all of them up
        for name, pieces in contestants.items():
            found[name].append(stamped(pieces(), tokens))
    first, speed = (
        {name: statistics.median(one[index] for one in each[1:]) for name, each in found.items()} for index in (0, 2)
    )
    later = [(name, value * 1000, f"ours {(first['ours'] - value) * 1000:+.1f} ms") for name, value in first.items()]
    table("First token of a warm answer, in one process", later, "ms")
    ratios = [(name, value, f"ours {speed['ours'] / value:.2f} x") for name, value in speed.items()]
    table("Speed after it", ratios, "tokens/s")


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
            with bare_server(model, like_ours=True) as like_ours:
                processes(model, like_ours, given.runs, given.tokens)
                with bare_server(model, like_ours=False) as defaults:
                    answers(like_ours, defaults, given.runs, given.tokens)
        finally:
            stop_engines()


if __name__ == "__main__":
    main()
