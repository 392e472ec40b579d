"""Proxy settings from the environment."""

from __future__ import annotations

import base64
import os
import urllib.request
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from llm_hf_models.errors import BadInputError, HubUnavailableError
from llm_hf_models.network.urls import Origin
from llm_hf_models.system.text import clean_text


def find_proxy(origin: Origin) -> str | None:
    """The proxy for an origin: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, or the system's (macOS, Windows)."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(origin.scheme) or proxies.get("all")
    hosts = [origin.host, f"[{origin.host}]"] if ":" in origin.host else [origin.host]  # NO_PROXY is written both ways
    if not proxy or any(urllib.request.proxy_bypass(f"{host}:{origin.port}") for host in hosts):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    _refuse_unusable_proxy(proxy, origin)
    return proxy


def _refuse_unusable_proxy(proxy: str, origin: Origin) -> None:
    """A web page over TLS goes through proxies reached without it (CONNECT); without TLS, through either kind.

    Raises:
        BadInputError: this proxy is of another kind, or no address; which may hold a password, and is not shown.
    """
    variables = [f"{origin.scheme}_proxy", "all_proxy"]
    named = next((name for name in os.environ if name.lower() == variables[0]), None)
    named = named or next((name for name in os.environ if name.lower() == variables[1]), "The system's settings")
    kind = proxy.partition("://")[0].lower()
    if kind == "http" or (kind == "https" and origin.scheme == "http"):
        try:
            Origin.parse(proxy)
        except HubUnavailableError:
            hint = f"Write it like http://proxy.example:3128, or put {origin.host} into NO_PROXY."
            raise BadInputError(f"{named} holds no address of a proxy", hint=hint) from None
        return
    what = (
        "a proxy that is itself reached by https" if kind == "https" else f"a proxy of the kind {clean_text(kind, 20)}"
    )
    raise BadInputError(
        f"{named} names {what}, which can't be used for {origin.host}",
        cause="Downloads go through proxies whose address begins with http://.",
        hint=f"Name one in {origin.scheme.upper()}_PROXY, or put {origin.host} into NO_PROXY.",
    )


def build_proxy_headers(proxy: str) -> dict[str, str]:
    user = _encode_basic_auth(proxy)
    return {"Proxy-Authorization": user} if user else {}


def add_url_credentials(url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers for an address; a user named in it comes first, as with httpx2, which asks the Hub."""
    user = _encode_basic_auth(url)
    if user is None:
        return headers
    return {
        **{name: value for name, value in headers.items() if name.lower() != "authorization"},
        "Authorization": user,
    }


def _encode_basic_auth(url: str) -> str | None:
    """User and password of an address in the form of a header; None where it names none."""
    parts = urlsplit(url)
    if not parts.username:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
