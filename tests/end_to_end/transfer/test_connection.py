"""Connections to the storage host that fail only after some seconds."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from llm_hf_models.errors import HubUnavailableError, NetworkError
from llm_hf_models.transfer.download_file import download_file
from llm_hf_models.transfer.types import TransferLimits
from tests.support.storage_server import StorageServer

LIMITS = TransferLimits(connections=2, connect_seconds=2, stall_seconds=1, network_wait_seconds=2, retry_seconds=0.02)
CONTENT = bytes(range(256)) * 4000


def pull(server: StorageServer, partial: Path) -> None:
    download_file(
        server.locate, server.expected, partial, limits=LIMITS, progress=lambda _: None, stop=threading.Event()
    )
    assert partial.read_bytes() == CONTENT


def test_endless_redirects_are_an_error(tmp_path: Path) -> None:
    with StorageServer(CONTENT) as hub:
        hub.redirect_to = hub.url
        with pytest.raises(HubUnavailableError):
            pull(hub, tmp_path / "part")


def test_invalid_host_name_gives_an_error_and_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://.proxy:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    with StorageServer(CONTENT) as server, pytest.raises(NetworkError):
        pull(server, tmp_path / "part")
