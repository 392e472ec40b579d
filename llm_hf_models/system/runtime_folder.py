"""Choose this user's private folder for sockets and other files that end with the login session."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def choose_runtime_folder() -> Path:
    """Return the folder, in XDG_RUNTIME_DIR, or in the temporary folder if that is not set. It is not created."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK | os.X_OK):
        return Path(runtime) / "llm-hf"
    return Path(tempfile.gettempdir()) / f"llm-hf-{os.getuid() if sys.platform != 'win32' else os.getlogin()}"
