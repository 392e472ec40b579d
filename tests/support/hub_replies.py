"""Replies of a Hub in which one field has another value than the Hub's."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any
from urllib.request import Request, urlopen

from tests.support.hub_server import HubServer, Status

MISSING = object()


def change_field(reply: Any, field: str, value: object) -> Any:
    """Return a copy of a reply in which `field`, such as `siblings.0.lfs`, is `value`, or missing."""
    changed = target = copy.deepcopy(reply)
    *parents, last = (int(part) if part.isdigit() else part for part in field.split("."))
    for part in parents:
        target = target[part]
    if value is MISSING:
        del target[last]
    else:
        target[last] = value
    return changed


def fetch_reply(server: HubServer, path: str, form: bytes | None = None) -> Any:
    """Return the JSON that the Hub sends now."""
    with urlopen(Request(f"{server.endpoint}{path}", data=form)) as response:
        return json.load(response)


def send_reply(server: HubServer, on: str, reply: object, headers: Mapping[str, str] | None = None) -> None:
    """Let the Hub send this reply to each request whose path contains `on`."""
    server.fault(Status(200, headers or {}, json.dumps(reply).encode()), on=on, side="hub", times=None)
