"""URLs and origins: parse, compare and follow redirects."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from llm_hf_models.errors import BadInputError, HubUnavailableError
from llm_hf_models.system.text import clean_text, strip_user

_URL_PUNCTUATION = "%:/?#[]@!$&'()*+,;=~"  # RFC 3986, 2.1 and 2.2


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port: what a header with a token must never leave."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Origin:
        """The origin of an http or https address.

        Raises:
            NetworkError: it is no such address.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = SplitResult("", "", "", "", ""), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise HubUnavailableError("The Hub gave a link that is not a web address", cause=clean_text(url, 80))
        return cls(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80))


def resolve_redirect(url: str, target: str | bytes) -> str:
    """Where the Location of an answer from `url` leads. What may not stand in an address is escaped, as browsers do.

    Raises:
        NetworkError: to no http or https address.
    """
    address = quote(target, safe=_URL_PUNCTUATION)
    with contextlib.suppress(ValueError):
        address = urljoin(url, address)
    Origin.parse(address)
    return address


def format_host(url: str) -> str:
    """The host of an address, fit to be shown: a signed link's query never is."""
    return clean_text(urlsplit(url).hostname or "?", 100)


def validate_endpoint(endpoint: str) -> str:
    """The address. On one that is none huggingface_hub, which reads HF_ENDPOINT too, breaks when it is imported.

    Raises:
        BadInputError: it is no http(s) address.
    """
    try:
        parts = urlsplit(endpoint)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise BadInputError(
            f"{strip_user(endpoint)[:100]!r} can't be asked",
            cause="It is no http(s) address.",
            hint="Set HF_ENDPOINT to one.",
        )
    return endpoint


def is_same_origin(url: str, other: str) -> bool:
    """Whether two addresses are of one scheme, host and port: a token goes nowhere else."""
    one, two = urlsplit(url), urlsplit(other)
    ports = {"http": 80, "https": 443}
    return (one.scheme, one.hostname, one.port or ports.get(one.scheme)) == (
        two.scheme, two.hostname, two.port or ports.get(two.scheme),
    )  # fmt: skip
