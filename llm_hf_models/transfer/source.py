"""The storage location of a file, renewed when its link expires."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from llm_hf_models.errors import HubUnavailableError
from llm_hf_models.hub.types import Location
from llm_hf_models.network.errors import make_link_error
from llm_hf_models.network.range_checks import (
    OK,
    LinkExpiredError,
    RangeUnusableError,
    check_range,
    check_whole,
    make_file_changed_error,
)
from llm_hf_models.network.response import RangeResponse
from llm_hf_models.network.urls import format_host
from llm_hf_models.transfer.types import ExpectedFile

MAX_LINKS_REFUSED = 3  # consecutive fresh links that the storage host refuses
_HEX = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


class DownloadSource:
    """The link to a file, renewed when it expires, and shared by all connections of a transfer."""

    def __init__(self, locate: Callable[[], Location], expected: ExpectedFile) -> None:
        self._locate, self._expected = locate, expected
        self._lock = threading.Lock()
        self._location: Location | None = None
        self._etag_and_commit: tuple[str | None, str | None] | None = None  # of the previous link
        self._refusals = 0
        self._ranges_served, self._ranges_ignored = False, False
        self._validators_refused = False
        self.validator: str | None = None  # the storage host's strong etag, for If-Range
        self.has_unproven_ranges = False  # True if a response did not name its range, as after some proxies

    def get_location(self) -> Location:
        """Return the current link; request one if there is none.

        Raises:
            FileChangedError: the link leads to a file with another size or digest.
            HfModelsError: `locate` failed.
        """
        with self._lock:
            if self._location is None:
                location = self._locate()
                self._check_location(location)
                self._location = location
            return self._location

    @property
    def content_id(self) -> str:
        """The digest of the content, or its etag and commit if there is no digest."""
        if self._expected.digest:
            return self._expected.digest
        location = self.get_location()
        return f"{location.etag or location.response_etag}@{location.commit}"

    def _check_location(self, location: Location) -> None:
        """Compare the Hub's record of the file with the expected one. A missing header is not a difference."""
        expected, etag = self._expected, location.etag or ""
        digest = {64: expected.sha256, 40: expected.git_sha1}.get(len(etag))
        other = digest and _HEX.fullmatch(etag) and etag != digest
        etag_and_commit = (location.etag or location.response_etag, location.commit)
        moved = not expected.digest and self._etag_and_commit not in (None, etag_and_commit)
        self._etag_and_commit = etag_and_commit
        if other or moved or location.size not in (None, expected.size):
            raise make_file_changed_error(
                expected.name, f"The Hub now has {location.size} bytes with etag {etag[:64] or 'unknown'}."
            )

    def mark_expired(self, location: Location) -> None:
        """Discard a link that the storage host refused, so that a fresh one is requested.

        Raises:
            AccessError: several fresh links were refused too.
        """
        with self._lock:
            if self._location is location:
                self._location = None
                self._refusals += 1
            if self._refusals >= MAX_LINKS_REFUSED:
                self._refusals = 0
                raise make_link_error(format_host(location.url), self._expected.name)

    def mark_served(self, location: Location) -> None:
        """Record that the current link works. Older links are ignored."""
        if self._location is location:
            self._refusals = 0

    def check_range(self, response: RangeResponse, start: int, end: int, *, sent_validator: bool) -> None:
        """Check that the body is the bytes from `start` to `end` (exclusive) of the expected file.

        Raises:
            LinkExpiredError, RangeUnusableError, FileChangedError, NetworkError, AccessError, FileNotFoundInRepoError
        """
        if response.status == OK:
            self.check_whole(response)
            if sent_validator:
                self._forget_validator()
                raise LinkExpiredError
            self._refuse_ranges(response)
        try:
            is_named = check_range(response, start, end, size=self._expected.size, name=self._expected.name)
        except RangeUnusableError:
            self._refuse_ranges(response)
            raise
        self.has_unproven_ranges |= not is_named
        self._ranges_served, self._ranges_ignored = True, False
        self._remember_validator(response.get_header("ETag"))

    def _refuse_ranges(self, response: RangeResponse) -> None:
        """Give up ranges. If the host has served ranges before, try once more: it may be one server of several.

        Raises:
            RangeUnusableError, HubUnavailableError
        """
        if self._ranges_served and not self._ranges_ignored:
            self._ranges_ignored = True
            raise HubUnavailableError(f"{format_host(response.url)} returned the whole file instead of a range")
        raise RangeUnusableError

    def check_whole(self, response: RangeResponse) -> None:
        """Check that the body is the whole expected file.

        Raises:
            LinkExpiredError, FileChangedError, NetworkError, AccessError, FileNotFoundInRepoError
        """
        check_whole(response, size=self._expected.size, name=self._expected.name)

    def _remember_validator(self, etag: str | None) -> None:
        """Keep a strong etag for If-Range, unless the host refused one: its servers may have different etags."""
        if etag is None or not etag.startswith('"') or (self._validators_refused and self._expected.digest):
            return
        with self._lock:
            before, self.validator = self.validator, etag
        if before not in (None, etag) and not self._expected.digest:
            raise make_file_changed_error(
                self._expected.name, "Its etag changed, and the Hub has no digest to compare with."
            )

    def _forget_validator(self) -> None:
        """Forget the refused validator. Without a digest the file can't be verified any more, which is an error."""
        with self._lock:
            self.validator, self._validators_refused = None, True
            self._location = None  # the Hub's current record is checked before more bytes are fetched
        if not self._expected.digest:
            raise make_file_changed_error(
                self._expected.name, "Its etag changed, and the Hub has no digest to compare with."
            )
