"""Read a file's location from the headers of the responses to `resolve`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from llm_hf_models.errors import HubUnavailableError
from llm_hf_models.hub.errors import HubRequest
from llm_hf_models.hub.json_fields import make_protocol_error
from llm_hf_models.hub.refs import is_commit
from llm_hf_models.hub.types import Location

_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_RESOLVED = re.compile(r"/([^/]+/[^/]+)/resolve/")
_SIZE = re.compile(r"[0-9]{1,18}")


def parse_location(
    request: HubRequest,
    url: str,
    headers: dict[str, str],
    hub_headers: Mapping[str, str],
    last_headers: Mapping[str, str],
) -> Location:
    """Return a file's location from the responses to `resolve`. No header has to be present.

    Args:
        request: the request for the file.
        url: URL of the file's bytes.
        headers: headers for a request to that URL.
        hub_headers: the Hub's X- headers so far, with names in lower case.
        last_headers: headers of the final response; empty if the last redirect was not followed.

    Raises:
        HubUnavailableError: the response is a web page, or is for another commit.
    """
    commit = hub_headers.get("x-repo-commit", "").strip().lower()
    if not commit and last_headers.get("Content-Type", "").lower().startswith("text/html"):
        raise make_protocol_error(request.host, "The response is a web page.")
    if request.revision and is_commit(request.revision) and is_commit(commit) and commit != request.revision:
        raise HubUnavailableError(f"{request.host} returned commit {commit[:12]} instead of {request.revision[:12]}")
    return Location(
        url,
        headers,
        size=_parse_size(hub_headers.get("x-linked-size")),
        etag=_parse_digest(hub_headers.get("x-linked-etag")),
        commit=commit if is_commit(commit) else None,
        response_size=_parse_size(last_headers.get("Content-Length")),
        response_etag=_parse_digest(last_headers.get("ETag")),
    )


def find_new_name(home: str, url: str, repo: str | None) -> str | None:
    """Return the name of the repo in a redirect of the Hub, if it is not the requested one.

    Args:
        home: the Hub's endpoint.
        url: the target of the redirect.
        repo: the name that was requested.
    """
    found = _RESOLVED.match(url.removeprefix(home)) if url.startswith(home) else None
    return found[1] if found and found[1] != repo else None


def _parse_size(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if _SIZE.fullmatch(text) else None


def _parse_digest(etag: str | None) -> str | None:
    """Return the digest in an ETag. Proxies make ETags weak (`W/"…"`), and servers such as nginx have their own."""
    text = re.sub(r"\A[wW]/", "", (etag or "").strip()).strip('"').lower()
    return text if _ETAG.fullmatch(text) else None
