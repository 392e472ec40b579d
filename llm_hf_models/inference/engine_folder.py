"""Where engines stand: a private folder for each, with its socket, lease and log. Knows no processes and no library."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from llm_hf_models.errors import EngineStartError, NotWritableError
from llm_hf_models.system.text import clean_text

# sun_path holds 108 bytes on Linux and 104 on macOS and the BSDs, the closing NUL included (unix(7), unix(4)).
MAX_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103
CONNECT_SECONDS = 2.0
LEASE_CHARS = 16
LOG_TAIL_BYTES = 4096


@dataclass(frozen=True)
class EngineFolder:
    """One engine's folder."""

    path: Path

    @property
    def socket(self) -> Path:
        return self.path / "e.sock"  # llama.cpp takes a host name for a path by this ending

    @property
    def lease(self) -> Path:
        return self.path / "lease"

    @property
    def log(self) -> Path:
        return self.path / "log"

    def renew_lease(self, keep_alive: float) -> bool:
        """Tells the engine that a request is about to come, and how long to stay after it (seconds).

        One write of a fixed length over the old one: the engine never reads half of it.

        Returns:
            False when the engine has left.
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
        """When a request was last announced (Unix seconds) and the keep_alive given then; None when it has left."""
        try:
            return self.lease.stat().st_mtime, float(self.lease.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def read_log_errors(self, lines: int = 4) -> str:
        """The first errors of the last stretch of the log, fit to be shown; empty where there are none.

        llama.cpp's first error says what is wrong, those after it only who heard of it.
        """
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return ""
        found = [line.strip() for line in text.splitlines() if line.strip()]
        return "\n".join(clean_text(_strip_timestamp(line)) for line in found[:lines])

    def remove(self) -> None:
        """Removes the folder and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def _strip_timestamp(line: str) -> str:
    """llama.cpp's lines begin with `0.00.037.990 E `: time and level."""
    head, _, rest = line.partition(" ")
    return rest[2:] if rest[1:2] == " " and head.replace(".", "").isdigit() else line


def make_base_folder() -> Path:
    """The folder of all engines of this user, made private: in XDG_RUNTIME_DIR, else in the temporary folder.

    Raises:
        NotWritableError: it can't be made.
        EngineStartError: it belongs to somebody else.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK | os.X_OK):
        path = Path(runtime) / "llm-hf"
    else:
        path = Path(tempfile.gettempdir()) / f"llm-hf-{os.getuid() if sys.platform != 'win32' else os.getlogin()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        _ensure_private(path)
    except OSError as error:
        raise NotWritableError(
            f"Can't make the engines' folder {path}", cause=error.strerror, hint="Set TMPDIR to a folder of yours."
        ) from None
    return path


def _ensure_private(path: Path) -> None:
    """In a shared temporary folder anyone may have made it first."""
    found = path.lstat()
    if sys.platform == "win32":
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise EngineStartError(
            f"{path} is not yours",
            cause="Engines listen only in a folder that no other user can open.",
            hint="Remove it, or set XDG_RUNTIME_DIR to a folder of yours.",
        )
    if stat.S_IMODE(found.st_mode) != 0o700:  # noqa: PLR2004 - octal as everyone reads it
        path.chmod(0o700)


def create_engine_folder() -> EngineFolder:
    """A new private folder under a short random name, with a lease not yet written.

    Raises:
        NotWritableError, EngineStartError: as base_dir; or the socket's path would be too long for the system.
    """
    made = EngineFolder(make_base_folder() / secrets.token_hex(4))
    length = len(os.fsencode(made.socket))
    if sys.platform != "win32" and length > MAX_SOCKET_PATH_BYTES:
        raise EngineStartError(
            f"The engine's socket {made.socket} has too long a path",
            cause=f"It has {length} bytes; this system takes {MAX_SOCKET_PATH_BYTES}.",
            hint="Set XDG_RUNTIME_DIR or TMPDIR to a shorter path.",
        )
    try:
        made.path.mkdir(mode=0o700)
    except OSError as error:
        raise NotWritableError(f"Can't make {made.path}", cause=error.strerror) from None
    return made


def is_listening(address: str) -> bool:
    """Whether something listens at a unix socket's path or `http://host:port`. Sends nothing."""
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
    """Removes the folders of engines that are gone. Only under the start lock: a folder being filled looks the same.

    Args:
        keep: folders that the library knows to be in use; others are asked, since another library may own them.
    """
    for path in make_base_folder().iterdir():
        if path.is_dir() and path not in keep and not is_listening(str(EngineFolder(path).socket)):
            EngineFolder(path).remove()
