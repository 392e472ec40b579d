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


def parse_retry_after(header: Callable[[str], str | None]) -> float | None:
    """Seconds that an answer asks us to wait, at least; None where it doesn't.

    From Retry-After, a number or a date (RFC 9110, 10.2.3), else from the policies of RateLimit that are used up
    (draft-ietf-httpapi-ratelimit-headers: `"name";r=LEFT;t=SECONDS`). A date counts from the answer's own: this
    machine's clock may be wrong.

    Args:
        header: gives the answer's header of that name.
    """
    told = (header("Retry-After") or "").strip()
    if _SECONDS.fullmatch(told):
        return float(told)
    if told:
        date = _parse_date(told)
        now = _parse_date(header("Date") or "")
        if date is not None:
            return max(0.0, date - (time.time() if now is None else now))
    policies = _RATE_LIMIT.findall(header("RateLimit") or "")
    return max((float(seconds) for left, seconds in policies if int(left) == 0), default=None)


def _parse_date(text: str) -> float | None:
    """Seconds since 1970 of a header's date; None where it is none."""
    with suppress(TypeError, ValueError):
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
    return None
