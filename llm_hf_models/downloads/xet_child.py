"""Files that huggingface_hub fetches instead of us (`transport = "xet"`). Proves nothing: downloads/fetch_variant.py
does, afterwards.

Each file has a process of its own: huggingface_hub can't be told to stop, and hf_xet works in threads that no
exception reaches. The task, with the token, goes through a pipe; what it says on its standard output is how it ended.
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
from llm_hf_models.downloads.fetch_variant import find_local_files
from llm_hf_models.errors import HfModelsError, InterruptedByUserError, NetworkError, TimedOutError
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
    """What the process is told."""

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
    """Lets huggingface_hub bring what is missing into its cache, one file after the other.

    Args:
        endpoint: the Hub's address.
        token: what it is asked with.
        repo: what.
        commit: what, pinned.
        files: all files of the variant.
        cache_dir: the Hugging Face cache.
        metadata_seconds: how long the Hub may take to answer.
        limits: only two count: `network_wait_seconds`, so long it may bring no byte, and `disk_reserve`.
        progress: told of each file.
        stop: when set, ends at once; huggingface_hub starts such a file over.

    Returns:
        The paths of the files that it brought.

    Raises:
        NetworkError, AccessError and below, as the Hub's errors are translated.
        DiskFullError: they don't fit.
        InterruptedByUserError: `stop` was set.
    """
    here = find_local_files(cache_dir, repo, commit, files)
    missing = [file for file in files if file.path not in here]
    # A plan asked too, but may have waited in the queue since.
    require_space(cache_dir, sum(file.size for file in missing), limits.disk_reserve)
    for file in missing:
        task = FetchTask(endpoint, str(repo), commit, file.path, str(cache_dir), metadata_seconds, token)
        blobs = cache_layout.repo_folder(cache_dir, repo) / "blobs"
        progress(Event("started", file.path, 0, file.size))
        _fetch_file(task, file, blobs, limits, progress, stop)
        progress(Event("progress", file.path, file.size, file.size))
    return {file.path for file in missing}


def _fetch_file(
    task: FetchTask, file: HubFile, blobs: Path, limits: TransferLimits, progress: Progress, stop: threading.Event
) -> None:
    with (
        tempfile.TemporaryFile() as words,
        _remove_partials_on_failure(blobs, file.etag),
        _start_child(task, words) as child,
    ):
        done, moved = 0, time.monotonic()
        while child.poll() is None:
            stop.wait(POLL_SECONDS)
            if stop.is_set():
                raise InterruptedByUserError(f"Stopped while huggingface_hub fetched {file.path}")
            now = max(map(count_bytes_on_disk, blobs.glob(f"{file.etag}.*incomplete")), default=done)
            if now > done:
                done, moved = now, time.monotonic()
                progress(Event("progress", file.path, min(done, file.size), file.size))
            elif time.monotonic() - moved > limits.network_wait_seconds:
                raise TimedOutError(f"huggingface_hub brought no byte of {file.path} for a long time")
        if child.returncode:
            raise _read_error(child, words, file.path)


@contextlib.contextmanager
def _start_child(task: FetchTask, words: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "llm_hf_models.downloads.xet_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=words,
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
    """huggingface_hub's partials have random names: after a kill nobody would continue ours. `gc` finds what stays."""
    before = set(blobs.glob(f"{etag}.*incomplete"))
    try:
        yield
    except BaseException:
        for path in set(blobs.glob(f"{etag}.*incomplete")) - before:
            with contextlib.suppress(OSError):
                cache_files.remove_incomplete(path)  # unless another process, which began meanwhile, fetches it
        raise


def _read_error(child: subprocess.Popen[str], words: IO[bytes], path: str) -> HfModelsError:
    """What ended it: the error that it told, else its last words."""
    try:
        told = json.loads(child.stdout.read() if child.stdout else "")
        kind = getattr(errors, told.pop("kind"))
        return cast("HfModelsError", kind(**told))
    except (ValueError, AttributeError):
        words.seek(0)
        last = words.read().decode("utf-8", "replace").strip().splitlines()[-1:]
        return NetworkError(
            f"huggingface_hub could not fetch {path}",
            cause=clean_text(" ".join(last), 300) or f"Its process ended with {child.returncode}.",
            hint="`llm hf settings transport http` fetches it without huggingface_hub.",
        )


def main() -> int:
    """The process: one file."""
    task = FetchTask(**json.load(sys.stdin))
    hub = Hub(task.endpoint, token=task.token, timeout=task.metadata_seconds)
    try:
        hub.download(RepoId.parse(task.repo), RepoFile(task.path), task.commit, Path(task.cache_dir))
    except HfModelsError as error:
        told = {"kind": type(error).__name__, "message": error.message, "cause": error.cause, "hint": error.hint}
        sys.stdout.write(json.dumps(told))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
