"""Where one file's bytes are now, and whether an answer from there is what was asked for. Moves no bytes."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from llm_hf_models.errors import FileChangedError, HfModelsError, HubUnavailableError
from llm_hf_models.hub.types import Location
from llm_hf_models.network.errors import EXPIRED_LINK_STATUSES, make_link_error, make_storage_host_error
from llm_hf_models.network.response import RangeResponse
from llm_hf_models.network.urls import format_host
from llm_hf_models.transfer.types import ExpectedFile

MAX_LINKS_REFUSED = 3  # fresh links, one after the other, that the storage host refuses
_HEX = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


class LinkExpiredError(Exception):
    """The storage host does not take this link (any more): ask for another. Never leaves the transfer."""


class RangeRefusedError(Exception):
    """A whole file came where a part was asked for. Never leaves the transfer."""


class DownloadSource:
    """The link to a file, renewed when it expires. One for all connections of a transfer."""

    def __init__(self, locate: Callable[[], Location], expected: ExpectedFile) -> None:
        self._locate, self._expected = locate, expected
        self._lock = threading.Lock()
        self._location: Location | None = None
        self._proof: tuple[str, str] | None = None
        self._refused = 0
        self._ranges_served, self._ranges_ignored = False, False
        self.validator: str | None = None  # the storage host's strong etag, for If-Range

    def location(self) -> Location:
        """The link; asks for it where there is none.

        Raises:
            FileChangedError: it leads to another file than the one expected.
            HfModelsError: what `locate` raises.
        """
        with self._lock:
            if self._location is None:
                location = self._locate()
                self._check_location(location)
                self._location = location
            return self._location

    @property
    def proof(self) -> str:
        """What names the content: its digest, or etag and commit of a file without one."""
        if self._expected.digest:
            return self._expected.digest
        location = self.location()
        return f"{location.etag}@{location.commit}"

    def _check_location(self, location: Location) -> None:
        expected = self._expected
        digest = {64: expected.sha256, 40: expected.git_sha1}.get(len(location.etag))
        other = digest and _HEX.fullmatch(location.etag) and location.etag != digest
        moved = not expected.digest and self._proof not in (None, (location.etag, location.commit))
        self._proof = (location.etag, location.commit)
        if other or moved or location.size != expected.size:
            raise file_changed_error(
                expected.name, f"The Hub now has {location.size} bytes with etag {location.etag[:64]}."
            )

    def expired(self, location: Location) -> None:
        """A link was refused: the next to ask gets a fresh one.

        Raises:
            AccessError: so were several fresh ones.
        """
        with self._lock:
            if self._location is location:
                self._location = None
                self._refused += 1
            if self._refused >= MAX_LINKS_REFUSED:
                self._refused = 0
                raise make_link_error(format_host(location.url), self._expected.name)

    def served(self, location: Location) -> None:
        """A link did its work. An older one says nothing about the one that is given out now."""
        if self._location is location:
            self._refused = 0

    def check_range(self, reply: RangeResponse, start: int, end: int, *, sent_validator: bool) -> None:
        """Makes sure that the body is bytes `start` to `end`, exclusive, of the file that is wanted.

        Raises:
            LinkExpiredError, RangeRefusedError, FileChangedError, NetworkError, AccessError, FileNotFoundInRepoError
        """
        if reply.status != 206:  # noqa: PLR2004
            if reply.status == 200:  # noqa: PLR2004
                self._check_whole_size(reply)
                if sent_validator:
                    self._forget_validator()
                    raise LinkExpiredError
                if self._ranges_served and not self._ranges_ignored:  # one server of many, it may be
                    self._ranges_ignored = True
                    raise HubUnavailableError(f"{format_host(reply.url)} sent the whole file instead of a part")
                raise RangeRefusedError
            raise self._translate_refusal(reply)
        claimed = reply.content_range
        host = format_host(reply.url)
        if claimed is None or claimed[0] != start or claimed[1] >= end or claimed[1] < start:
            raise HubUnavailableError(f"{host} sent other bytes than were asked for")
        if reply.length not in (None, claimed[1] + 1 - start) or _is_encoded(reply):
            raise HubUnavailableError(f"{host} sent another number of bytes than it said")
        if claimed[2] not in (None, self._expected.size):
            raise file_changed_error(
                self._expected.name, f"{host} now has {claimed[2]} bytes, not {self._expected.size}."
            )
        self._ranges_served, self._ranges_ignored = True, False
        self._remember_validator(reply.header("ETag"))

    def check_whole(self, reply: RangeResponse) -> None:
        """The same for a body that is the whole file."""
        if reply.status != 200:  # noqa: PLR2004
            raise self._translate_refusal(reply)
        self._check_whole_size(reply)

    def _check_whole_size(self, reply: RangeResponse) -> None:
        """A page that asks for a login, or for patience, says nothing about the file; neither does a packed one."""
        what = f"{reply.length} bytes instead of the {self._expected.size} of {self._expected.name}"
        if reply.length is None and (reply.header("Content-Type") or "").lower().startswith("text/html"):
            what = "the form of a web page"  # which would count as a whole file, for which all that came is given up
        elif reply.length in (None, self._expected.size) and not _is_encoded(reply):
            return
        raise HubUnavailableError(f"{format_host(reply.url)} sent something else", cause=f"It has {what}.")

    def _remember_validator(self, etag: str | None) -> None:
        if etag is None or etag.startswith("W/"):
            return
        with self._lock:
            before, self.validator = self.validator, etag
        if before not in (None, etag) and not self._expected.digest:
            raise file_changed_error(
                self._expected.name, "Its etag changed, and there is no digest to tell right from wrong."
            )

    def _forget_validator(self) -> None:
        """The validator was refused. With a digest to prove the result another will do; without, nothing proves it."""
        with self._lock:
            self.validator = None
            self._location = None  # what the Hub says now is checked before anything else is fetched
        if not self._expected.digest:
            raise file_changed_error(
                self._expected.name, "Its etag changed, and there is no digest to tell right from wrong."
            )

    def _translate_refusal(self, reply: RangeResponse) -> Exception:
        status, host = reply.status, format_host(reply.url)
        if status in EXPIRED_LINK_STATUSES:
            return LinkExpiredError()
        if status == 416:  # noqa: PLR2004
            return file_changed_error(self._expected.name, f"{host} has fewer bytes than {self._expected.size}.")
        return make_storage_host_error(host, self._expected.name, status, reply.header)


def file_changed_error(name: str, cause: str) -> HfModelsError:
    """The error for a file that is not what the pinned commit recorded."""
    hint = "Pull it again to get what is there now. If it stays so, the Hub, or a mirror of it, contradicts itself."
    return FileChangedError(f"{name} changed upstream", cause=cause, hint=hint)


def _is_encoded(reply: RangeResponse) -> bool:
    return (reply.header("Content-Encoding") or "identity").lower() != "identity"
