"""Find the proxy for a request and the credentials for it."""

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
    """Return the proxy for an origin, or None.

    It comes from HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, or from the system settings (macOS, Windows).
    """
    proxies = urllib.request.getproxies()
    proxy = proxies.get(origin.scheme) or proxies.get("all")
    hosts = [origin.host, f"[{origin.host}]"] if ":" in origin.host else [origin.host]  # NO_PROXY may have either form
    if not proxy or any(urllib.request.proxy_bypass(f"{host}:{origin.port}") for host in hosts):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    _refuse_unusable_proxy(proxy, origin)
    return proxy


def _refuse_unusable_proxy(proxy: str, origin: Origin) -> None:
    """Raise an error if the proxy can't be used for an origin.

    A TLS connection needs a proxy with an http:// URL (CONNECT). Without TLS, the proxy may use either scheme.

    Raises:
        BadInputError: the proxy has another scheme or an invalid URL. The URL may contain a password and is not shown.
    """
    variables = [f"{origin.scheme}_proxy", "all_proxy"]
    variable = next((name for name in os.environ if name.lower() == variables[0]), None)
    variable = variable or next((name for name in os.environ if name.lower() == variables[1]), "the system settings")
    kind = proxy.partition("://")[0].lower()
    if kind == "http" or (kind == "https" and origin.scheme == "http"):
        try:
            Origin.parse(proxy)
        except HubUnavailableError:
            hint = f"Use a URL such as http://proxy.example:3128, or add {origin.host} to NO_PROXY."
            raise BadInputError(f"The proxy URL in {variable} is invalid", hint=hint) from None
        return
    description = "a proxy with an https:// URL" if kind == "https" else f"a proxy of the type {clean_text(kind, 20)}"
    raise BadInputError(
        f"The proxy in {variable} is {description}, which can't be used for {origin.host}",
        cause="Downloads support only proxies with an http:// URL.",
        hint=f"Set {origin.scheme.upper()}_PROXY to such a proxy, or add {origin.host} to NO_PROXY.",
    )


def build_proxy_headers(proxy: str) -> dict[str, str]:
    """Return the header with the credentials in a proxy's URL, if it has any."""
    credentials = _encode_basic_auth(proxy)
    return {"Proxy-Authorization": credentials} if credentials else {}


def add_url_credentials(url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return `headers` with the credentials in a URL, which take precedence (as in httpx2, the client for the Hub)."""
    credentials = _encode_basic_auth(url)
    if credentials is None:
        return headers
    return {
        **{name: value for name, value in headers.items() if name.lower() != "authorization"},
        "Authorization": credentials,
    }


def _encode_basic_auth(url: str) -> str | None:
    """Return the user name and password of a URL as a header value, or None if it has none."""
    parts = urlsplit(url)
    if not parts.username:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
