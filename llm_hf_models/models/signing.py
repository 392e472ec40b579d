"""Sign the files of a local model or of a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llm_hf_models.context import Context
from llm_hf_models.errors import (
    BadInputError,
    BadSignatureError,
    DigestMismatchError,
    FileChangedError,
    MissingFileError,
    StorageError,
    UnknownModelError,
)
from llm_hf_models.library.records import LocalFile, LocalModel
from llm_hf_models.models.key_files import find_key, read_key
from llm_hf_models.models.local_files import hash_with_progress
from llm_hf_models.models.local_models import suggest_fix
from llm_hf_models.paths import make_absolute
from llm_hf_models.redaction import remember
from llm_hf_models.signatures.bundle import FILE_NAME, MAX_BUNDLE_BYTES, parse_bundle
from llm_hf_models.signatures.statement import DEFAULT_IGNORED
from llm_hf_models.signatures.types import SigningResult
from llm_hf_models.system.disk import translate_disk_error
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.user_files import write_user_file
from llm_hf_models.transfer.types import Progress

if TYPE_CHECKING:
    from llm_hf_models.signatures.sign import Signer

# Left out at the top of a folder, besides the signature file itself. The last one has `hf download`'s own records.
IGNORED = (*DEFAULT_IGNORED, FILE_NAME, ".cache/huggingface")


@dataclass(frozen=True)
class _Signable:
    """The files to sign: of a local model, or of a folder."""

    name: str
    model: LocalModel | None
    files: dict[str, Path]  # by the path in the manifest
    known: dict[str, str]  # the sha256 of files that are as recorded
    recorded: dict[str, str]  # the recorded digests of all files
    folder: Path  # the default folder of the signature file


def sign(
    context: Context,
    name: str,
    key: Path,
    *,
    certificates: Path | None,
    output: Path | None,
    ask_passphrase: Callable[[], str] | None,
    overwrite: bool,
    dry_run: bool,
    progress: Progress,
) -> SigningResult:
    """Sign a local model or a folder, as `Library.sign` describes."""
    found = _find_signable(context, name)
    target = _choose_target(found, output)
    replaces = _check_target(target, found)
    key, certificates = find_key(key), find_key(certificates) if certificates else None
    files = {path: file for path, file in found.files.items() if not _is_same_file(file, target)}
    _refuse_key_among(files, key)
    plan = SigningResult(
        str(target),
        found.model.model_id if found.model else None,
        found.name,
        "certificate" if certificates else "key",
        tuple(sorted(files)),
        sum(file.stat().st_size for path, file in files.items() if path not in found.known),
        replaces=replaces,
    )
    if dry_run:
        return plan
    if replaces and not overwrite:
        raise StorageError(f"{target} exists", hint="Choose another file with -o, or pass -y to replace it.")
    signer = make_signer(read_key(key), read_key(certificates) if certificates else None, ask_passphrase)
    digests = {path: found.known.get(path) or _hash(found, path, files[path], progress) for path in files}
    data = signer.sign(digests, found.name, _list_ignored(found, target))
    _write(target, data, replace=replaces)
    return replace(plan, key_hint=signer.hint, digest=parse_bundle(data).manifest.digest, done=True)


def _find_signable(context: Context, name: str) -> _Signable:
    """Find what `name` is: a local model, or a folder if there is no such model or the text is a path."""
    path = make_absolute(Path(name))
    if name.startswith((".", "~", os.sep)) and path.is_dir():
        return _read_folder(path)
    with context.open_database() as db:
        try:
            model = db.find_model(name)
        except UnknownModelError as error:
            if name and path.is_dir():
                return _read_folder(path)
            error.hint = f"{error.hint or ''} To sign a folder, give its path, such as ./folder.".strip()
            raise
    model.refuse_if_remote()
    known = {file.path: file.sha256 for file in model.files if file.sha256 and _is_as_recorded(model, file)}
    recorded = {file.path: digest for file in model.files if (digest := file.sha256 or file.git_sha1)}
    files = {file.path: Path(file.location) for file in model.files}
    for file in files.values():
        if not file.is_file():
            raise MissingFileError(f"{file} no longer exists", hint=suggest_fix(model))
    title = model.repo.rpartition("/")[2] if model.repo else model.model_id
    return _Signable(title, model, files, known, recorded, Path.cwd())


def _is_as_recorded(model: LocalModel, file: LocalFile) -> bool:
    return file.compare_with_disk() == "as recorded" and not model.has_digest_mismatch


def _read_folder(folder: Path) -> _Signable:
    files = {file.relative_to(folder).as_posix(): file for file in _iter_files(folder, folder)}
    if not files:
        raise BadSignatureError(f"{folder} has no files to sign")
    return _Signable(folder.resolve().name or "model", None, files, {}, {}, folder)


def _iter_files(folder: Path, root: Path) -> Iterator[Path]:
    """Yield the regular files below a folder.

    Raises:
        BadSignatureError: it contains something else, which the format can't express.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise StorageError(f"Can't read {folder}", cause=error.strerror) from None
    for entry in entries:
        path = entry.relative_to(root).as_posix()
        if path in IGNORED:
            continue
        mode = entry.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield from _iter_files(entry, root)
        elif stat.S_ISREG(mode):
            yield entry
        else:
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
            raise BadSignatureError(
                f"{clean_text(path)} is {kind}, which a signature can't list",
                hint="To sign a model in the Hugging Face cache, give its name instead of the folder.",
            )


def _choose_target(found: _Signable, output: Path | None) -> Path:
    target = make_absolute(output) if output else found.folder / FILE_NAME
    return target / FILE_NAME if target.is_dir() else target


def _check_target(target: Path, found: _Signable) -> bool:
    """Return whether the signature file replaces an earlier one.

    Raises:
        BadInputError: another file has that name, or the folder does not exist.
    """
    if not target.parent.is_dir():
        raise BadInputError(f"The folder {target.parent} does not exist")
    if not os.path.lexists(target):
        return False
    if not is_signature_file(target) or (
        found.model and any(_is_same_file(each, target) for each in found.files.values())
    ):
        raise BadInputError(
            f"{target} exists and is not a signature file, so it is not replaced", hint="Choose another file with -o."
        )
    return True


def is_signature_file(path: Path) -> bool:
    """Return whether a file is a signature.

    Raises:
        StorageError: it can't be read.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BUNDLE_BYTES:
            return False
        parse_bundle(path.read_bytes())
    except BadSignatureError:
        return False
    except OSError as error:
        raise StorageError(f"Can't read {path}", cause=error.strerror) from None
    return True


def _is_same_file(file: Path, other: Path) -> bool:
    try:
        return file.samefile(other)
    except OSError:
        return False


def _refuse_key_among(files: dict[str, Path], key: Path) -> None:
    for path, file in files.items():
        if _is_same_file(file, key):
            raise BadInputError(
                f"The private key {clean_text(path)} is among the files to sign",
                hint="Move it out of the folder first.",
            )


def make_signer(key_pem: bytes, chain_pem: bytes | None, ask_passphrase: Callable[[], str] | None) -> Signer:
    """Load the key. This imports cryptography."""
    from llm_hf_models.signatures.keys import is_encrypted
    from llm_hf_models.signatures.sign import Signer

    passphrase = ask_passphrase() if ask_passphrase and is_encrypted(key_pem) else None
    remember(passphrase)
    return Signer(key_pem, passphrase.encode() if passphrase else None, chain_pem)


def _hash(found: _Signable, path: str, file: Path, progress: Progress) -> str:
    try:
        digests = hash_with_progress(file, path, progress)
    except OSError as error:
        raise StorageError(f"Can't read {file}", cause=error.strerror) from None
    if digests.stamp is None:
        raise FileChangedError(f"{file} was modified while it was read", hint="Run the same command again.")
    recorded = found.recorded.get(path)
    if recorded and digests.get_same_kind(recorded) != recorded:
        raise DigestMismatchError(
            f"{file} is not the recorded file",
            cause="A signature would say that this content is the model's.",
            hint=suggest_fix(found.model) if found.model else None,
        )
    return digests.sha256


def _list_ignored(found: _Signable, target: Path) -> tuple[str, ...]:
    """Return the paths that a verifier leaves out, with that of the signature file."""
    own = target.relative_to(found.folder).as_posix() if target.is_relative_to(found.folder) else FILE_NAME
    return tuple(dict.fromkeys((*IGNORED, own)))


def _write(target: Path, data: bytes, *, replace: bool) -> None:
    try:
        write_user_file(target, data, replace=replace)
    except FileExistsError:
        raise StorageError(f"{target} was created by another program", hint="Run the same command again.") from None
    except OSError as error:
        raise translate_disk_error(error, target.parent, len(data), 0) from None
