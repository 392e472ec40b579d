"""How fast and how heavy a pull is, beside curl and `hf download` in the same run, and what a resume costs.

    python -m benchmarks.pull                     # 2 GiB, tmpfs and disk, then throttled, then resumed
    python -m benchmarks.pull --size 200MB --runs 1 --only speed

One server on loopback serves all. Wall time is from start to end of the transfer, start-up taken off (for `hf`: the
time of `hf version`), on disk with a sync at the end for each. CPU seconds are the client's own. curl checks no digest;
ours does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from llm_hf_models.units import format_size, parse_size

ROOT = Path(__file__).parent.parent
REPO = "bench/model-GGUF"
FILE = "model-Q4_K_M.gguf"
OURS = """
import json, resource, sys, threading, time
from pathlib import Path
from llm_hf_models.download import download
from llm_hf_models.hub import Hub, HubFile
from llm_hf_models.refs import RepoId
from llm_hf_models.transfer import TransferLimits
endpoint, repo, commit, path, size, sha256, cache, connections, stop_at = sys.argv[1:10]
hub, stop = Hub(endpoint), threading.Event()
def progress(event):
    if event.done >= int(stop_at):
        stop.set()
began = time.monotonic()
try:
    files = [HubFile(path, int(size), sha256=sha256)]
    download(hub, RepoId.parse(repo), commit, files, cache_dir=Path(cache), revision=None,
             limits=TransferLimits(connections=int(connections)), progress=progress, stop=stop)
except Exception as error:
    if not stop.is_set():
        raise
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024]))
"""


@dataclass(frozen=True)
class Run:
    """One transfer: seconds of wall and CPU, and bytes of memory at the peak."""

    wall: float
    cpu: float
    memory: int


@dataclass(frozen=True)
class Served:
    """What the server serves, and how to ask it for how much it sent."""

    endpoint: str
    commit: str
    size: int
    sha256: str
    pipe: Connection

    def ask(self, question: str) -> int:
        self.pipe.send(question)
        return int(self.pipe.recv())


def serve(pipe: Connection, path: str) -> None:
    """The server's process. Questions: `sent`, `throttle`, `calm`, `end`."""
    from tests.hub_server import Delay, HubServer, Throttle

    with HubServer() as hub:
        repo = hub.add_repo(REPO, {FILE: Path(path)})
        pipe.send((hub.endpoint, repo.commit, repo.files[0].size, repo.files[0].sha256))
        while (question := pipe.recv()) != "end":
            answer = 0
            if question == "sent":
                answer = hub.sent(side="storage")
                hub.forget_requests()
            elif question == "throttle":
                hub.fault(Throttle(10_000_000), side="storage", times=None)
                hub.fault(Delay(0.05), side="storage", times=None)
            else:
                hub.clear()
            pipe.send(answer)


def measured(command: list[str], environment: dict[str, str] | None = None) -> tuple[Run, str]:
    """Runs a command to its end."""
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed with status {status}")
    return Run(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024), output


def ours(served: Served, folder: Path, *, connections: int = 8, stop_at: int = 1 << 60) -> Run:
    arguments = [served.endpoint, REPO, served.commit, FILE, served.size, served.sha256, folder, connections, stop_at]
    run, output = measured([sys.executable, "-c", OURS, *map(str, arguments)])
    wall, _, memory = json.loads(output)
    return Run(wall, run.cpu, memory)


def curl(served: Served, folder: Path) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    url = f"{served.endpoint}/{REPO}/resolve/{served.commit}/{FILE}"
    return measured(["curl", "-sfL", "-o", str(folder / "file"), url])[0]


def hf(served: Served, folder: Path) -> Run:
    command = str(Path(sys.executable).with_name("hf"))
    environment = os.environ | {"HF_ENDPOINT": served.endpoint, "HF_HOME": str(folder), "HF_HUB_DISABLE_XET": "1"}
    start_up, _ = measured([command, "version"], environment)
    run, _ = measured([command, "download", REPO, FILE, "--quiet"], environment)
    return Run(run.wall - start_up.wall, run.cpu - start_up.cpu, run.memory)


def speed(served: Served, place: Path, runs: int, *, sync: bool) -> None:
    """The table of one file system: medians, and ratios to curl's."""
    tools = {"curl": curl, "llm-hf-models": ours, "hf download": hf}
    found: dict[str, list[Run]] = {name: [] for name in tools}
    for _ in range(runs):
        for name, tool in tools.items():
            folder = place / "target"
            os.sync()
            run = tool(served, folder)
            began = time.monotonic()
            if sync:
                os.sync()
            found[name].append(Run(run.wall + (time.monotonic() - began if sync else 0), run.cpu, run.memory))
            shutil.rmtree(folder)
    base = {kind: statistics.median(getattr(run, kind) for run in found["curl"]) for kind in ("wall", "cpu")}
    print(f"{'':14}  wall s  x curl   CPU s  x curl  peak memory")
    for name, all_runs in found.items():
        wall, cpu = (statistics.median(getattr(run, kind) for run in all_runs) for kind in ("wall", "cpu"))
        memory = format_size(max(run.memory for run in all_runs))
        print(f"{name:14} {wall:7.2f} {wall / base['wall']:7.2f} {cpu:7.2f} {cpu / base['cpu']:7.2f}  {memory}")


def throttled(served: Served, place: Path) -> None:
    """50 ms of latency and 10 MB/s on each connection, against N connections' ideal."""
    served.ask("throttle")
    for connections in (1, 4, 8):
        run = ours(served, place / "target", connections=connections)
        ideal = served.size / (10_000_000 * connections)
        share = f"{ideal / run.wall:.2f} of the ideal"
        print(f"{connections} connections: {run.wall:.1f} s, {share}, {format_size(run.memory)}")
        shutil.rmtree(place / "target")
    served.ask("calm")


def resumed(served: Served, place: Path) -> None:
    """Stopped at half, then continued by another process: how much comes again."""
    served.ask("sent")
    ours(served, place / "target", stop_at=served.size // 2)
    first = served.ask("sent")
    run = ours(served, place / "target")
    second = served.ask("sent")
    shutil.rmtree(place / "target")
    share, total = second / served.size, (first + second) / served.size
    print(f"resume: {share:.1%} of the bytes sent in the second part, {total:.1%} together, {run.wall:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=2 << 30)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a folder on tmpfs")
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()), help="a folder on a disk")
    parser.add_argument("--only", choices=["speed", "throttled", "resume"])
    options = parser.parse_args()
    memory = Path(tempfile.mkdtemp(dir=options.memory))
    disk = Path(tempfile.mkdtemp(dir=options.disk))
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    try:
        source = memory / "source"
        with source.open("wb") as file:
            for _ in range(0, options.size, 1 << 20):
                file.write(os.urandom(1 << 20))
            file.truncate(options.size)
        server = context.Process(target=serve, args=(there, str(source)))
        server.start()
        served = Served(*here.recv(), here)
        print(f"{format_size(served.size)}, {os.cpu_count()} cores, medians of {options.runs}")
        if options.only in (None, "speed"):
            for name, place, sync in (("tmpfs", memory, False), ("disk, synced", disk, True)):
                print(f"\n{name}")
                speed(served, place, options.runs, sync=sync)
        if options.only in (None, "throttled"):
            print("\n50 ms of latency, 10 MB/s per connection")
            throttled(served, memory)
        if options.only in (None, "resume"):
            resumed(served, memory)
        here.send("end")
        server.join()
    finally:
        shutil.rmtree(memory)
        shutil.rmtree(disk)


if __name__ == "__main__":
    main()
