"""Let huggingface_hub download files into its cache (`transport = "xet"`). downloads/fetch_variant.py verifies them.

Each file has a child process, because huggingface_hub has no way to stop a download, and hf_xet works in threads that
an exception can't interrupt. The child reads its task, with the token, from standard input, and writes an error to
standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, cast

from llm_hf_models import errors
from llm_hf_models.downloads.local_files import find_local_files
from llm_hf_models.errors import (
    HfModelsError,
    InterruptedByUserError,
    MissingHeadersError,
    NetworkError,
    TimedOutError,
)
from llm_hf_models.hub import cache_files, cache_layout
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.types import HubFile
from llm_hf_models.system.disk import count_bytes_on_disk, require_space
from llm_hf_models.system.text import clean_text
from llm_hf_models.transfer.types import Event, Progress, TransferLimits

POLL_SECONDS = 0.25


@dataclass(frozen=True)
class FetchTask:
    """The task of a child process: one file to download."""

    endpoint: str
    repo: str
    commit: str
    path: str
    cache_dir: str
    metadata_seconds: float
    token: str | None = field(default=None, repr=False)


def fetch_files(
    endpoint: str,
    token: str | None,
    repo: RepoId,
    commit: str,
    files: Sequence[HubFile],
    *,
    cache_dir: Path,
    metadata_seconds: float,
    limits: TransferLimits,
    progress: Progress,
    stop: threading.Event,
) -> set[str]:
    """Download the missing files with huggingface_hub, one after the other.

    Args:
        endpoint: The address of the Hub.
        token: The token for the Hub, if any.
        repo: The repo to download from.
        commit: The pinned commit.
        files: All files of the variant.
        cache_dir: The Hugging Face cache.
        metadata_seconds: Timeout of a metadata request.
        limits: Only `network_wait_seconds`, the maximum time without a new byte, and `disk_reserve` apply.
        progress: Called with the events of each file.
        stop: Ends the download at once when set. huggingface_hub starts an interrupted file again from the beginning.

    Returns:
        The paths of the files that huggingface_hub downloaded. A file whose headers it can't use is left out.

    Raises:
        NetworkError: The Hub could not be reached, or a download failed.
        AccessError: The Hub refused access.
        DiskFullError: The files don't fit on the disk.
        InterruptedByUserError: The stop event was set.
    """
    local = find_local_files(cache_dir, repo, commit, files)
    missing = [file for file in files if file.path not in local]
    # The plan checked the disk space too, but may have been in the queue since then.
    require_space(cache_dir, sum(file.size for file in missing), limits.disk_reserve)
    fetched = set()
    for file in missing:
        task = FetchTask(endpoint, str(repo), commit, file.path, str(cache_dir), metadata_seconds, token)
        blobs = cache_layout.repo_folder(cache_dir, repo) / "blobs"
        progress(Event("started", file.path, 0, file.size))
        with contextlib.suppress(MissingHeadersError):
            _fetch_file(task, file, blobs, limits, progress, stop)
            progress(Event("progress", file.path, file.size, file.size))
            fetched.add(file.path)
    return fetched


def _fetch_file(
    task: FetchTask, file: HubFile, blobs: Path, limits: TransferLimits, progress: Progress, stop: threading.Event
) -> None:
    with (
        tempfile.TemporaryFile() as stderr,
        _remove_partials_on_failure(blobs, file.etag),
        _start_child(task, stderr) as child,
    ):
        done, last_progress = 0, time.monotonic()
        while child.poll() is None:
            stop.wait(POLL_SECONDS)
            if stop.is_set():
                raise InterruptedByUserError(f"Stopped while huggingface_hub was downloading {file.path}")
            now = max(map(count_bytes_on_disk, blobs.glob(f"{file.etag}.*incomplete")), default=done)
            if now > done:
                done, last_progress = now, time.monotonic()
                progress(Event("progress", file.path, min(done, file.size), file.size))
            elif time.monotonic() - last_progress > limits.network_wait_seconds:
                raise TimedOutError(f"The download of {file.path} by huggingface_hub stalled")
        if child.returncode:
            raise _read_error(child, stderr, file.path)


@contextlib.contextmanager
def _start_child(task: FetchTask, stderr: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "llm_hf_models.downloads.xet_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    ) as child:
        try:
            if child.stdin is not None:
                with contextlib.suppress(BrokenPipeError), child.stdin:
                    child.stdin.write(json.dumps(asdict(task)))
            yield child
        finally:
            child.kill()


@contextlib.contextmanager
def _remove_partials_on_failure(blobs: Path, etag: str) -> Iterator[None]:
    """Remove the partial file of a failed download. Its random name means that huggingface_hub never continues it.

    `gc` removes the partial files that remain after a kill.
    """
    before = set(blobs.glob(f"{etag}.*incomplete"))
    try:
        yield
    except BaseException:
        for path in set(blobs.glob(f"{etag}.*incomplete")) - before:
            with contextlib.suppress(OSError):
                cache_files.remove_incomplete(path)  # this skips a file that another process is downloading now
        raise


def _read_error(child: subprocess.Popen[str], stderr: IO[bytes], path: str) -> HfModelsError:
    """Return the error that the child wrote to standard output, else an error with the last line of its stderr."""
    try:
        fields = json.loads(child.stdout.read() if child.stdout else "")
        kind = getattr(errors, fields.pop("kind"))
        return cast("HfModelsError", kind(**fields))
    except (ValueError, AttributeError):
        stderr.seek(0)
        last = stderr.read().decode("utf-8", "replace").strip().splitlines()[-1:]
        return NetworkError(
            f"huggingface_hub could not download {path}",
            cause=clean_text(" ".join(last), 300) or f"Its process exited with code {child.returncode}.",
            hint="To download it without huggingface_hub: llm hf settings transport http",
        )


def main() -> int:
    """Download one file, in the child process."""
    task = FetchTask(**json.load(sys.stdin))
    hub = Hub(task.endpoint, token=task.token, timeout=task.metadata_seconds)
    try:
        hub.download(RepoId.parse(task.repo), RepoFile(task.path), task.commit, Path(task.cache_dir))
    except HfModelsError as error:
        fields = {"kind": type(error).__name__, "message": error.message, "cause": error.cause, "hint": error.hint}
        sys.stdout.write(json.dumps(fields))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
