"""Compare time, CPU and memory of a pull with curl, `hf download` and other tools, and measure a resumed download.

    python -m benchmarks.pull                     # 2 GiB, then throttled, then resumed: minutes
    python -m benchmarks.pull --quick             # the same with 256 MiB
    python -m benchmarks.pull --size 1GiB --runs 5 --only speed
    python -m benchmarks.pull --quick --tls       # all over TLS; only here, omm-model (`omm` on PATH) takes part
    python -m benchmarks.pull --tls --only speed --before /tmp/old-venv   # and `llm hf pull` of another environment

All tools download from one server on loopback to a disk. They take turns, because the speed of a machine varies over
time. The baseline is `curl` followed by `sha256sum`, which does the same work as a pull: it fetches the file and
computes its digest. `hf download` and llm-gguf compute no digest. omm-model computes one.

Each tool runs as a whole program. The time of a run with a tiny file is subtracted, so that only the cost of the data
remains. The files of each tool are synced before its clock stops, and the CPU time of the sync is added. CPU seconds
cover all threads of the client, but not the server. Ratios are medians of the ratios to the run of the baseline in the
same turn. The order of the tools alternates, and the first turn is not counted.

In a virtual machine, the first access to a page of memory takes longer than everything else, and the host may take
free pages back at any time. Therefore the benchmark reserves memory for the file in pieces that are too small to take
back. It also prints the load average, because other programs distort the wall times on a busy machine. Throttled
connections send at a fixed rate and respond after 50 ms.
"""

from __future__ import annotations

import argparse
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
BASELINE = "curl, sha256sum"
THROTTLED_BYTES_PER_SECOND = 10_000_000
THROTTLED_LATENCY_SECONDS = 0.05
MAX_THROTTLED_BYTES = 1 << 30
CONNECTIONS = 8
NO_KILL = 1 << 60  # more bytes than any file has
PIECE_PAGES = 128

DOWNLOAD_FILE = """
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
    """The cost of one transfer: wall and CPU seconds, and peak memory in bytes."""

    wall: float
    cpu: float
    memory: int

    def subtract(self, start_up: Run) -> Run:
        """Subtract the time of a run with a tiny file. The peak memory stays."""
        return Run(self.wall - start_up.wall, self.cpu - start_up.cpu, self.memory)


@dataclass(frozen=True)
class LinkedFile:
    """A file on the server: its link, its size in bytes and its digest."""

    url: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Server:
    """A handle to the server process."""

    endpoint: str
    file: LinkedFile
    tiny: LinkedFile
    throttled: LinkedFile
    pipe: Connection

    def read_sent_bytes(self) -> int:
        """Return the number of bytes that the storage host sent since the last call."""
        self.pipe.send("sent")
        return int(self.pipe.recv())


Tool = Callable[[Server, LinkedFile, Path], Run]


def serve(pipe: Connection, folder: Path, tls: bool) -> None:
    """Run a Hub and a host with throttled connections, in the server process."""
    from tests.support.hub_server import HubServer
    from tests.support.storage_server import StorageServer

    pieces = reserve_memory(2 * (folder / FILE).stat().st_size)
    with (folder / FILE).open("rb") as file:
        throttled = StorageServer(
            file.read(MAX_THROTTLED_BYTES), rate=THROTTLED_BYTES_PER_SECOND, latency=THROTTLED_LATENCY_SECONDS
        )
    with throttled, HubServer(tls=tls) as hub:
        repo = hub.add_repo(REPO, {name: folder / name for name in (FILE, TINY)})
        links = [LinkedFile(hub.signed(repo, file), file.size, str(file.sha256)) for file in repo.files]
        links.sort(key=lambda link: -link.size)
        links.append(LinkedFile(throttled.url, len(throttled.content), throttled.sha256))
        pipe.send((str(hub.ca_file), hub.endpoint, *links))
        while pipe.recv() == "sent":
            pipe.send(hub.sent(side="storage"))
            hub.forget_requests()
    pieces.close()


def reserve_memory(size: int) -> mmap.mmap:
    """Touch this many bytes of memory, then free all but one page of each `PIECE_PAGES` until the result is closed.

    The system allocates the free pieces between these pages first. The host of a virtual machine can't take them back,
    because it takes only whole blocks of 2 MiB (Linux, mm/page_reporting.c: its order is that of a huge page).
    """
    piece = PIECE_PAGES * mmap.PAGESIZE
    memory = mmap.mmap(-1, size - size % piece + piece, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for start in range(0, len(memory), mmap.PAGESIZE):
        memory[start] = 1
    for start in range(0, len(memory), piece):
        memory.madvise(mmap.MADV_DONTNEED, start + mmap.PAGESIZE, piece - mmap.PAGESIZE)
    return memory


def measure_command(
    command: list[str], environment: Mapping[str, str] | None = None, *, status: int = 0
) -> tuple[Run, str]:
    """Run a command and return its cost and output. Exit if its exit code is not `status`."""
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, ended, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(ended)
    if process.returncode != status:
        raise SystemExit(f"{' '.join(command)[:200]} exited with code {process.returncode}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024), output


def measure_download_file(
    file: LinkedFile, place: Path, *, connections: int = CONNECTIONS, kill_at: int = NO_KILL
) -> Run:
    """Measure `download_file` of llm-hf-models with one link, in its own process.

    With `kill_at`, the process kills itself (SIGKILL) after that many bytes.
    """
    place.mkdir(parents=True, exist_ok=True)
    arguments = [file.url, file.size, file.sha256, place / "file.part", connections, kill_at]
    status = 0 if kill_at == NO_KILL else -signal.SIGKILL
    run, output = measure_command([sys.executable, "-c", DOWNLOAD_FILE, *map(str, arguments)], status=status)
    wall, cpu = json.loads(output) if output else (run.wall, run.cpu)
    return Run(wall, cpu, run.memory)


def run_curl_and_sha256sum(server: Server, file: LinkedFile, place: Path) -> Run:
    """Measure curl and then sha256sum, without the start-up time of both."""
    place.mkdir(parents=True, exist_ok=True)
    runs = []
    for name, link in (("tiny", server.tiny), ("file", file)):
        path = str(place / name)
        fetch, _ = measure_command(["curl", "-sfL", "-o", path, link.url])
        check, output = measure_command(["sha256sum", path])
        if output.split()[0] != link.sha256:
            raise SystemExit(f"curl stored a file with the wrong digest: {path}")
        runs.append(Run(fetch.wall + check.wall, fetch.cpu + check.cpu, max(fetch.memory, check.memory)))
    return runs[1].subtract(runs[0])


def build_tool(*command: str, home: str = "HF_HOME") -> Tool:
    """Return a tool that measures a whole program, without its start-up time.

    Args:
        command: The command, in which `{url}` or `{path}` stands for the file and `{place}` for the target folder.
        home: The environment variable that names the folder where the program stores its files.
    """

    def run(server: Server, file: LinkedFile, place: Path) -> Run:
        places = {"HF_HOME": place, "LLM_USER_PATH": place / "llm", "HOME": place} | {home: place}
        environment = os.environ | {name: str(path) for name, path in places.items()}
        environment |= {"HF_ENDPOINT": server.endpoint, "HF_HUB_DISABLE_XET": "1"}
        runs = []
        for path, link in ((TINY, server.tiny), (FILE, file)):
            filled_in = [part.format(url=link.url, path=path, place=place) for part in command]
            runs.append(measure_command(filled_in, environment)[0])
        return runs[1].subtract(runs[0])

    return run


def find_program(name: str) -> str:
    """Return the path of a program in this Python's environment."""
    return str(Path(sys.executable).with_name(name))


def list_tools(before: Path | None, llm_gguf: Path | None, *, tls: bool) -> dict[str, Tool]:
    """Return the tools that are installed, the baseline first.

    Args:
        before: A virtual environment with another version of this package, which takes part too.
        llm_gguf: A virtual environment with llm-gguf, which takes part too.
        tls: Whether the server uses TLS.
    """
    pull = ("hf", "pull", f"{REPO}:{{path}}", "--quiet")
    tools = {
        BASELINE: run_curl_and_sha256sum,
        "llm hf pull": build_tool(find_program("llm"), *pull),
        "hf download": build_tool(find_program("hf"), "download", REPO, "{path}", "--quiet"),
    }
    if before:
        tools["pull, before"] = build_tool(str(before / "bin" / "llm"), *pull)
    if (omm := shutil.which("omm")) and tls:
        # The command `omm install` works only with the Hub's own host. So omm's interpreter calls the functions that
        # the command uses: the downloader, which requires TLS, then the digest function.
        code = "import sys; from pathlib import Path; from omm.downloader import download_file; "
        code += "path = Path(sys.argv[2]); download_file(sys.argv[1], path)"
        code += "; from omm.hashutil import sha256_file; sha256_file(path)"
        python = str(Path(omm).resolve().with_name("python"))
        tools["omm-model"] = build_tool(python, "-c", code, "{url}", "{place}/{path}")
    if llm_gguf:
        tools["llm-gguf"] = build_tool(str(llm_gguf / "bin" / "llm"), "gguf", "download-model", "{url}")
    return tools


def add_sync_time(run: Run, folder: Path) -> Run:
    """Sync the files of a run to the disk, and return the run with the time of the sync added."""
    began, cpu_before = time.monotonic(), time.process_time()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    return Run(run.wall + time.monotonic() - began, run.cpu + time.process_time() - cpu_before, run.memory)


def take_turns(server: Server, place: Path, count: int, tools: Mapping[str, Tool]) -> dict[str, list[Run]]:
    """Run the tools in turns, in alternating order, and return the runs of each. The first turn is not counted."""
    found: dict[str, list[Run]] = {name: [] for name in tools}
    for turn in range(count + 1):
        for name, tool in list(tools.items())[:: 1 if turn % 2 else -1]:
            folder = place / "target"
            found[name].append(add_sync_time(tool(server, server.file, folder), folder))
            shutil.rmtree(folder)
    return {name: runs[1:] for name, runs in found.items()}


def compare_tools(server: Server, place: Path, count: int, tools: Mapping[str, Tool]) -> None:
    """Print a table of medians, with the ratios to the baseline's run of the same turn."""
    found = take_turns(server, place, count, tools)
    print(f"{'':17}  wall s  ratio   CPU s  ratio  peak memory")
    for name, all_runs in found.items():
        pairs = list(zip(all_runs, found[BASELINE], strict=True))
        wall, cpu = (statistics.median(getattr(run, kind) for run in all_runs) for kind in ("wall", "cpu"))
        wall_ratio = statistics.median(run.wall / other.wall for run, other in pairs)
        cpu_ratio = statistics.median(run.cpu / other.cpu for run, other in pairs)
        memory = format_size(max(run.memory for run in all_runs))
        print(f"{name:17} {wall:7.2f}  {wall_ratio:5.2f} {cpu:7.2f}  {cpu_ratio:5.2f}  {memory}", flush=True)


def measure_throttled(server: Server, place: Path) -> None:
    """Print how close a download over throttled connections comes to the possible rate."""
    file = server.throttled
    for connections in (4, 8):
        run = measure_download_file(file, place / "target", connections=connections)
        ideal = file.size / (THROTTLED_BYTES_PER_SECOND * connections)
        share = f"{ideal / run.wall:.2f} of the possible rate"
        print(f"{connections} connections: {run.wall:.1f} s, {share}, {format_size(run.memory)}", flush=True)
        shutil.rmtree(place / "target")


def measure_resume(server: Server, place: Path) -> None:
    """Kill a download (SIGKILL) half-way, resume it in another process, and print how many bytes were sent."""
    server.read_sent_bytes()
    measure_download_file(server.file, place / "target", kill_at=server.file.size // 2)
    first = server.read_sent_bytes()
    run = measure_download_file(server.file, place / "target")
    second = server.read_sent_bytes()
    shutil.rmtree(place / "target")
    share, total = second / server.file.size, (first + second) / server.file.size
    print(f"resume: {share:.1%} of the file sent after the kill, {total:.1%} in total, {run.wall:.1f} s")


def run_benchmarks(server: Server, disk: Path, tools: Mapping[str, Tool], runs: int, only: str | None) -> None:
    """Print the requested tables."""
    if only in (None, "speed"):
        print(f"\non disk, synced, without start-up time (load {os.getloadavg()[0]:.1f})")
        compare_tools(server, disk, runs, tools)
    if only in (None, "throttled"):
        print(f"\n50 ms of latency, 10 MB/s per connection, {format_size(server.throttled.size)}")
        measure_throttled(server, disk)
    if only in (None, "resume"):
        print()
        measure_resume(server, disk)


def main() -> None:
    """Start the server and run the requested benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", type=parse_size, default=2 << 30, help="size of the file, such as 1GiB (default 2GiB)"
    )
    parser.add_argument("--quick", action="store_const", dest="size", const=256 << 20, help="use a file of 256 MiB")
    parser.add_argument("--tls", action="store_true", help="serve over HTTPS")
    parser.add_argument("--runs", type=int, default=3, help="turns per median (default 3)")
    parser.add_argument(
        "--memory", type=Path, default=Path("/dev/shm"), help="a folder on tmpfs for the server (default /dev/shm)"
    )
    parser.add_argument(
        "--disk",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="a folder on a disk (default: the folder for temporary files)",
    )
    parser.add_argument("--before", type=Path, help="a virtual environment with an older version of this package")
    parser.add_argument("--llm-gguf", type=Path, help="a virtual environment with llm and llm-gguf")
    parser.add_argument("--only", choices=["speed", "throttled", "resume"], help="run only one benchmark")
    options = parser.parse_args()
    memory, disk = (Path(tempfile.mkdtemp(prefix="pull-", dir=place)) for place in (options.memory, options.disk))
    pipe, server_pipe = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(server_pipe, memory, options.tls))
    try:
        for name, size in ((FILE, options.size), (TINY, TINY_BYTES)):
            with (memory / name).open("wb") as file:
                for _ in range(0, size, 1 << 20):
                    file.write(os.urandom(1 << 20))
                file.truncate(size)
        process.start()
        server_pipe.close()  # if the server process fails to start, recv() raises EOFError instead of waiting
        try:
            ca_file, *fields = pipe.recv()
        except EOFError:
            raise SystemExit("The server did not start; see its error above") from None
        server = Server(*fields, pipe)  # type: ignore[call-arg]  # `serve` sends all other fields
        if options.tls:
            os.environ |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), ca_file)
        print(f"{format_size(server.file.size)}, {os.cpu_count()} cores, medians of {options.runs}", flush=True)
        run_benchmarks(
            server, disk, list_tools(options.before, options.llm_gguf, tls=options.tls), options.runs, options.only
        )
        pipe.send("end")
        process.join()
    finally:
        if process.is_alive():
            process.terminate()
        shutil.rmtree(memory)
        shutil.rmtree(disk)


if __name__ == "__main__":
    main()
