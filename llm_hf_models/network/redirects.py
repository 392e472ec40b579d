"""Resolve redirects, and refuse those that lead from a host on the internet to a service of this machine.

The target of a redirect is chosen by the host that sends it. A service that listens on a loopback or link-local
address, such as the metadata service of a cloud, often trusts every client.
"""

from __future__ import annotations

import contextlib
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import quote, urljoin, urlsplit

from llm_hf_models.errors import RedirectRefusedError
from llm_hf_models.network.proxy import find_proxy
from llm_hf_models.network.urls import Origin, format_host

Address = IPv4Address | IPv6Address
_URL_PUNCTUATION = "%:/?#[]@!$&'()*+,;=~"  # RFC 3986, 2.1 and 2.2
# Metadata services of clouds that are not at a link-local address.
_METADATA_SERVICES = (ip_address("100.100.100.200"), ip_address("fd00:ec2::254"))

_IPV4_NETWORKS = (ip_network("64:ff9b::/96"), ip_network("::/96"))  # they embed an IPv4 address at their end


def resolve_redirect(url: str, target: str | bytes) -> str:
    """Return the target of a redirect from `url`. Invalid characters are escaped, as in browsers.

    A user name and password in the target are removed, because the host that redirects must not choose them.

    Args:
        url: the URL that was requested.
        target: the Location header of the response.

    Raises:
        NetworkError: the target is not an http or https URL, or must not be requested.
    """
    resolved = quote(target, safe=_URL_PUNCTUATION)
    with contextlib.suppress(ValueError):
        parts = urlsplit(resolved)
        if parts.netloc:
            resolved = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        resolved = urljoin(url, resolved)
    origin, source = Origin.parse(resolved), Origin.parse(url)
    is_internal = origin.host != source.host and any(map(_is_internal, _find_addresses(origin)))
    if is_internal and not any(map(_is_local, _find_addresses(source))):
        raise RedirectRefusedError(
            f"{format_host(url)} redirected to an internal address: {format_host(resolved)}",
            hint="Check HF_ENDPOINT. Only a Hub on this machine or in a private network may redirect there.",
        )
    return resolved


def _find_addresses(origin: Origin) -> list[Address]:
    """Return the addresses of a host. If a proxy is used, which resolves names itself, a name has none."""
    host = origin.host.rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return [ip_address("127.0.0.1")]
    if (literal := _parse_address(host)) is not None:
        return [literal]
    if find_proxy(origin) is not None:
        return []
    try:
        found = socket.getaddrinfo(host, origin.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []  # the request fails with an error of its own
    addresses = (_parse_address(str(one[4][0])) for one in found)
    return [address for address in addresses if address is not None]


def _parse_address(text: str) -> Address | None:
    """Return an address, also one in a form that only the system accepts, such as 127.1 or 0x7f000001."""
    with contextlib.suppress(ValueError):
        return _unwrap_ipv4(ip_address(text.partition("%")[0]))
    with contextlib.suppress(OSError, UnicodeError):
        return IPv4Address(socket.inet_aton(text))
    return None


def _unwrap_ipv4(address: Address) -> Address:
    """Return the IPv4 address to which the system, a NAT64 gateway or a 6to4 router sends packets for an IPv6 one."""
    if isinstance(address, IPv6Address):
        if embedded := address.ipv4_mapped or address.sixtofour:
            return embedded
        if any(address in network for network in _IPV4_NETWORKS) and int(address) > 1:  # :: and ::1 are IPv6 addresses
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_internal(address: Address) -> bool:
    return address.is_loopback or address.is_link_local or address.is_unspecified or address in _METADATA_SERVICES


def _is_local(address: Address) -> bool:
    return address.is_private or _is_internal(address)
