"""How fast and how heavy a pull is, beside curl and others in the same run, and what a resume costs.

    python -m benchmarks.pull                     # 2 GiB on tmpfs and on disk, then throttled, then resumed: minutes
    python -m benchmarks.pull --quick             # the same with 256 MiB
    python -m benchmarks.pull --size 1GiB --runs 5 --only speed
    python -m benchmarks.pull --quick --tls       # all of them over TLS; omm-model takes part only here

One server on loopback serves all, and the tools take turns, since a machine's mood changes. Two tables for each place:

- the transfer alone: our `fetch`, digest checked, and curl, which checks none, given one and the same link. Ours is
  timed inside its process once it is imported; from curl's wall and CPU a run with a tiny file is taken off.
- whole programs: `llm hf pull`, `hf download` and, where installed, omm-model and llm-gguf. From each a run with a tiny
  file is taken off, which leaves what the bytes cost.

On disk, each tool's files are synced before its clock stops, and what that costs is added to its CPU. CPU seconds are
the client's own, all threads together. Ratios are medians of the ratios to curl's (or hf's) run of the same turn. The
order changes from turn to turn, and the first turn is thrown away. In a virtual machine the first touch of a page costs
more than all else, and free pages may go back to the host at any moment: so memory for the file is kept at hand in
pieces too small for that. The load average is printed: on a busy machine wall times tell more about the others.
Throttled connections are paced by the clock and answer after 50 ms.
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
    """One transfer: seconds of wall and CPU, and bytes of memory at the peak."""

    wall: float
    cpu: float
    memory: int

    def without(self, start_up: Run) -> Run:
        """What is left when the run of a tiny file is taken off."""
        return Run(self.wall - start_up.wall, self.cpu - start_up.cpu, self.memory)


@dataclass(frozen=True)
class Served:
    """A file at the end of a link."""

    url: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Server:
    """The server's process, seen from here."""

    endpoint: str
    file: Served
    tiny: Served
    throttled: Served
    pipe: Connection

    def sent(self) -> int:
        """How many bytes left the storage host since this was asked last."""
        self.pipe.send("sent")
        return int(self.pipe.recv())


Tool = Callable[[Server, Served, Path], Run]


def serve(pipe: Connection, folder: Path, tls: bool) -> None:
    """The server's process: a Hub, and a host with throttled connections."""
    from tests.support.hub_server import HubServer
    from tests.support.storage_server import StorageServer

    pieces = keep_at_hand(2 * (folder / FILE).stat().st_size)
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


def keep_at_hand(size: int) -> mmap.mmap:
    """Touches memory and lets all go but one page of each `PIECE_PAGES`, while the result lives.

    The free pieces between them are the first that the system hands out, and a host takes back whole 2 MiB only (Linux,
    mm/page_reporting.c: its order is that of a huge page).
    """
    piece = PIECE_PAGES * mmap.PAGESIZE
    memory = mmap.mmap(-1, size - size % piece + piece, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for start in range(0, len(memory), mmap.PAGESIZE):
        memory[start] = 1
    for start in range(0, len(memory), piece):
        memory.madvise(mmap.MADV_DONTNEED, start + mmap.PAGESIZE, piece - mmap.PAGESIZE)
    return memory


def measured(command: list[str], environment: Mapping[str, str] | None = None, *, status: int = 0) -> tuple[Run, str]:
    """Runs a command to its end, which must be `status`."""
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, ended, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(ended)
    if process.returncode != status:
        raise SystemExit(f"{' '.join(command)[:200]} ended with status {process.returncode}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024), output


def fetched(file: Served, place: Path, *, connections: int = CONNECTIONS, kill_at: int = NEVER) -> Run:
    """Our transfer of one link."""
    place.mkdir(parents=True, exist_ok=True)
    arguments = [file.url, file.size, file.sha256, place / "file.part", connections, kill_at]
    status = 0 if kill_at == NEVER else -signal.SIGKILL
    run, output = measured([sys.executable, "-c", FETCH, *map(str, arguments)], status=status)
    wall, cpu = json.loads(output) if output else (run.wall, run.cpu)
    return Run(wall, cpu, run.memory)


def ours(_server: Server, file: Served, place: Path) -> Run:
    return fetched(file, place)


def curl(server: Server, file: Served, place: Path) -> Run:
    place.mkdir(parents=True, exist_ok=True)
    start_up, _ = measured(["curl", "-sfL", "-o", str(place / "tiny"), server.tiny.url])
    run, _ = measured(["curl", "-sfL", "-o", str(place / "file"), file.url])
    return run.without(start_up)


def program(*command: str, home: str = "HF_HOME") -> Tool:
    """A whole program; `{url}` and `{path}` in its command name the file, `home` the folder where it keeps all."""

    def run(server: Server, file: Served, place: Path) -> Run:
        places = {"HF_HOME": place, "LLM_USER_PATH": place / "llm", "HOME": place} | {home: place}
        environment = os.environ | {name: str(path) for name, path in places.items()}
        environment |= {"HF_ENDPOINT": server.endpoint, "HF_HUB_DISABLE_XET": "1"}
        runs = []
        for path, which in ((TINY, server.tiny), (FILE, file)):
            filled = [part.format(url=which.url, path=path, place=place) for part in command]
            runs.append(measured(filled, environment)[0])
        return runs[1].without(runs[0])

    return run


def beside(name: str) -> str:
    """A program of this Python's environment."""
    return str(Path(sys.executable).with_name(name))


def programs(*, tls: bool) -> dict[str, Tool]:
    """Those that are installed."""
    found = {
        "hf download": program(beside("hf"), "download", REPO, "{path}", "--quiet"),
        "llm hf pull": program(beside("llm"), "hf", "pull", f"{REPO}:{{path}}", "--quiet"),
    }
    if (omm := shutil.which("omm")) and tls:
        # Its command knows the Hub's own host alone: so what its install calls is called, by its own interpreter: the
        # downloader, which checks no digest, then the digest of what came. It wants TLS.
        fetch = "import sys; from pathlib import Path; from omm.downloader import download_file; "
        fetch += "path = Path(sys.argv[2]); download_file(sys.argv[1], path)"
        check = "; from omm.hashutil import sha256_file; sha256_file(path)"
        python = str(Path(omm).resolve().with_name("python"))
        for name, code in (("omm-model", fetch + check), ("no digest", fetch)):
            found[name] = program(python, "-c", code, "{url}", "{place}/{path}")
    if importlib.util.find_spec("llm_gguf"):
        found["llm-gguf"] = program(beside("llm"), "gguf", "download-model", "{url}")
    return found


def synced(run: Run, folder: Path) -> Run:
    """The run, and what it costs to bring its files to the disk."""
    began, cpu_before = time.monotonic(), time.process_time()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    return Run(run.wall + time.monotonic() - began, run.cpu + time.process_time() - cpu_before, run.memory)


def turns(server: Server, place: Path, count: int, tools: Mapping[str, Tool], *, disk: bool) -> dict[str, list[Run]]:
    """Each tool's runs, after one more that is thrown away; every second turn goes the other way round."""
    found: dict[str, list[Run]] = {name: [] for name in tools}
    for turn in range(count + 1):
        for name, tool in list(tools.items())[:: 1 if turn % 2 else -1]:
            folder = place / "target"
            run = tool(server, server.file, folder)
            found[name].append(synced(run, folder) if disk else run)
            shutil.rmtree(folder)
    return {name: runs[1:] for name, runs in found.items()}


def compare(server: Server, place: Path, count: int, tools: Mapping[str, Tool], *, disk: bool) -> None:
    """A table of medians; ratios to the first tool's run of the same turn."""
    found = turns(server, place, count, tools, disk=disk)
    base = next(iter(tools))
    print(f"{'':14}  wall s  x {base:11}   CPU s  x {base:11}  peak memory")
    for name, all_runs in found.items():
        pairs = list(zip(all_runs, found[base], strict=True))
        wall, cpu = (statistics.median(getattr(run, kind) for run in all_runs) for kind in ("wall", "cpu"))
        wall_ratio = statistics.median(run.wall / other.wall for run, other in pairs)
        cpu_ratio = statistics.median(run.cpu / other.cpu for run, other in pairs)
        memory = format_size(max(run.memory for run in all_runs))
        print(f"{name:14} {wall:7.2f}  {wall_ratio:13.2f} {cpu:7.2f}  {cpu_ratio:13.2f}  {memory}", flush=True)


def throttled(server: Server, place: Path) -> None:
    """Slow connections, against N connections' ideal."""
    file = server.throttled
    for connections in (4, 8):
        run = fetched(file, place / "target", connections=connections)
        ideal = file.size / (THROTTLED_BYTES_PER_SECOND * connections)
        share = f"{ideal / run.wall:.2f} of the ideal"
        print(f"{connections} connections: {run.wall:.1f} s, {share}, {format_size(run.memory)}", flush=True)
        shutil.rmtree(place / "target")


def resumed(server: Server, place: Path) -> None:
    """Killed (-9) at half, then continued by another process: how much comes again."""
    server.sent()
    fetched(server.file, place / "target", kill_at=server.file.size // 2)
    first = server.sent()
    run = fetched(server.file, place / "target")
    second = server.sent()
    shutil.rmtree(place / "target")
    share, total = second / server.file.size, (first + second) / server.file.size
    print(f"resume: {share:.1%} of the bytes sent in the second part, {total:.1%} together, {run.wall:.1f} s")


def report(server: Server, memory: Path, disk: Path, runs: int, only: str | None) -> None:
    """All tables that were asked for."""
    if only in (None, "speed"):
        for name, place, on_disk in (("tmpfs", memory, False), ("disk, synced", disk, True)):
            load = os.getloadavg()[0]
            print(f"\n{name}: the transfer alone (load {load:.1f})")
            compare(server, place, runs, {"curl": curl, "llm-hf-models": ours}, disk=on_disk)
            print(f"\n{name}: whole programs, a tiny file's run taken off (load {os.getloadavg()[0]:.1f})")
            compare(server, place, runs, programs(tls=server.file.url.startswith("https:")), disk=on_disk)
    if only in (None, "throttled"):
        print(f"\n50 ms of latency, 10 MB/s per connection, {format_size(server.throttled.size)}")
        throttled(server, memory)
    if only in (None, "resume"):
        print()
        resumed(server, memory)


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
        there.close()  # so that a server that can't begin ends this one too
        try:
            certificates, *told = here.recv()
        except EOFError:
            raise SystemExit("The server could not begin; what it said stands above") from None
        server = Server(*told, here)  # type: ignore[call-arg]  # `serve` tells them all
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
