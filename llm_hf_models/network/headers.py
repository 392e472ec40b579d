"""Parse HTTP response headers: Retry-After and rate limits."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timezone
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"[0-9]{1,9}")
_RATE_LIMIT = re.compile(r";\s*r\s*=\s*([0-9]{1,9})\s*;\s*t\s*=\s*([0-9]{1,9})(?![0-9])")


def parse_retry_after(get_header: Callable[[str], str | None]) -> float | None:
    """Return the number of seconds to wait before the next request, or None if the response does not specify it.

    The number comes from Retry-After, which is a number or a date (RFC 9110, 10.2.3), otherwise from the RateLimit
    policies that are used up (draft-ietf-httpapi-ratelimit-headers): `RateLimit: "api";r=0;t=55` means that no requests
    remain for 55 seconds. A date is compared with the date of the response, because this machine's clock may be wrong.

    Args:
        get_header: returns the response header of a given name.
    """
    value = (get_header("Retry-After") or "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    if value:
        date = _parse_date(value)
        server_time = _parse_date(get_header("Date") or "")
        if date is not None:
            return max(0.0, date - (time.time() if server_time is None else server_time))
    policies = _RATE_LIMIT.findall(get_header("RateLimit") or "")
    return max((float(seconds) for remaining, seconds in policies if int(remaining) == 0), default=None)


def _parse_date(text: str) -> float | None:
    """Return a header's date in seconds since 1970, or None if it is not a date."""
    with suppress(TypeError, ValueError):
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
    return None
