"""Parse and compare URLs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from llm_hf_models.errors import BadInputError, HubUnavailableError
from llm_hf_models.redaction import remember
from llm_hf_models.system.text import clean_text, strip_credentials


@dataclass(frozen=True)
class Origin:
    """The scheme, host and port of a URL. A token is sent to one origin only."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Return the origin of an http or https URL.

        Raises:
            NetworkError: the URL is invalid or has another scheme.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = SplitResult("", "", "", "", ""), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            shown = clean_text(url.rpartition("@")[2], 80)  # without a password
            raise HubUnavailableError("The Hub returned a link that is not a web address", cause=shown)
        return cls(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80))


def format_host(url: str) -> str:
    """Return the host of a URL for messages, without the query, which may contain a signature."""
    return clean_text(urlsplit(url).hostname or "?", 100)


def validate_endpoint(endpoint: str) -> str:
    """Return the endpoint if it is an http(s) URL.

    Checked early, because huggingface_hub also reads HF_ENDPOINT and can't be imported if it is invalid.

    Raises:
        BadInputError: the endpoint is not an http(s) URL.
    """
    try:
        parts = urlsplit(endpoint)
        is_valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise BadInputError(
            f"The Hub endpoint {strip_credentials(endpoint)[:100]!r} is not an http(s) URL",
            hint="Set HF_ENDPOINT to an http(s) URL.",
        )
    remember_password(endpoint)
    return endpoint


def remember_password(url: str) -> None:
    """Redact the password in a URL, such as that of a proxy, from now on: the server may repeat it."""
    with suppress(ValueError):
        password = urlsplit(url).password
        remember(unquote(password) if password else None)


def remember_proxy_passwords() -> None:
    """Redact the passwords of the proxies in the environment from now on."""
    from urllib.request import getproxies

    for proxy in getproxies().values():
        remember_password(proxy)


def is_same_origin(url: str, other: str) -> bool:
    """Return whether two URLs have the same scheme, host and port. A token is sent to the same origin only."""
    one, two = urlsplit(url), urlsplit(other)
    ports = {"http": 80, "https": 443}
    return (one.scheme, one.hostname, one.port or ports.get(one.scheme)) == (
        two.scheme, two.hostname, two.port or ports.get(two.scheme),
    )  # fmt: skip
