"""A host or proxy that sends the head of its response byte by byte is cut off at a deadline for the whole head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm_hf_models.errors import EngineLostError, NetworkError, SlowHeaderError, TimedOutError
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.remote_file import RemoteFile
from llm_hf_models.hub.types import Location, SearchFilters
from llm_hf_models.inference.engine import Endpoint
from llm_hf_models.inference.protocol.client import list_served_models
from llm_hf_models.network.connection import RangeConnection
from tests.support.dripping_server import run_dripping_server
from tests.support.hub_server import write_certificate

REPO, FILE, COMMIT = RepoId("acme", "tiny"), RepoFile("tiny.gguf"), "c" * 40
SECONDS = 0.4

CALLS: dict[str, Callable[[Hub], object]] = {
    "details": lambda hub: hub.fetch_details(REPO),
    "search": lambda hub: hub.search("tiny", SearchFilters()),
    "scans": lambda hub: hub.fetch_scans(REPO, COMMIT, ["tiny.gguf"]),
    "card": lambda hub: hub.fetch_card(REPO, "main"),
    "location": lambda hub: hub.locate(REPO, FILE, COMMIT),
    "account": lambda hub: hub.whoami(),
}


@contextmanager
def drip(scheme: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield a URL whose host, or the proxy to which, sends the head of its response byte by byte."""
    if scheme == "proxy":
        with run_dripping_server() as address:
            monkeypatch.setenv("https_proxy", f"http://{address}")
            yield "https://hub.example"
    else:
        bundle = folder / "ca.pem"
        monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
        context = write_certificate(bundle)
        with run_dripping_server(context if scheme == "https" else None) as address:
            yield f"{scheme}://{address}"


@pytest.mark.parametrize("call", CALLS)
def test_hub_must_send_the_head_of_its_response_in_time(call: str) -> None:
    with run_dripping_server() as address, pytest.raises(TimedOutError, match=r"did not respond within 0\.4 s"):
        CALLS[call](Hub(f"http://{address}", token="hf_x", timeout=SECONDS))


@pytest.mark.parametrize("scheme", ["https", "proxy"])
def test_deadline_holds_with_tls_and_through_a_proxy(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import close_session

    close_session()  # its client would keep the certificates and proxies of other tests
    with drip(scheme, tmp_path, monkeypatch) as url, pytest.raises(NetworkError):
        Hub(url, timeout=SECONDS).fetch_details(REPO)
    close_session()


@pytest.mark.parametrize("scheme", ["http", "https", "proxy"])
def test_storage_host_must_send_the_head_in_time(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = RangeConnection(connect_seconds=5, stall_seconds=SECONDS)
    with drip(scheme, tmp_path, monkeypatch) as url, pytest.raises(NetworkError):
        connection.get(f"{url}/file", {}, {"Range": "bytes=0-9"})
    connection.close()


@pytest.mark.parametrize("dripping", ["storage", "hub"])
def test_reading_a_header_ends_in_time_while_a_head_drips(dripping: str) -> None:
    with run_dripping_server() as address:
        url = f"http://{address}"

        def locate() -> Location:
            if dripping == "hub":
                return Hub(url, timeout=20).locate(REPO, FILE, COMMIT)
            return Location(f"{url}/file", {}, 1000, "a" * 64, COMMIT)

        with RemoteFile(locate, timeout=20, total_seconds=SECONDS) as file, pytest.raises(SlowHeaderError):
            file.read(4)


def test_server_that_lists_its_models_byte_by_byte_is_given_up() -> None:
    with run_dripping_server() as address, pytest.raises(EngineLostError):
        list_served_models(Endpoint(f"http://{address}"), seconds=SECONDS)
