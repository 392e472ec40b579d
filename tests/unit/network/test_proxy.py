"""Downloads through proxies: every type, their passwords, and the variables that name them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_hf_models.errors import BadInputError, NetworkError, OfflineError, ProxyRefusedError, TlsError
from llm_hf_models.transfer.types import TransferLimits
from tests.support.hub_server import write_certificate
from tests.support.proxies import Proxy, SocksProxy
from tests.support.storage_server import GuardedServer, StorageServer
from tests.support.transfers import pull

CONTENT = bytes(range(256)) * 4000
LIMITS = TransferLimits(connections=1, retry_seconds=0.01, network_wait_seconds=0.05)
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust only the tests' certificate, and unset the variables of proxies."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, url)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy() as proxy:
        use(monkeypatch, proxy.make_url())
        yield proxy


def make_server(folder: Path, *, secure: bool, host: str = "127.0.0.1") -> StorageServer:
    context = write_certificate(folder / "ca.pem")
    return StorageServer(CONTENT, tls=context if secure else None, host=host)


def assert_whole(server: StorageServer, partial: Path) -> None:
    pull(server, partial, limits=LIMITS)
    assert partial.read_bytes() == CONTENT


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("kind", ["http", "https", "socks5", "socks5h"])
def test_download_goes_through_every_type_of_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, secure: bool
) -> None:
    context = write_certificate(tmp_path / "ca.pem")
    with StorageServer(CONTENT, tls=context if secure else None) as server:
        with SocksProxy() if kind.startswith("socks") else Proxy(context if kind == "https" else None) as proxy:
            use(monkeypatch, proxy.make_url(scheme=kind))
            assert_whole(server, tmp_path / "part")
            target = f"127.0.0.1:{server.port}"
            expected = target if kind.startswith("socks") else f"CONNECT {target} HTTP/1." if secure else server.url
            assert expected in proxy.lines[0]
        assert not any("proxy-authorization" in request.headers for request in server.requests)


def test_socks5h_lets_the_proxy_resolve_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make_server(tmp_path, secure=True) as server, SocksProxy() as proxy:
        use(monkeypatch, proxy.make_url(scheme="socks5h"))
        server.host = "localhost"
        assert_whole(server, tmp_path / "part")
        assert proxy.lines[0] == f"localhost:{server.port}"


def test_password_in_the_address_is_not_shown_to_a_proxy(tmp_path: Path, proxy: Proxy) -> None:
    with GuardedServer(CONTENT) as server:
        assert_whole(server, tmp_path / "part")
        assert not any("@" in line for line in proxy.lines)


def test_no_proxy_skips_the_proxy(tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with make_server(tmp_path, secure=False) as server:
        assert_whole(server, tmp_path / "part")
    assert proxy.lines == []


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
@pytest.mark.parametrize("written", ["::1", "[::1]"])
def test_no_proxy_accepts_both_forms_of_ipv6(
    tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("no_proxy", written)
    with make_server(tmp_path, secure=False, host="::1") as server:
        assert_whole(server, tmp_path / "part")
    assert proxy.lines == []


@pytest.mark.parametrize(
    ("variable", "address", "secure"),
    [
        ("HTTPS_PROXY", "socks4://ann:s3cret@127.0.0.1:1", True),
        ("ALL_PROXY", "http://ann:s3cret@[::1", False),
        ("http_proxy", "ftp://ann:s3cret@127.0.0.1:1", False),
        ("http_proxy", "http://ann:s3cret@127.0.0.1:many", False),
        ("https_proxy", "socks5://ann:s3cret@", True),
    ],
)
def test_unsupported_proxy_is_refused_at_once_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, address: str, secure: bool
) -> None:
    monkeypatch.setenv(variable, address)
    with make_server(tmp_path, secure=secure) as server:
        with pytest.raises(BadInputError) as caught:
            assert_whole(server, tmp_path / "part")
        assert variable in str(caught.value)
        assert "s3cret" not in f"{caught.value} {caught.value.cause} {caught.value.hint}"
        assert server.requests == []


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
@pytest.mark.parametrize("secure", [False, True])
def test_unreachable_proxy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, secure: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        use(monkeypatch, f"{scheme}://ann:s3cret@localhost:{gone.getsockname()[1]}")
    with make_server(tmp_path, secure=secure) as server, pytest.raises(OfflineError) as caught:
        assert_whole(server, tmp_path / "part")
    assert "localhost can't be reached" in caught.value.message
    assert caught.value.cause == "Connection refused"
    assert "HTTP_PROXY" in str(caught.value.hint)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("kind", [Proxy, SocksProxy])
@pytest.mark.parametrize("secure", [False, True])
def test_proxy_that_refuses_the_password_gives_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Proxy], secure: bool
) -> None:
    with make_server(tmp_path, secure=secure) as server, kind() as proxy:
        use(monkeypatch, proxy.make_url("wrong"))
        with pytest.raises(ProxyRefusedError) as caught:
            assert_whole(server, tmp_path / "part")
        assert "proxy" in str(caught.value).lower()
        assert "wrong" not in str(caught.value)
        assert len(proxy.lines) <= 1
        assert server.requests == []


def test_proxy_with_an_unknown_certificate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    other = write_certificate(tmp_path / "other" / "ca.pem")
    with make_server(tmp_path, secure=True) as server, Proxy(other) as proxy:
        use(monkeypatch, proxy.make_url())
        with pytest.raises(TlsError):
            assert_whole(server, tmp_path / "part")
        assert proxy.lines == []


def test_socks_proxy_that_can_not_connect_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make_server(tmp_path, secure=True) as server:
        pass
    with SocksProxy() as proxy:
        use(monkeypatch, proxy.make_url())
        with pytest.raises(NetworkError, match="proxy did not forward") as caught:
            assert_whole(server, tmp_path / "part")
    assert "Connection refused" in str(caught.value.cause)
