"""The private folder of each engine, with its socket, lease and log. Does not use processes or the library."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import stat
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from llm_hf_models.errors import EngineStartError, NotWritableError
from llm_hf_models.system.ownership import acquire_ownership, wait_at_most
from llm_hf_models.system.private_files import create_private_file, make_private_folder
from llm_hf_models.system.runtime_folder import choose_runtime_folder
from llm_hf_models.system.text import clean_text

# sun_path holds 108 bytes on Linux and 104 on macOS and the BSDs, including the final NUL (unix(7), unix(4)).
MAX_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103
CONNECT_SECONDS = 2.0
LEASE_CHARS = 16
LOG_TAIL_BYTES = 4096


@dataclass(frozen=True)
class EngineFolder:
    """The folder of one engine."""

    path: Path

    @property
    def socket(self) -> Path:
        return self.path / "e.sock"  # llama.cpp treats a host name that ends in .sock as a path

    @property
    def lease(self) -> Path:
        return self.path / "lease"

    @property
    def log(self) -> Path:
        return self.path / "log"

    def renew_lease(self, keep_alive: float) -> bool:
        """Announce a request to the engine, and set how long it stays running when idle.

        A single write of fixed length replaces the old value, so the engine never reads an incomplete one.

        Args:
            keep_alive: Seconds.

        Returns:
            False if the engine has exited.
        """
        try:
            lease = os.open(self.lease, os.O_WRONLY)
        except OSError:
            return False
        try:
            os.write(lease, f"{keep_alive:.3f}".ljust(LEASE_CHARS).encode())
        finally:
            os.close(lease)
        return True

    def read_lease(self) -> tuple[float, float] | None:
        """Return the time of the last lease in Unix seconds and its keep_alive; None if the engine has exited."""
        try:
            return self.lease.stat().st_mtime, float(self.lease.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def read_log_errors(self, lines: int = 4) -> str:
        """Return the first lines of the log's last LOG_TAIL_BYTES, cleaned for display; empty if there are none.

        llama.cpp's first error names the problem. Later errors only repeat that loading failed.
        """
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return ""
        stripped = [line.strip() for line in text.splitlines() if line.strip()]
        return "\n".join(clean_text(_strip_timestamp(line)) for line in stripped[:lines])

    def remove(self) -> None:
        """Remove the folder and its files."""
        shutil.rmtree(self.path, ignore_errors=True)


def _strip_timestamp(line: str) -> str:
    """Remove the time and level, such as `0.00.037.990 E `, from a line of llama.cpp's log."""
    head, _, rest = line.partition(" ")
    return rest[2:] if rest[1:2] == " " and head.replace(".", "").isdigit() else line


def make_base_folder() -> Path:
    """Return the private folder of this user's engines, creating it if needed.

    Raises:
        NotWritableError: The folder can't be created.
        EngineStartError: The folder belongs to another user.
    """
    path = choose_runtime_folder()
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        _ensure_private(path)
    except OSError as error:
        raise NotWritableError(
            f"Can't create the engines' folder {path}",
            cause=error.strerror,
            hint="Set TMPDIR to a folder that you can write to.",
        ) from None
    return path


def _ensure_private(path: Path) -> None:
    """Raise an error if another user created the folder, as can happen in a shared temporary folder."""
    status = path.lstat()
    if sys.platform == "win32":
        return
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise EngineStartError(
            f"{path} is not a folder that you own",
            cause="Engines listen only in a folder that no other user can open.",
            hint="Remove it, or set XDG_RUNTIME_DIR to a folder that you own.",
        )
    if stat.S_IMODE(status.st_mode) != 0o700:  # noqa: PLR2004 - the usual notation of a mode
        path.chmod(0o700)


def hold_start_lock(seconds: float) -> AbstractContextManager[object]:
    """Return the lock under which this user's engines start. The folder of an engine that is starting looks stale.

    Entering it waits for another engine that is starting.

    Raises:
        EngineStartError: The other engine took longer than `seconds`.
    """
    error = EngineStartError(
        "Timed out waiting for another engine to start",
        hint="List engines with `llm hf ps`, or stop them with `llm hf stop --all`.",
    )
    return acquire_ownership(make_base_folder() / "start", wait_at_most(seconds, error), private=True)


def create_engine_folder(keep_alive: float) -> EngineFolder:
    """Create a private folder with a short random name, and the lease in it. `keep_alive` is in seconds.

    Raises:
        NotWritableError: The folder can't be created.
        EngineStartError: The base folder belongs to another user, or the socket's path is too long for the system.
    """
    folder = EngineFolder(make_base_folder() / secrets.token_hex(4))
    length = len(os.fsencode(folder.socket))
    if sys.platform != "win32" and length > MAX_SOCKET_PATH_BYTES:
        raise EngineStartError(
            f"The path of the engine's socket {folder.socket} is too long",
            cause=f"It has {length} bytes; this system allows {MAX_SOCKET_PATH_BYTES}.",
            hint="Set XDG_RUNTIME_DIR or TMPDIR to a shorter path.",
        )
    try:
        make_private_folder(folder.path)
        create_private_file(folder.lease)
    except OSError as error:
        raise NotWritableError(f"Can't create {folder.path}", cause=error.strerror) from None
    folder.renew_lease(keep_alive)
    return folder


def is_listening(address: str) -> bool:
    """Return whether a process listens at a unix socket's path or `http://host:port`. Sends no data."""
    try:
        if address.startswith("http://"):
            host, _, port = address.removeprefix("http://").rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
            return True
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_SECONDS)
            probe.connect(address)
            return True
    except (OSError, ValueError):
        return False


def remove_stale_folders(keep: set[Path]) -> None:
    """Remove the folders of engines that no longer run. Call it only while holding the start lock.

    Args:
        keep: Folders of engines that the library lists as running. Another library may use the other folders, so
            each of them is removed only if no process listens on its socket.
    """
    for path in make_base_folder().iterdir():
        if path.is_dir() and path not in keep and not is_listening(str(EngineFolder(path).socket)):
            EngineFolder(path).remove()
