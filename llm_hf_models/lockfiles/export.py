"""Export models to a folder: their files, each verified, and then the lockfile. `sync --from` and `mirror` read it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.downloads.file_verifier import FileVerifier
from llm_hf_models.errors import DigestMismatchError, InterruptedByUserError, MissingFileError
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.hub import cache_layout
from llm_hf_models.library.records import LocalFile, LocalModel
from llm_hf_models.lockfiles.local_bytes import LOCKFILE_NAME, find_in_folder, make_hub_file
from llm_hf_models.lockfiles.make import make_lockfile, refuse_other_file, select_models, write_file
from llm_hf_models.lockfiles.parse import read_lockfile
from llm_hf_models.lockfiles.toml_text import write_lockfile
from llm_hf_models.lockfiles.types import ExportResult, LockedFile, LockedModel, Lockfile
from llm_hf_models.system import verified_files
from llm_hf_models.system.disk import refuse_names, require_space, sync_folder, translate_disk_error
from llm_hf_models.system.hashing import copy_with_digests
from llm_hf_models.transfer.types import Event, Progress


def export(
    context: Context,
    folder: Path,
    names: Sequence[str],
    collection: str | None,
    *,
    dry_run: bool,
    progress: Progress,
    stop: threading.Event,
) -> ExportResult:
    """Copy models to a folder. A file that is there already with the right digest is not copied again.

    Raises:
        DigestMismatchError: A file of a model was modified.
        DiskFullError: The disk of the folder is too small.
        LockfileError: The folder has a file with the lockfile's name that is not a lockfile.
        InterruptedByUserError: `stop` was set. The copied files are kept.
    """
    folder = folder.expanduser().absolute()
    path = folder / LOCKFILE_NAME
    refuse_other_file(path)
    models, absent = select_models(context, names, collection)
    present = [model for model in models if model.endpoint or model.state not in ("missing", "changed")]
    lockfile, left_out = make_lockfile(present)
    lost = tuple(f"{model.model_id}: its files are {model.state}" for model in models if model not in present)
    exporter = _Exporter(folder, present, lockfile, progress, stop)
    missing = exporter.find_missing(proven=not dry_run)
    copied = sum(file.size_bytes for _, file, _ in missing)
    result = ExportResult(
        str(folder), str(path), len(lockfile.models), exporter.count, copied, (*left_out, *lost, *absent)
    )
    if dry_run:
        return result
    try:
        require_space(folder, copied, context.settings().disk_reserve_bytes if copied else 0)
        folder.mkdir(parents=True, exist_ok=True)
        for source, file, target in missing:
            exporter.copy(source, file, target)
    except OSError as error:
        raise translate_disk_error(error, folder, copied, 0) from None
    write_file(path, write_lockfile(lockfile).encode())
    return result


class _Exporter:
    """Copies the files of a lockfile to a folder."""

    def __init__(
        self,
        folder: Path,
        models: Sequence[LocalModel],
        lockfile: Lockfile,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._work = cache_layout.target_work_folder(folder)
        self._verifier, self._progress, self._stop = FileVerifier(progress, stop), progress, stop
        places = {(model.model_id, file.path): Path(file.location) for model in models for file in model.files}
        files = [(model, file) for model in lockfile.models for file in model.files]
        self._files = {
            find_in_folder(folder, model, file): (places[model.id, file.path], file) for model, file in files
        }  # two models may share a file, such as a projector
        self.count = len(self._files)
        refuse_names(self._files)

    def find_missing(self, *, proven: bool) -> list[tuple[Path, LockedFile, Path]]:
        """Return the files to copy, with their sources and targets. With `proven`, the digests are compared."""

        def is_there(file: LockedFile, target: Path) -> bool:
            if proven:
                return self._verifier.verify(make_hub_file(file), target) is not None
            return cache_layout.has_size(target, file.size_bytes)

        return [(source, file, target) for target, (source, file) in self._files.items() if not is_there(file, target)]

    def copy(self, source: Path, file: LockedFile, target: Path) -> None:
        """Copy a file under its final name, once the digest of the copy is compared."""

        def report(done: int) -> None:
            if self._stop.is_set():
                raise InterruptedByUserError("Stopped while copying", hint="Run the same command again to continue.")
            self._progress(Event("progress", file.path, done, file.size_bytes))

        self._progress(Event("started", file.path, 0, file.size_bytes))
        self._work.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = self._work / f"{file.digest}.part.copy"
        try:
            digests = copy_with_digests(source, partial, report)
            if digests.get_same_kind(file.digest) != file.digest or digests.stamp is None:
                raise DigestMismatchError(f"{source} was modified after verification", hint="llm hf verify --all")
            verified_files.rename_verified(file.digest, partial, target, digests.stamp)
        except FileNotFoundError:
            raise MissingFileError(f"{source} was removed during the export") from None
        finally:
            partial.unlink(missing_ok=True)
            if not any(self._work.iterdir()):
                self._work.rmdir()
        sync_folder(target.parent)
        self._progress(Event("done", file.path, file.size_bytes, file.size_bytes))


def read_exported_models(folder: Path) -> list[LocalModel]:
    """Return the models of an exported folder, as a mirror serves them.

    Raises:
        MissingFileError: The folder has no lockfile.
        LockfileError: The lockfile is not valid.
    """
    try:
        lockfile = read_lockfile(folder / LOCKFILE_NAME)
    except MissingFileError as error:
        error.hint = "Make an exported folder: llm hf export DIR"
        raise
    return [_build_model(folder, locked) for locked in lockfile.models if locked.files]


def _build_model(folder: Path, locked: LockedModel) -> LocalModel:
    files = tuple(
        LocalFile(
            file.path, file.role, file.size_bytes, str(find_in_folder(folder, locked, file)), file.sha256, file.git_sha1
        )
        for file in locked.files
    )
    hub = {"task": locked.task, "license": locked.license, "gated": locked.gated, "private": locked.private}
    return LocalModel(
        model_id=locked.id,
        repo=locked.repo,
        revision=locked.revision,
        commit=locked.commit,
        quant=locked.quant,
        files=files,
        facts=ModelFacts(license=locked.license),
        place="folder",
        hub=hub,
    )
