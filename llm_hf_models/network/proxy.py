"""Find the proxy for a request, and open connections through it."""

from __future__ import annotations

import base64
import os
import urllib.request
from urllib.parse import unquote, urlsplit

from urllib3 import PoolManager, ProxyManager

from llm_hf_models.errors import BadInputError, HubUnavailableError
from llm_hf_models.network.response_heads import limit_heads
from llm_hf_models.network.tls import create_tls_context
from llm_hf_models.network.urls import Origin, remember_password
from llm_hf_models.system.text import clean_text

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")  # those of httpx2, which the Hub's API needs


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
    remember_password(proxy)
    _refuse_unusable_proxy(proxy, origin)
    return proxy


def _refuse_unusable_proxy(proxy: str, origin: Origin) -> None:
    """Raise an error if a proxy's URL is invalid or of an unknown type.

    Raises:
        BadInputError: names the variable. The URL may contain a password and is not shown.
    """
    variables = [f"{origin.scheme}_proxy", "all_proxy"]
    variable = next((name for name in os.environ if name.lower() == variables[0]), None)
    variable = variable or next((name for name in os.environ if name.lower() == variables[1]), "the system settings")
    scheme, _, rest = proxy.partition("://")
    if scheme.lower() not in PROXY_SCHEMES:
        raise BadInputError(
            f"The proxy in {variable} is of an unknown type: {clean_text(scheme, 20)}",
            cause=f"Supported types are {', '.join(PROXY_SCHEMES)}.",
            hint=f"Set {origin.scheme.upper()}_PROXY to such a proxy, or add {origin.host} to NO_PROXY.",
        )
    try:
        Origin.parse(f"http://{rest}")
    except HubUnavailableError:
        hint = f"Use a URL such as http://proxy.example:3128, or add {origin.host} to NO_PROXY."
        raise BadInputError(f"The proxy URL in {variable} is invalid", hint=hint) from None


def create_pools(origin: Origin, proxy: str | None) -> PoolManager:
    """Return urllib3's pools of connections to origins with the same scheme, through a proxy if there is one.

    Raises:
        TlsError: the certificate bundle can't be read.
    """
    if proxy is None:
        context = create_tls_context() if origin.scheme == "https" else None
        return limit_heads(PoolManager(ssl_context=context))
    parts = urlsplit(proxy)
    context = create_tls_context() if "https" in (origin.scheme, parts.scheme) else None
    if parts.scheme.startswith("socks"):
        from urllib3.contrib.socks import SOCKSProxyManager

        user, password = ((unquote(text) if text else None) for text in (parts.username, parts.password))
        return limit_heads(SOCKSProxyManager(proxy, user, password, ssl_context=context))
    credentials = _encode_basic_auth(proxy)
    headers = {"Proxy-Authorization": credentials} if credentials else {}
    return limit_heads(ProxyManager(proxy, proxy_headers=headers, proxy_ssl_context=context, ssl_context=context))


def add_url_credentials(url: str, headers: dict[str, str]) -> dict[str, str]:
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
