"""Connections to the storage host: redirects, certificates, IPv6; and which host receives the token."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from pathlib import Path

import pytest

from llm_hf_models.errors import InterruptedByUserError, NetworkError, TlsError
from llm_hf_models.hub.types import Location
from llm_hf_models.network.connection import RangeConnection
from llm_hf_models.transfer.download_file import download_file
from llm_hf_models.transfer.types import ExpectedFile, TransferLimits
from tests.support.hub_server import write_certificate
from tests.support.storage_server import COMMIT, Fault, GuardedServer, StorageServer

LIMITS = TransferLimits(connections=2, connect_seconds=2, stall_seconds=1, network_wait_seconds=2, retry_seconds=0.02)
CONTENT = bytes(range(256)) * 4000


def pull(server: StorageServer, partial: Path) -> None:
    download_file(
        server.locate, server.expected, partial, limits=LIMITS, progress=lambda _: None, stop=threading.Event()
    )
    assert partial.read_bytes() == CONTENT


def write_authority(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server's TLS context for 127.0.0.1, and the bundle that verifies it."""
    bundle = folder / "ca.pem"
    return write_certificate(bundle), bundle


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
    context, _ = write_authority(tmp_path)
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
        ("100%25 [a]{b}|c\\d^`", "100%25%20%5Ba%5D%7Bb%7D%7Cc%5Cd%5E%60"),
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
    context, bundle = write_authority(tmp_path)
    for other in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(variable, str(bundle))
    with StorageServer(CONTENT, tls=context) as server:
        server.faults.append(Fault(after=5000))
        pull(server, tmp_path / "part")


def test_missing_certificate_bundle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, _ = write_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with StorageServer(CONTENT, tls=context) as server, pytest.raises(TlsError) as caught:
        pull(server, tmp_path / "part")
    assert "missing.pem" in caught.value.message


def test_redirect_never_leaves_encryption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, bundle = write_authority(tmp_path)
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


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_stop_interrupts_a_body_that_stalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: bool, chunked: bool
) -> None:
    context, bundle = write_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    stop = threading.Event()
    limits = TransferLimits(connections=1, stall_seconds=600)
    with StorageServer(CONTENT, tls=context if secure else None, chunked=chunked) as server:
        server.always = Fault(after=300_000, end="stall")
        with pytest.raises(InterruptedByUserError):
            download_file(
                server.locate, server.expected, tmp_path / "part", limits=limits, stop=stop,
                progress=lambda event: stop.set() if event.done else None,
            )  # fmt: skip


@pytest.mark.parametrize("secure", [False, True])
def test_host_that_closes_each_connection_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: bool) -> None:
    context, bundle = write_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with StorageServer(CONTENT, tls=context if secure else None, keep_alive=False) as server:
        server.faults.append(Fault(after=5000))
        pull(server, tmp_path / "part")


def test_idle_connection_that_the_host_closed_is_replaced() -> None:
    with StorageServer(CONTENT) as server:
        connection = RangeConnection(connect_seconds=2, stall_seconds=2)
        for fault in (Fault(), Fault(refuse=True), Fault()):
            server.faults.append(fault)
        buffer = memoryview(bytearray(100))
        for start in (0, 100):
            response = connection.get(server.url, {}, {"Range": f"bytes={start}-{start + 99}"})
            assert response.read_into(buffer) == 100
            assert buffer == CONTENT[start : start + 100]
        connection.close()
    assert len(server.requests) == 3


def test_url_that_is_invalid_is_not_shown_with_its_signature() -> None:
    connection = RangeConnection(connect_seconds=2, stall_seconds=2)
    with pytest.raises(NetworkError) as caught:
        connection.get(f"http://{'a' * 70}.example/x?sig=s3cret", {"Authorization": "Bearer hf_\nsecret"}, {})
    assert "secret" not in f"{caught.value} {caught.value.cause}".replace("3", "e")
