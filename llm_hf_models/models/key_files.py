"""Read a file with a key or a certificate that a person names."""

from __future__ import annotations

from pathlib import Path

from llm_hf_models.errors import BadKeyError
from llm_hf_models.paths import make_absolute
from llm_hf_models.system.text import clean_text

MAX_KEY_BYTES = 1 << 20


def read_key(path: Path) -> bytes:
    """Return the content of a file with a key or a certificate. A pipe can be read once only.

    Raises:
        BadKeyError: it is too large, or can't be read.
    """
    try:
        with find_key(path).open("rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise BadKeyError(f"Can't read {clean_text(str(path), 200)}", cause=error.strerror) from None
    if len(data) > MAX_KEY_BYTES:
        raise BadKeyError(f"{clean_text(str(path), 200)} is too large for a key or certificate")
    return data


def find_key(path: Path) -> Path:
    """Return the absolute path of a key or certificate, which exists.

    Raises:
        BadKeyError: it is missing.
    """
    try:
        found = make_absolute(path)
        found.stat()
    except (OSError, ValueError) as error:  # ValueError: a null byte
        cause = getattr(error, "strerror", None)
        raise BadKeyError(f"Can't read {clean_text(str(path), 200)}", cause=cause) from None
    return found
