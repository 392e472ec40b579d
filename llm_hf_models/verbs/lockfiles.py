"""The verbs of lockfiles: lock, compare, sync and export. They are methods of `Library`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm_hf_models.context import Context

if TYPE_CHECKING:
    from llm_hf_models.lockfiles.types import ExportResult, LockDiff, Lockfile, LockResult, SyncPlan, SyncResult
    from llm_hf_models.transfer.types import Event, Progress


def _ignore_event(event: Event) -> None:
    """Ignore a progress event."""


class LockfileVerbs:
    """The verbs of `Library` about lockfiles."""

    _context: Context

    def lock(self, names: Sequence[str] = (), *, collection: str | None = None) -> LockResult:
        """Return the text of a lockfile of some local models, or of all. It writes no file.

        Args:
            names: The models; empty for all, or for those of the collection.
            collection: Also lock the models of this collection.
        """
        from llm_hf_models.lockfiles import make

        return make.lock(self._context, names, collection, None)

    def save_lockfile(
        self,
        path: Path | str,
        names: Sequence[str] = (),
        *,
        collection: str | None = None,
        key: Path | str | None = None,
        ask_passphrase: Callable[[], str] | None = None,
    ) -> LockResult:
        """Write a lockfile, as `lock` makes it. An older lockfile is replaced, another file never.

        Args:
            path: The file.
            names: As in `lock`.
            collection: As in `lock`.
            key: A private key in PEM format, which signs the lockfile. The signature is a file with `.sig` appended.
            ask_passphrase: Returns the passphrase of an encrypted key.
        """
        from llm_hf_models.lockfiles import make

        target = make.Target(Path(path), None if key is None else Path(key), ask_passphrase)
        return make.lock(self._context, names, collection, target)

    def parse_lockfile(self, text: str) -> Lockfile:
        """Parse the text of a lockfile."""
        from llm_hf_models.lockfiles import parse

        return parse.parse_lockfile(text)

    def read_lockfile(self, path: Path | str, *, public_key: Path | str | None = None) -> Lockfile:
        """Read and parse a lockfile.

        Args:
            path: The file.
            public_key: Require that the owner of this key signed the file: a public key, or a certificate of the
                signer or of its root, in PEM format.
        """
        from llm_hf_models.lockfiles import parse

        path = Path(path)
        if public_key is None:
            return parse.read_lockfile(path)
        from llm_hf_models.lockfiles import signature

        content = parse.read_content(path)
        signature.require_signature(content, path, Path(public_key))
        return parse.parse_lockfile(parse.decode_text(content, str(path)), str(path))

    def diff_lockfiles(self, before: Lockfile | Path | str, after: Lockfile | Path | str) -> LockDiff:
        """Return the changes from one lockfile to another. Facts are not compared."""
        from llm_hf_models.lockfiles import diff

        return diff.diff_lockfiles(self._load(before), self._load(after))

    def _load(self, lockfile: Lockfile | Path | str) -> Lockfile:
        return self.read_lockfile(lockfile) if isinstance(lockfile, Path | str) else lockfile

    def plan_sync(
        self,
        lockfile: Lockfile | Path | str,
        *,
        source: str | None = None,
        prune: bool = False,
        progress: Progress = _ignore_event,
        stop: threading.Event | None = None,
    ) -> SyncPlan:
        """Return what `sync` would do. Files whose content is unproven are hashed; nothing is changed.

        Args:
            lockfile: The lockfile, or its path.
            source: The URL of a mirror, or an exported folder, that replaces the Hub. A mirror gets no token.
            prune: Remove the models that the lockfile does not list.
            progress: Called with the progress of hashing.
            stop: Ends the hashing with InterruptedByUserError when set.
        """
        from llm_hf_models.lockfiles import sync_plan

        return sync_plan.plan_sync(
            self._context,
            self._load(lockfile),
            sync_plan.Source.parse(source),
            prune=prune,
            progress=progress,
            stop=stop or threading.Event(),
        )

    def sync(
        self,
        lockfile: Lockfile | SyncPlan | Path | str,
        *,
        source: str | None = None,
        prune: bool = False,
        progress: Progress = _ignore_event,
        stop: threading.Event | None = None,
        in_background: bool = False,
    ) -> SyncResult:
        """Make this machine match a lockfile. Continue an earlier sync that was interrupted.

        Args:
            lockfile: The lockfile, its path, or a plan that was shown before.
            source: As in `plan_sync`. A plan has its own.
            prune: As in `plan_sync`. A plan has its own.
            progress: Called with events, from any thread.
            stop: Ends the sync with InterruptedByUserError when set. The downloaded bytes are kept.
            in_background: Let the worker download missing files. The next sync then sets names and options.
        """
        from llm_hf_models.lockfiles import sync
        from llm_hf_models.lockfiles.types import SyncPlan

        stop = stop or threading.Event()
        if isinstance(lockfile, SyncPlan):
            plan = lockfile
        else:
            plan = self.plan_sync(lockfile, source=source, prune=prune, progress=progress, stop=stop)
        return sync.sync(self._context, plan, progress=progress, stop=stop, in_background=in_background)

    def export(
        self,
        folder: Path | str,
        names: Sequence[str] = (),
        *,
        collection: str | None = None,
        dry_run: bool = False,
        progress: Progress = _ignore_event,
        stop: threading.Event | None = None,
    ) -> ExportResult:
        """Copy models with a lockfile to a folder, for `sync` with `source` and for `mirror`.

        A repeated export copies only what is missing.

        Args:
            folder: The folder, which is created.
            names: The models; empty for all, or for those of the collection.
            collection: Also export the models of this collection.
            dry_run: Copy nothing, and return the result as it would be, by the names and sizes of files.
            progress: Called with events.
            stop: Ends the export with InterruptedByUserError when set.
        """
        from llm_hf_models.lockfiles import export

        return export.export(
            self._context,
            Path(folder),
            names,
            collection,
            dry_run=dry_run,
            progress=progress,
            stop=stop or threading.Event(),
        )
