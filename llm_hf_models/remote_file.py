"""A Hub file as a byte source, by Range requests: for headers before downloading. Not for whole files."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from llm_hf_models.hub import Location

FIRST_BLOCK_BYTES = 256 * 1024


class RemoteFile:
    """Reads forward from the start of a remote file, in growing blocks; a context manager.

    Args:
        locate: called for the link, and again when it has expired.
        timeout: seconds without an answer.
        connect_timeout: seconds for a connection.
    """

    def __init__(self, locate: Callable[[], Location], *, timeout: float = 20, connect_timeout: float = 10) -> None:
        raise NotImplementedError

    fetched_bytes: int

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes, fewer at the file's end."""
        raise NotImplementedError

    def __enter__(self) -> RemoteFile:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError
