"""Measure the time, CPU and memory of a pull, compared with curl and other tools, and the cost of a resume.

    python -m benchmarks.pull                     # 2 GiB on tmpfs and on disk, then throttled, resumed; takes minutes
    python -m benchmarks.pull --quick             # the same with 256 MiB
    python -m benchmarks.pull --size 1GiB --runs 5 --only speed
    python -m benchmarks.pull --quick --tls       # all of them over TLS, which omm-model needs

One server on loopback serves all tools. The tools take turns, because the speed of a machine changes over time. There
are two tables for each place:

- the transfer alone: our `download_file`, which verifies the digest, and curl, which does not, with the same link. Our
  time is measured inside the process, after its imports. For curl, the wall and CPU time of a tiny file is subtracted.
- whole programs: `llm hf pull`, `hf download` and, if installed, omm-model and llm-gguf. For each, the time of a tiny
  file is subtracted, which leaves the cost of the bytes.

On disk, the clock stops after a tool's files are synced, and the CPU time of the sync is added. CPU seconds are those
of the client, for all threads together. Ratios are medians of the ratios to curl's (or hf's) run in the same turn. The
order alternates between turns, and the first turn is discarded. In a virtual machine, the first access to a page is the
largest cost, and the host may take free pages back at any time. So memory for the file is reserved in pieces too small
for the host to take back. The load average is printed, because on a busy machine wall times depend on the other
processes. Throttled connections have a fixed rate and a latency of 50 ms.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import mmap
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from llm_hf_models.system.units import format_size, parse_size

REPO = "bench/model"
FILE = "weights.bin"
TINY = "tiny.bin"
TINY_BYTES = 4096
THROTTLED_BYTES_PER_SECOND = 10_000_000
THROTTLED_LATENCY_SECONDS = 0.05
MAX_THROTTLED_BYTES = 1 << 30
CONNECTIONS = 8
NEVER = 1 << 60
PIECE_PAGES = 128

FETCH = """
import json, os, resource, signal, sys, threading, time
from pathlib import Path
from llm_hf_models.hub.types import Location
from llm_hf_models.transfer.types import ExpectedFile, TransferLimits
from llm_hf_models.transfer.download_file import download_file
url, size, sha256, place, connections, kill_at = sys.argv[1:7]
def progress(event):
    if event.done >= int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)
def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
before, began = cpu(), time.monotonic()
download_file(lambda: Location(url, {}, int(size), sha256, "c" * 40),
      ExpectedFile("file", int(size), sha256=sha256), Path(place),
      limits=TransferLimits(connections=int(connections)), progress=progress, stop=threading.Event())
print(json.dumps([time.monotonic() - began, cpu() - before]))
"""


@dataclass(frozen=True)
class Run:
    """One transfer: wall and CPU seconds, and peak memory in bytes."""

    wall: float
    cpu: float
    memory: int

    def without(self, start_up: Run) -> Run:
        """Return the run with the times of a tiny file's run subtracted."""
        return Run(self.wall - start_up.wall, self.cpu - start_up.cpu, self.memory)


@dataclass(frozen=True)
class Served:
    """A file with its link."""

    url: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Server:
    """The server process, as seen by the benchmark."""

    endpoint: str
    file: Served
    tiny: Served
    throttled: Served
    pipe: Connection

    def sent(self) -> int:
        """Return the number of bytes that the storage host has sent since the last call."""
        self.pipe.send("sent")
        return int(self.pipe.recv())


Tool = Callable[[Server, Served, Path], Run]


def serve(pipe: Connection, folder: Path, tls: bool) -> None:
    """Run the server process: a Hub, and a host with throttled connections."""
    from tests.support.hub_server import HubServer
    from tests.support.storage_server import StorageServer

    pieces = reserve_memory(2 * (folder / FILE).stat().st_size)
    with (folder / FILE).open("rb") as file:
        slow = StorageServer(
            file.read(MAX_THROTTLED_BYTES), rate=THROTTLED_BYTES_PER_SECOND, latency=THROTTLED_LATENCY_SECONDS
        )
    with slow, HubServer(tls=tls) as hub:
        repo = hub.add_repo(REPO, {name: folder / name for name in (FILE, TINY)})
        links = [Served(hub.signed(repo, file), file.size, str(file.sha256)) for file in repo.files]
        links.sort(key=lambda link: -link.size)
        pipe.send((str(hub.ca_file), hub.endpoint, *links, Served(slow.url, len(slow.content), slow.sha256)))
        while pipe.recv() == "sent":
            pipe.send(hub.sent(side="storage"))
            hub.forget_requests()
    pieces.close()


def reserve_memory(size: int) -> mmap.mmap:
    """Touch memory, then free all of it except one page of each `PIECE_PAGES`, until the result is closed.

    The kernel hands out the free pieces between these pages first, and a host takes back only whole 2 MiB (Linux,
    mm/page_reporting.c: the order is that of a huge page).
    """
    piece = PIECE_PAGES * mmap.PAGESIZE
    memory = mmap.mmap(-1, size - size % piece + piece, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for start in range(0, len(memory), mmap.PAGESIZE):
        memory[start] = 1
    for start in range(0, len(memory), piece):
        memory.madvise(mmap.MADV_DONTNEED, start + mmap.PAGESIZE, piece - mmap.PAGESIZE)
    return memory


def run_command(
    command: list[str], environment: Mapping[str, str] | None = None, *, status: int = 0
) -> tuple[Run, str]:
    """Run a command, which must exit with `status`, and return its figures and its output."""
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, ended, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(ended)
    if process.returncode != status:
        raise SystemExit(f"{' '.join(command)[:200]} ended with status {process.returncode}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024), output


def run_transfer(file: Served, place: Path, *, connections: int = CONNECTIONS, kill_at: int = NEVER) -> Run:
    """Download one link with our transfer."""
    place.mkdir(parents=True, exist_ok=True)
    arguments = [file.url, file.size, file.sha256, place / "file.part", connections, kill_at]
    status = 0 if kill_at == NEVER else -signal.SIGKILL
    run, output = run_command([sys.executable, "-c", FETCH, *map(str, arguments)], status=status)
    wall, cpu = json.loads(output) if output else (run.wall, run.cpu)
    return Run(wall, cpu, run.memory)


def run_ours(_server: Server, file: Served, place: Path) -> Run:
    return run_transfer(file, place)


def run_curl(server: Server, file: Served, place: Path) -> Run:
    place.mkdir(parents=True, exist_ok=True)
    start_up, _ = run_command(["curl", "-sfL", "-o", str(place / "tiny"), server.tiny.url])
    run, _ = run_command(["curl", "-sfL", "-o", str(place / "file"), file.url])
    return run.without(start_up)


def build_tool(*command: str, home: str = "HF_HOME") -> Tool:
    """Return a tool that runs a whole program.

    `{url}` and `{path}` in the command stand for the file; `home` names the variable of the program's data folder.
    """

    def run(server: Server, file: Served, place: Path) -> Run:
        places = {"HF_HOME": place, "LLM_USER_PATH": place / "llm", "HOME": place} | {home: place}
        environment = os.environ | {name: str(path) for name, path in places.items()}
        environment |= {"HF_ENDPOINT": server.endpoint, "HF_HUB_DISABLE_XET": "1"}
        runs = []
        for path, which in ((TINY, server.tiny), (FILE, file)):
            filled = [part.format(url=which.url, path=path, place=place) for part in command]
            runs.append(run_command(filled, environment)[0])
        return runs[1].without(runs[0])

    return run


def find_program(name: str) -> str:
    """Return the path of a program in this Python's environment."""
    return str(Path(sys.executable).with_name(name))


def find_programs(*, tls: bool) -> dict[str, Tool]:
    """Return the installed programs."""
    found = {
        "hf download": build_tool(find_program("hf"), "download", REPO, "{path}", "--quiet"),
        "llm hf pull": build_tool(find_program("llm"), "hf", "pull", f"{REPO}:{{path}}", "--quiet"),
    }
    if (omm := shutil.which("omm")) and tls:
        # Its command only supports the Hub's own host. So its interpreter runs the functions that its install command
        # calls: the downloader, which checks no digest, then the hash of the file. It requires TLS.
        fetch = "import sys; from pathlib import Path; from omm.downloader import download_file; "
        fetch += "path = Path(sys.argv[2]); download_file(sys.argv[1], path)"
        check = "; from omm.hashutil import sha256_file; sha256_file(path)"
        python = str(Path(omm).resolve().with_name("python"))
        for name, code in (("omm-model", fetch + check), ("no digest", fetch)):
            found[name] = build_tool(python, "-c", code, "{url}", "{place}/{path}")
    if importlib.util.find_spec("llm_gguf"):
        found["llm-gguf"] = build_tool(find_program("llm"), "gguf", "download-model", "{url}")
    return found


def add_sync(run: Run, folder: Path) -> Run:
    """Sync a run's files to disk, and return the run with the cost of the sync added."""
    began, cpu_before = time.monotonic(), time.process_time()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    return Run(run.wall + time.monotonic() - began, run.cpu + time.process_time() - cpu_before, run.memory)


def run_turns(
    server: Server, place: Path, count: int, tools: Mapping[str, Tool], *, disk: bool
) -> dict[str, list[Run]]:
    """Return each tool's runs without the first one. Every second turn has the reverse order."""
    found: dict[str, list[Run]] = {name: [] for name in tools}
    for turn in range(count + 1):
        for name, tool in list(tools.items())[:: 1 if turn % 2 else -1]:
            folder = place / "target"
            run = tool(server, server.file, folder)
            found[name].append(add_sync(run, folder) if disk else run)
            shutil.rmtree(folder)
    return {name: runs[1:] for name, runs in found.items()}


def compare(server: Server, place: Path, count: int, tools: Mapping[str, Tool], *, disk: bool) -> None:
    """Print a table of medians, with ratios to the first tool's run in the same turn."""
    found = run_turns(server, place, count, tools, disk=disk)
    base = next(iter(tools))
    print(f"{'':14}  wall s  x {base:11}   CPU s  x {base:11}  peak memory")
    for name, all_runs in found.items():
        pairs = list(zip(all_runs, found[base], strict=True))
        wall, cpu = (statistics.median(getattr(run, kind) for run in all_runs) for kind in ("wall", "cpu"))
        wall_ratio = statistics.median(run.wall / other.wall for run, other in pairs)
        cpu_ratio = statistics.median(run.cpu / other.cpu for run, other in pairs)
        memory = format_size(max(run.memory for run in all_runs))
        print(f"{name:14} {wall:7.2f}  {wall_ratio:13.2f} {cpu:7.2f}  {cpu_ratio:13.2f}  {memory}", flush=True)


def measure_throttled(server: Server, place: Path) -> None:
    """Measure throttled connections, compared with the ideal time of N connections."""
    file = server.throttled
    for connections in (4, 8):
        run = run_transfer(file, place / "target", connections=connections)
        ideal = file.size / (THROTTLED_BYTES_PER_SECOND * connections)
        share = f"{ideal / run.wall:.2f} of the ideal"
        print(f"{connections} connections: {run.wall:.1f} s, {share}, {format_size(run.memory)}", flush=True)
        shutil.rmtree(place / "target")


def measure_resume(server: Server, place: Path) -> None:
    """Kill a transfer (-9) halfway, continue it in another process, and print how many bytes are sent again."""
    server.sent()
    run_transfer(server.file, place / "target", kill_at=server.file.size // 2)
    first = server.sent()
    run = run_transfer(server.file, place / "target")
    second = server.sent()
    shutil.rmtree(place / "target")
    share, total = second / server.file.size, (first + second) / server.file.size
    print(f"resume: {share:.1%} of the bytes sent in the second part, {total:.1%} together, {run.wall:.1f} s")


def report(server: Server, memory: Path, disk: Path, runs: int, only: str | None) -> None:
    """Print the requested tables."""
    if only in (None, "speed"):
        for name, place, on_disk in (("tmpfs", memory, False), ("disk, synced", disk, True)):
            load = os.getloadavg()[0]
            print(f"\n{name}: the transfer alone (load {load:.1f})")
            compare(server, place, runs, {"curl": run_curl, "llm-hf-models": run_ours}, disk=on_disk)
            print(f"\n{name}: whole programs, a tiny file's run subtracted (load {os.getloadavg()[0]:.1f})")
            compare(server, place, runs, find_programs(tls=server.file.url.startswith("https:")), disk=on_disk)
    if only in (None, "throttled"):
        print(f"\n50 ms of latency, 10 MB/s per connection, {format_size(server.throttled.size)}")
        measure_throttled(server, memory)
    if only in (None, "resume"):
        print()
        measure_resume(server, memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=2 << 30)
    parser.add_argument("--quick", action="store_const", dest="size", const=256 << 20, help="256 MiB")
    parser.add_argument("--tls", action="store_true", help="serve over HTTPS")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a folder on tmpfs")
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()), help="a folder on a disk")
    parser.add_argument("--only", choices=["speed", "throttled", "resume"])
    options = parser.parse_args()
    memory, disk = (Path(tempfile.mkdtemp(prefix="pull-", dir=place)) for place in (options.memory, options.disk))
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, memory, options.tls))
    try:
        for name, size in ((FILE, options.size), (TINY, TINY_BYTES)):
            with (memory / name).open("wb") as file:
                for _ in range(0, size, 1 << 20):
                    file.write(os.urandom(1 << 20))
                file.truncate(size)
        process.start()
        there.close()  # so that recv fails if the server can't start
        try:
            certificates, *fields = here.recv()
        except EOFError:
            raise SystemExit("The server could not start; its error is above") from None
        server = Server(*fields, here)  # type: ignore[call-arg]  # `serve` sends all fields
        if options.tls:
            os.environ |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), certificates)
        print(f"{format_size(server.file.size)}, {os.cpu_count()} cores, medians of {options.runs}", flush=True)
        report(server, memory, disk, options.runs, options.only)
        here.send("end")
        process.join()
    finally:
        if process.is_alive():
            process.terminate()
        shutil.rmtree(memory)
        shutil.rmtree(disk)


if __name__ == "__main__":
    main()
