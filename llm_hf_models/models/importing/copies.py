"""Copy the files of an imported model to a folder of this package."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llm_hf_models import paths as paths_module
from llm_hf_models import settings
from llm_hf_models.errors import DiskFullError
from llm_hf_models.system.disk import require_space, translate_disk_error
from llm_hf_models.system.private_files import create_private_file, make_private_folder


@contextmanager
def prepare_locations(paths: Sequence[Path], *, copy: bool) -> Iterator[Sequence[Path]]:
    """Yield the final locations of the files: in place, or copied to a new folder, which is removed on failure."""
    if not copy:
        yield paths
        return
    folder = paths_module.data_dir() / "imported" / secrets.token_hex(8)
    try:
        _copy_files(paths, folder)
        yield [folder / path.name for path in paths]
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if not any(folder.iterdir()):
        folder.rmdir()


def _copy_files(paths: Sequence[Path], folder: Path) -> None:
    for path in paths:
        path.open("rb").close()  # fail now if a file is unreadable; later this would be reported for the folder
    needed = sum(path.stat().st_size for path in paths)
    try:
        require_space(folder, needed, settings.load().disk_reserve_bytes)
        make_private_folder(folder)
        for path in paths:
            create_private_file(folder / path.name)
            shutil.copyfile(path, folder / path.name)
    except DiskFullError as error:
        error.hint = "Nothing was copied. Free some disk space, or import the file in place (without --copy)."
        raise
    except OSError as error:
        raise translate_disk_error(error, folder, needed, 0) from None
