"""When to retry: the wait that responses request. The waiting itself is tested with the transfer."""

from __future__ import annotations

import email.utils
import time

import pytest

from llm_hf_models.network.headers import parse_retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT", "Date": "Wed, 21 Oct 2015 07:27:20 GMT"}, 40),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT", "Date": "now"}, 0),
        ({"Retry-After": "\u00b2"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": '"resolvers";r=4999;t=12'}, None),
        ({"RateLimit": '"pages";r=99;t=15, "resolvers";r=0;t=3'}, 3),
        ({"RateLimit": '"pages";r=0;t=15, "resolvers";r=0;t=3'}, 15),
        ({"Retry-After": "2", "RateLimit": '"api";r=0;t=55'}, 2),
    ],
)
def test_wait_requested_by_a_response_is_parsed_or_ignored(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_retry_after(headers.get) == seconds


def test_retry_date_is_a_number_of_seconds_from_now() -> None:
    date = email.utils.formatdate(time.time() + 90, usegmt=True)
    assert 60 < (parse_retry_after({"Retry-After": date}.get) or 0) <= 90
