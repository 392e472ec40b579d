"""Check that the response of a storage host has the requested bytes of the expected file."""

from __future__ import annotations

from llm_hf_models.errors import FileChangedError, HubUnavailableError
from llm_hf_models.network.errors import EXPIRED_LINK_STATUSES, make_storage_host_error
from llm_hf_models.network.inflate import ENCODINGS
from llm_hf_models.network.response import RangeResponse
from llm_hf_models.network.urls import format_host
from llm_hf_models.system.text import clean_text

OK, PARTIAL, RANGE_NOT_SATISFIABLE = 200, 206, 416


class LinkExpiredError(Exception):
    """The storage host refused the link; the caller requests another one."""


class RangeUnusableError(Exception):
    """The body can't be assigned to a range of the file; the caller requests the whole file instead."""


def check_range(response: RangeResponse, start: int, end: int, *, size: int, name: str) -> bool:
    """Check that the body is the bytes from `start` to `end` (exclusive), or the first of them.

    Args:
        response: the response of the storage host.
        start: the first requested byte.
        end: the position after the last requested byte.
        size: the size of the file in bytes.
        name: the file, as shown to the user.

    Returns:
        False if the response does not name its range, so that only the digest proves that the bytes are right.

    Raises:
        LinkExpiredError: the host refused the link.
        RangeUnusableError: the body is compressed, or does not have the length of the range and names no range.
        FileChangedError: the file has another size.
        HfModelsError: the host refused the request, or its response is invalid.
    """
    _raise_refusal(response, PARTIAL, size=size, name=name)
    header = response.get_header("Content-Range")
    if response.encoding or (not header and response.length not in (None, end - start)):
        raise RangeUnusableError
    if not header:
        return False
    claimed, host = response.content_range, format_host(response.url)
    if claimed is None or claimed[0] != start or not start <= claimed[1] < end:
        cause = f"Requested bytes {start}-{end - 1}, received {header}."
        raise HubUnavailableError(f"{host} returned the wrong byte range", cause=clean_text(cause, 200))
    if response.length not in (None, claimed[1] + 1 - start):
        raise HubUnavailableError(f"{host} returned a different number of bytes than it announced")
    if claimed[2] not in (None, size):
        raise make_file_changed_error(name, f"{host} now has {claimed[2]} bytes, not {size}.")
    return True


def check_whole(response: RangeResponse, *, size: int, name: str) -> None:
    """Check that the body is the whole file, maybe compressed with gzip or deflate, and not a login page.

    See `check_range`.
    """
    _raise_refusal(response, OK, size=size, name=name)
    content, hint = f"{response.length} bytes instead of the {size} of {name}", None
    if response.length != size and (response.get_header("Content-Type") or "").lower().startswith("text/html"):
        content = "a web page"  # must not count as a whole file: the bytes received so far would be discarded
    elif response.encoding and response.encoding not in ENCODINGS:
        content = f"compressed data (header Content-Encoding: {clean_text(response.encoding, 40)})"
        hint = "Check whether a proxy or mirror compresses downloads."
    elif response.encoding or response.length in (None, size):
        return
    raise HubUnavailableError(
        f"{format_host(response.url)} returned something other than the file",
        cause=f"The response contains {content}.",
        hint=hint,
    )


def make_file_changed_error(name: str, cause: str) -> FileChangedError:
    """Return the error for a file that differs from the one recorded at the pinned commit."""
    hint = "Pull again to get the current file. If the error persists, the Hub or its mirror is inconsistent."
    return FileChangedError(f"{name} changed upstream", cause=cause, hint=hint)


def _raise_refusal(response: RangeResponse, expected_status: int, *, size: int, name: str) -> None:
    status, host = response.status, format_host(response.url)
    if status == expected_status:
        return
    if status in EXPIRED_LINK_STATUSES:
        raise LinkExpiredError
    if status == RANGE_NOT_SATISFIABLE:
        raise make_file_changed_error(name, f"{host} has fewer bytes than {size}.")
    raise make_storage_host_error(host, name, status, response.get_header)
