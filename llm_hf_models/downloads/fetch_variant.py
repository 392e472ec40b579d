"""One variant into the Hugging Face cache, checked and complete. Knows no SQLite and no terminal.

A file goes through three names: `<etag>.part` while it is fetched (with its journal), `<etag>.whole` once its digest is
right, both in our own folder of the cache, and `blobs/<etag>` in the repo's when all files of the variant have got that
far; then follow the snapshot's links, and last the refs. Each step is one rename, so a kill leaves a state that the
next call continues from.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from llm_hf_models.errors import HubUnavailableError, InterruptedByUserError, StorageError
from llm_hf_models.hub import cache_layout
from llm_hf_models.hub.cache_layout import cache_path
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.types import HubFile
from llm_hf_models.system.disk import require_space, sync_folder, translate_disk_error
from llm_hf_models.system.hashing import compute_digests, copy_with_digests
from llm_hf_models.transfer.download_file import TICK_SECONDS, download_file, journal_path
from llm_hf_models.transfer.journal import read_journal
from llm_hf_models.transfer.ownership import count_owning_processes
from llm_hf_models.transfer.pacing import RateLimiter
from llm_hf_models.transfer.types import Event, ExpectedFile, Progress, TransferLimits

MAX_FILES_AT_ONCE = 4
STOP_CHECK_SECONDS = 0.1  # how soon a stop reaches the files
SHA256_CHARS = 64
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
MAX_ROUNDS = 5  # how often another tool may prune the cache under us before that is an error


@dataclass(frozen=True)
class StoredFile:
    """A file that is whole and checked on this machine."""

    path: str  # inside the repo
    location: Path  # where to open it
    size: int
    sha256: str | None
    git_sha1: str | None
    fetched: bool  # False where it was here already


def find_local_files(cache_dir: Path, repo: RepoId, commit: str, files: Sequence[HubFile]) -> dict[str, Path]:
    """Which of the files need no fetching, by path: in this snapshot, or as a blob of this or another repo.

    They are told by name and size alone, at once; `download` checks the digest of those that it did not fetch itself.
    """
    found: dict[str, Path] = {}
    for file in files:
        for path in _find_candidates(cache_dir, repo, commit, file):
            found.setdefault(file.path, path)
    return found


def _find_candidates(cache_dir: Path, repo: RepoId, commit: str, file: HubFile) -> Iterator[Path]:
    """Where files of the right name and size stand, the nearest first."""
    places = [cache_path(cache_dir, repo, commit, file.path)]
    if file.etag:
        places.append(cache_layout.repo_folder(cache_dir, repo) / "blobs" / file.etag)
    if file.sha256:
        places += cache_layout.find_blobs(cache_dir, file.sha256, file.size)
    yield from (place for place in places if cache_layout.has_size(place, file.size))


def count_partial_bytes(cache_dir: Path, files: Sequence[HubFile]) -> dict[str, int]:
    """How many bytes of each file (by path) an interrupted download has on the disk already."""
    folder = cache_layout.cache_work_folder(cache_dir)
    return {file.path: have for file in files if (have := _count_partial(folder, file))}


def find_files_in(folder: Path, files: Sequence[HubFile]) -> dict[str, Path]:
    """As `already_here`, of a plain folder (`--to DIR`)."""
    places = {file.path: folder / RepoFile(file.path).path for file in files}
    return {file.path: places[file.path] for file in files if cache_layout.has_size(places[file.path], file.size)}


def count_partial_bytes_in(folder: Path, files: Sequence[HubFile]) -> dict[str, int]:
    """As `pending_bytes`, of a plain folder (`--to DIR`)."""
    work = cache_layout.target_work_folder(folder)
    return {file.path: have for file in files if (have := _count_partial(work, file))}


def _count_partial(folder: Path, file: HubFile) -> int:
    if not file.etag:
        return 0
    if cache_layout.has_size(folder / f"{file.etag}.whole", file.size):
        return file.size
    partial = folder / f"{file.etag}.part"
    state = read_journal(journal_path(partial))
    return state.done.total if state and cache_layout.has_size(partial, file.size) else 0


def fetch_into_cache(
    hub: Hub,
    repo: RepoId,
    commit: str,
    files: Sequence[HubFile],
    *,
    cache_dir: Path,
    revision: str | None,
    limits: TransferLimits,
    progress: Progress,
    stop: threading.Event,
) -> list[StoredFile]:
    """Fetches what is not here yet; the snapshot's links and refs appear only when every file is checked.

    Args:
        hub: where from.
        repo: what.
        commit: what, pinned.
        files: all files of the variant, with sizes and digests.
        cache_dir: the Hugging Face cache.
        revision: branch or tag whose ref to write beside ours (`refs/main` for None).
        limits: as in `transfer.fetch`, `connections` for all files together.
        progress: as in `transfer.fetch`.
        stop: as in `transfer.fetch`.

    Raises:
        as `transfer.fetch`.
    """
    folder = cache_layout.cache_work_folder(cache_dir)
    job = _FetchJob(hub, repo, commit, folder, limits, progress, stop)
    blobs = cache_layout.repo_folder(cache_dir, repo) / "blobs"
    files = [job.resolve_etag(file) for file in files]
    fetched: set[str] = set()
    try:
        for _ in range(MAX_ROUNDS):
            missing = [file for file in files if not _adopt_from_cache(job, cache_dir, file)]
            fetched |= job.fetch_all(missing, lambda file: _adopt_from_cache(job, cache_dir, file))
            try:
                for file in files:
                    _publish(job, blobs, file, cache_path(cache_dir, repo, commit, file.path))
                cache_layout.write_refs(cache_dir, repo, commit, revision)
            except FileNotFoundError:
                continue  # another tool removed the folder under us: what it took is fetched again
            if all(cache_layout.has_size(cache_path(cache_dir, repo, commit, f.path), f.size) for f in files):
                return [
                    _make_stored_file(file, cache_path(cache_dir, repo, commit, file.path), fetched) for file in files
                ]
    except OSError as error:
        raise translate_disk_error(error, cache_dir, 0, limits.disk_reserve) from None
    raise StorageError(
        f"{repo} keeps disappearing from {cache_dir}", hint="Another tool prunes the cache: stop it, then pull again."
    )


def fetch_into_folder(
    hub: Hub,
    repo: RepoId,
    commit: str,
    files: Sequence[HubFile],
    folder: Path,
    *,
    cache_dir: Path,
    limits: TransferLimits,
    progress: Progress,
    stop: threading.Event,
) -> list[StoredFile]:
    """The same into a plain folder (`--to DIR`), files under their paths in the repo.

    A file that stands there with the right digest is left alone; another one of its name is replaced once the right one
    is whole. What the cache has, in this or another repo, is copied from there and not fetched.

    Raises:
        as `transfer.fetch`.
    """
    work = cache_layout.target_work_folder(folder)
    job = _FetchJob(hub, repo, commit, work, limits, progress, stop)
    files = [job.resolve_etag(file) for file in files]
    job.sources = find_local_files(cache_dir, repo, commit, files)
    places = {file.path: folder / RepoFile(file.path).path for file in files}
    try:
        missing = [file for file in files if not job.verify_file(file, places[file.path])]
        fetched = job.fetch_all(missing, lambda file: job.verify_file(file, places[file.path]))
        first: dict[str, Path] = {}  # two paths may hold the same bytes, which come once
        for file in missing:
            place = places[file.path]
            place.parent.mkdir(parents=True, exist_ok=True)
            if file.etag in first:
                if cache_layout.try_hard_link(first[file.etag], place):
                    continue
                job.sources[file.path] = first[file.etag]
                fetched |= job.fetch_all([file], lambda _: False)
            job.move_verified(file, place)
            first[file.etag] = place
        _remove_work_folder(work)
    except OSError as error:
        raise translate_disk_error(error, folder, 0, limits.disk_reserve) from None
    return [_make_stored_file(file, places[file.path], fetched) for file in files]


def _remove_work_folder(work: Path) -> None:
    """Takes our folder away from a plain one, unless another download still uses it."""
    if not any(work.glob("*.part")) and not any(work.glob("*.whole")):
        for note in work.glob("*.checked"):
            note.unlink(missing_ok=True)
    try:
        work.rmdir()
    except OSError:
        return


def _make_stored_file(file: HubFile, location: Path, fetched: set[str]) -> StoredFile:
    return StoredFile(file.path, location, file.size, file.sha256, file.git_sha1, file.path in fetched)


def _adopt_from_cache(job: _FetchJob, cache_dir: Path, file: HubFile) -> bool:
    """Whether the file is in this repo's part of the cache, or can be taken over from another's once all are here.

    Not before: other tools call a repo damaged that has blobs and no snapshot.
    """
    places = _find_candidates(cache_dir, job.repo, job.commit, file)
    place = next((place for place in places if job.verify_file(file, place)), None)
    if place is None:
        return False
    blob = cache_layout.repo_folder(cache_dir, job.repo) / "blobs" / file.etag
    own = (blob, cache_path(cache_dir, job.repo, job.commit, file.path))
    if place not in own and not cache_layout.try_hard_link(place, job.folder / f"{file.etag}.whole"):
        job.sources[file.path] = place  # where it is copied from, and proven once more
        return False
    return True


def _publish(job: _FetchJob, blobs: Path, file: HubFile, path: Path) -> None:
    blob = blobs / file.etag
    path.parent.mkdir(parents=True, exist_ok=True)
    if (job.folder / f"{file.etag}.whole").exists():
        blobs.mkdir(parents=True, exist_ok=True)
        job.move_verified(file, blob)
    if blob.exists() and not (path.exists() and path.samefile(blob)):
        cache_layout.link_into_snapshot(blob, path)
    path.stat()


class _FetchJob:
    """What is the same for all files of one download."""

    def __init__(
        self,
        hub: Hub,
        repo: RepoId,
        commit: str,
        folder: Path,
        limits: TransferLimits,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self.hub, self.repo, self.commit, self.folder = hub, repo, commit, folder
        self._limits, self._progress, self._stop = limits, progress, stop
        self._pace = RateLimiter(self._limit_rate)
        self._refused: set[tuple[str, str, str]] = set()  # files that turned out to be others, and are not hashed again
        self._at_once = 1  # files
        self._tasks: dict[Future[bool], HubFile] = {}
        self._partials: list[Path] = []  # of what this call fetches, or another process meanwhile
        self.sources: dict[str, Path] = {}  # where bytes of the right size and name can be copied from, by path

    def _limit_rate(self) -> int:
        """The limit, divided among the processes that fetch files of this same download side by side.

        Their connections are not: each cut costs what is on its way, and such a process may end any moment.
        """
        rate = self._limits.bytes_per_second()
        return max(1, rate // max(1, count_owning_processes(self._partials))) if rate else 0

    def _count_connections(self) -> int:
        """How many connections all files together may have now."""
        now = self._limits.connections_now
        return min(self._limits.connections, now()) if now else self._limits.connections

    def _share_connections(self, file: HubFile) -> int:
        """How many of them one file may have; none where there are fewer than files, until another one is here."""
        coming = [other.etag for task, other in list(self._tasks.items()) if not task.done()][: self._at_once]
        if file.etag not in coming:  # its task was only just begun
            return -(-self._count_connections() // self._at_once)
        each, left = divmod(self._count_connections(), len(coming))
        return each + (coming.index(file.etag) < left)

    def resolve_etag(self, file: HubFile) -> HubFile:
        """The file with a name for its blob; the Hub is asked for it only where it told no digest."""
        etag = file.etag or self.hub.locate(self.repo, RepoFile(file.path), self.commit).etag
        if not _DIGEST.fullmatch(etag):
            raise HubUnavailableError(f"The Hub tells no digest of {file.path}", cause="Nothing could prove that file.")
        if file.etag:
            return file
        return replace(file, sha256=etag) if len(etag) == SHA256_CHARS else replace(file, git_sha1=etag)

    def verify_file(self, file: HubFile, place: Path) -> bool:
        """Whether the file at `place` is the right one: by our own note, else by its digest, which takes a while."""
        if not cache_layout.has_size(place, file.size):
            return False
        if cache_layout.is_verified(self.folder, file.etag, place):
            return True
        this = (file.etag, str(place.resolve()), cache_layout.read_file_stamp(place))
        if this in self._refused:
            return False
        digests = compute_digests(place, self._report_hashing(file))
        if digests.get_same_kind(file.etag) != file.etag:
            self._refused.add(this)
            return False
        cache_layout.mark_verified(self.folder, file.etag, place)
        return True

    def _report_hashing(self, file: HubFile) -> Callable[[int], None]:
        """Reports how far a digest is, ten times a second at most."""
        told_at = time.monotonic()
        self._progress(Event("verifying", file.path, 0, file.size))

        def tell(done: int) -> None:
            nonlocal told_at
            if self._stop.is_set():
                raise InterruptedByUserError(f"Stopped while {file.path} was checked")
            if time.monotonic() - told_at >= TICK_SECONDS or done == file.size:
                told_at = time.monotonic()
                self._progress(Event("verifying", file.path, done, file.size))

        return tell

    def move_verified(self, file: HubFile, place: Path) -> None:
        """Gives a checked file its final name.

        Raises:
            OSError: FileNotFoundError where neither the checked file nor its final name is there (any more).
        """
        whole = self.folder / f"{file.etag}.whole"
        try:
            if place.exists() and whole.samefile(place):
                whole.unlink()  # another process linked it from there: to rename one name to the other does nothing
            else:
                whole.replace(place)
        except FileNotFoundError:  # another process was quicker
            if not cache_layout.has_size(place, file.size):
                raise
        sync_folder(place.parent)
        cache_layout.mark_verified(self.folder, file.etag, place)
        self._remove_lock_files(file)

    def _remove_lock_files(self, file: HubFile) -> None:
        """Removes the lock of a file that is finished, and what processes that were killed left of theirs."""
        for pattern in ("part.lock", "part.owner.*", "part.journal*"):
            for path in self.folder.glob(f"{file.etag}.{pattern}"):
                with contextlib.suppress(OSError):  # Windows refuses while another process waits there
                    path.unlink()

    def fetch_all(self, files: Sequence[HubFile], here: Callable[[HubFile], bool]) -> set[str]:
        """Brings each file to `<etag>.whole`, several at once. Returns the paths of those that this call fetched.

        Args:
            files: those that are not here, as far as known.
            here: whether another process has finished one meanwhile.
        """
        if not files:
            return set()
        unique = list({file.etag: file for file in files}.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        self._partials = [self.folder / f"{file.etag}.part" for file in unique]
        needed = sum(file.size - _count_partial(self.folder, file) for file in unique)
        require_space(self.folder, needed, self._limits.disk_reserve)
        self._tasks, self._at_once = {}, max(1, min(MAX_FILES_AT_ONCE, len(unique), self._count_connections()))
        halt = threading.Event()
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="file") as pool:
            try:
                tasks = {pool.submit(self._fetch_file, file, here, halt): file for file in unique}
                self._tasks, pending = tasks, set(tasks)
                while pending:
                    done, pending = wait(pending, timeout=STOP_CHECK_SECONDS)
                    if self._stop.is_set() or any(task.exception() for task in done):
                        halt.set()
            finally:
                halt.set()
        errors = [error for task in tasks if (error := task.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, InterruptedByUserError)):
            raise error
        return {file.path for task, file in tasks.items() if task.result()}

    def _fetch_file(self, file: HubFile, here: Callable[[HubFile], bool], halt: threading.Event) -> bool:
        """Whether the file was fetched by this call, and not by another one meanwhile."""
        partial, whole = self.folder / f"{file.etag}.part", self.folder / f"{file.etag}.whole"

        def came_otherwise() -> bool:
            if cache_layout.has_size(whole, file.size) or here(file):
                self._progress(Event("done", file.path, file.size, file.size, by_others=True))
                # Waiting brought the lock back that the other one had removed. It goes while it is held: who waits for
                # it then finds that it has no name any more, and makes another one.
                with contextlib.suppress(OSError):  # Windows refuses: `gc` finds it
                    partial.with_name(f"{partial.name}.lock").unlink()
                return True
            if file.path in self.sources and self._copy(file, self.sources[file.path], whole, halt):
                partial.unlink(missing_ok=True)
                return True
            return False

        return download_file(
            lambda: self.hub.locate(self.repo, RepoFile(file.path), self.commit),
            ExpectedFile(file.path, file.size, file.sha256, file.git_sha1),
            partial,
            limits=replace(self._limits, connections_now=lambda: self._share_connections(file)),
            progress=self._progress,
            stop=halt,
            pace=self._pace,
            final_path=whole,
            is_already_present=came_otherwise,
        )

    def _copy(self, file: HubFile, source: Path, whole: Path, halt: threading.Event) -> bool:
        """Whether `whole` could be made a copy of `source` that proves to be the file."""

        def watch(done: int) -> None:
            if halt.is_set():
                raise InterruptedByUserError(f"Stopped while {file.path} was copied")
            self._progress(Event("progress", file.path, done, file.size))

        self._progress(Event("started", file.path, 0, file.size))
        aside = whole.with_suffix(".part.copy")
        try:
            digests = copy_with_digests(source, aside, watch)
            if digests.get_same_kind(file.etag) != file.etag:
                return False
            aside.replace(whole)
        except FileNotFoundError:  # another tool prunes the cache
            return False
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(self.folder)
        self._progress(Event("done", file.path, file.size, file.size))
        return True
