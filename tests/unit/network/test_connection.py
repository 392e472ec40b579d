"""Connections to the storage host: redirects, certificates, proxies, IPv6; and which host receives the token."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from llm_hf_models.errors import BadInputError, OfflineError, ProxyRefusedError, TlsError
from llm_hf_models.hub.types import Location
from llm_hf_models.transfer.download_file import download_file
from llm_hf_models.transfer.types import ExpectedFile, TransferLimits
from tests.support.proxy import Proxy
from tests.support.storage_server import COMMIT, Fault, StorageServer

LIMITS = TransferLimits(connections=2, connect_seconds=2, stall_seconds=1, network_wait_seconds=2, retry_seconds=0.02)
CONTENT = bytes(range(256)) * 4000


def pull(server: StorageServer, partial: Path) -> None:
    download_file(
        server.locate, server.expected, partial, limits=LIMITS, progress=lambda _: None, stop=threading.Event()
    )
    assert partial.read_bytes() == CONTENT


def make_authority(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server's TLS context for 127.0.0.1, and the bundle that verifies it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    bundle, private = folder / "ca.pem", folder / "key.pem"
    bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle, private)
    return context, bundle


def test_redirect_to_another_host_is_followed_without_the_token(tmp_path: Path) -> None:
    with StorageServer(CONTENT, token="hf_secret") as hub, StorageServer(CONTENT) as storage:
        hub.redirect_to = storage.url
        pull(hub, tmp_path / "part")
        assert all(request.headers["authorization"] == "Bearer hf_secret" for request in hub.requests)
        assert storage.requests
        assert not any("authorization" in request.headers for request in storage.requests)


def test_token_is_sent_on_its_own_host(tmp_path: Path) -> None:
    with StorageServer(CONTENT, token="hf_secret") as hub:
        pull(hub, tmp_path / "part")
        assert all(request.headers["authorization"] == "Bearer hf_secret" for request in hub.requests)


class GuardedServer(StorageServer):
    """A mirror whose address contains user and password."""

    @property
    def url(self) -> str:
        return super().url.replace("://", "://ann:s%2Fcret@")


def test_password_in_the_address_is_used_only_there(tmp_path: Path) -> None:
    with GuardedServer(CONTENT, token="hf_secret") as hub, StorageServer(CONTENT) as storage:
        pull(hub, tmp_path / "part")
        hub.redirect_to = storage.url
        pull(hub, tmp_path / "another part")
        basic = "Basic " + base64.b64encode(b"ann:s/cret").decode()
        assert {request.headers["authorization"] for request in hub.requests} == {basic}
        assert storage.requests
        assert not any("authorization" in request.headers for request in storage.requests)


def test_unknown_certificate_is_refused_and_not_retried(tmp_path: Path) -> None:
    context, _ = make_authority(tmp_path)
    with StorageServer(CONTENT, tls=context) as server:
        with pytest.raises(TlsError) as caught:
            pull(server, tmp_path / "part")
        assert "SSL_CERT_FILE" in (caught.value.hint or "")
        assert server.requests == []


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("a name", "a%20name"),
        ("a\tb", "a%09b"),
        ("caf\xc3\xa9", "caf%C3%A9"),
        ("100%25 [a]{b}|c\\d^`", "100%25%20[a]%7Bb%7D%7Cc%5Cd%5E%60"),
    ],
)
def test_redirect_to_an_unescaped_address_is_followed(tmp_path: Path, name: str, escaped: str) -> None:
    with StorageServer(CONTENT) as server, StorageServer(CONTENT) as first:
        first.redirect_to = server.url.replace("?", f"?name={name}&")
        pull(first, tmp_path / "part")
        assert f"?name={escaped}&" in server.requests[0].line


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_from_the_environment_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    context, bundle = make_authority(tmp_path)
    for other in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(variable, str(bundle))
    with StorageServer(CONTENT, tls=context) as server:
        server.faults.append(Fault(after=5000))
        pull(server, tmp_path / "part")


def test_missing_certificate_bundle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, _ = make_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with StorageServer(CONTENT, tls=context) as server, pytest.raises(TlsError) as caught:
        pull(server, tmp_path / "part")
    assert "missing.pem" in caught.value.message


def test_redirect_never_leaves_encryption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, bundle = make_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with StorageServer(CONTENT, tls=context) as server, StorageServer(CONTENT) as plain:
        server.redirect_to = plain.url
        with pytest.raises(TlsError):
            pull(server, tmp_path / "part")
        assert plain.requests == []


def test_host_without_tls_is_an_error_at_once(tmp_path: Path) -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.recv(65536)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/file"
        with pytest.raises(TlsError):
            download_file(
                lambda: Location(url, {}, 5, "", COMMIT),
                ExpectedFile("model.gguf", 5, sha256="0" * 64),
                tmp_path / "part",
                limits=LIMITS,
                progress=lambda _: None,
                stop=threading.Event(),
            )
        thread.join()


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_ipv6_works(tmp_path: Path) -> None:
    try:
        server = StorageServer(CONTENT, host="::1")
    except OSError:
        pytest.skip("needs an IPv6 loopback")
    with server:
        pull(server, tmp_path / "part")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    proxy = Proxy()
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, f"http://ann:s%2Fcret@127.0.0.1:{proxy.port}")
    yield proxy
    proxy.close()


def test_proxy_with_a_password_is_used(tmp_path: Path, proxy: Proxy) -> None:
    with StorageServer(CONTENT) as server:
        pull(server, tmp_path / "part")
        assert proxy.lines[0] == f"GET {server.url} HTTP/1.1"


def test_password_in_the_address_is_not_shown_to_a_proxy(tmp_path: Path, proxy: Proxy) -> None:
    with GuardedServer(CONTENT) as server:
        pull(server, tmp_path / "part")
        assert not any("@" in line for line in proxy.lines)


def test_https_is_tunnelled_through_a_proxy(tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    context, bundle = make_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with StorageServer(CONTENT, tls=context) as server:
        pull(server, tmp_path / "part")
        assert proxy.lines[0].startswith(f"CONNECT 127.0.0.1:{server.port}")
        assert not any("proxy-authorization" in request.headers for request in server.requests)


def test_no_proxy_skips_the_proxy(tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with StorageServer(CONTENT) as server:
        pull(server, tmp_path / "part")
    assert proxy.lines == []


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
@pytest.mark.parametrize("written", ["::1", "[::1]"])
def test_no_proxy_accepts_both_forms_of_ipv6(
    tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("no_proxy", written)
    with StorageServer(CONTENT, host="::1") as server:
        pull(server, tmp_path / "part")
    assert proxy.lines == []


@pytest.mark.parametrize(
    ("variable", "address", "secure"),
    [
        ("HTTPS_PROXY", "https://ann:s3cret@127.0.0.1:1", True),
        ("https_proxy", "socks5://ann:s3cret@127.0.0.1:1", True),
        ("ALL_PROXY", "socks5h://ann:s3cret@127.0.0.1:1", False),
        ("http_proxy", "ftp://ann:s3cret@127.0.0.1:1", False),
        ("http_proxy", "http://ann:s3cret@127.0.0.1:many", False),
    ],
)
def test_unsupported_proxy_is_refused_at_once_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, address: str, secure: bool
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv(variable, address)
    context, bundle = make_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with StorageServer(CONTENT, tls=context if secure else None) as server:
        with pytest.raises(BadInputError) as caught:
            pull(server, tmp_path / "part")
        assert variable in str(caught.value)
        assert "s3cret" not in f"{caught.value} {caught.value.cause} {caught.value.hint}"
        assert server.requests == []


def test_unreachable_proxy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    limits = TransferLimits(connections=1, retry_seconds=0.01, network_wait_seconds=0.05)
    with StorageServer(CONTENT) as server, pytest.raises(OfflineError) as caught:
        download_file(server.locate, server.expected, tmp_path / "part", limits=limits, progress=lambda _: None,
              stop=threading.Event())  # fmt: skip
    assert "HTTP_PROXY" in str(caught.value.hint)


@pytest.mark.parametrize("secure", [False, True])
def test_proxy_that_refuses_the_password_gives_a_clear_error(
    tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, f"http://ann:wrong@127.0.0.1:{proxy.port}")
    context, bundle = make_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with StorageServer(CONTENT, tls=context if secure else None) as server:
        with pytest.raises(ProxyRefusedError) as caught:
            pull(server, tmp_path / "part")
        assert "proxy" in str(caught.value).lower()
        assert "wrong" not in str(caught.value)
        assert len(proxy.lines) == 1
