"""The two ways of bytes into a file, and the fallback if the faster one is unavailable."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_hf_models.hub.types import Location
from llm_hf_models.transfer.download_file import download_file
from llm_hf_models.transfer.types import ExpectedFile, TransferLimits
from tests.support.hub_server import HubServer
from tests.support.storage_server import StorageServer
from tests.support.transfers import MB, make_content, pull

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="splices")


class Splices:
    """Counts bytes spliced from sockets and into files; refuses one of them with an error, or allows both."""

    def __init__(self, *, refuse_from_socket: int = 0, refuse_into_file: int = 0) -> None:
        self._refuse_from_socket, self._refuse_into_file = refuse_from_socket, refuse_into_file
        self._real: Callable[..., int] = os.splice
        self.from_sockets = self.into_files = 0

    def __call__(self, source: int, target: int, count: int, **places: Any) -> int:
        into_file = "offset_dst" in places
        refusal = self._refuse_into_file if into_file else self._refuse_from_socket
        if refusal:
            raise OSError(refusal, os.strerror(refusal))
        moved = self._real(source, target, count, **places)
        if into_file:
            self.into_files += moved
        else:
            self.from_sockets += moved
        return moved


def watch_splices(monkeypatch: pytest.MonkeyPatch, **refusals: int) -> Splices:
    splices = Splices(**refusals)
    monkeypatch.setattr(os, "splice", splices)
    return splices


def open_pipes() -> set[str]:
    ends = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            ends.add(str(descriptor.readlink()))
    return {end for end in ends if end.startswith("pipe:")}


def assert_whole(partial: Path) -> None:
    with StorageServer(make_content(6 * MB + 123)) as server:
        pull(server, partial)
        assert partial.read_bytes() == server.content
        assert server.sent <= len(server.content) * 1.02, "nothing is fetched twice"


def test_plain_http_bytes_go_through_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splices, before = watch_splices(monkeypatch), open_pipes()
    assert_whole(tmp_path / "part")
    assert 4 * MB < splices.into_files <= splices.from_sockets
    assert open_pipes() == before


def test_tls_bytes_go_through_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splices = watch_splices(monkeypatch)
    content = make_content(2 * MB)
    with HubServer(tls=True) as hub:
        monkeypatch.setenv("SSL_CERT_FILE", str(hub.ca_file))
        repo = hub.add_repo("owner/model-GGUF", {"m.gguf": content})
        (file,) = repo.files
        link = Location(hub.signed(repo, file), {}, file.size, str(file.sha256), repo.commit)
        download_file(
            lambda: link, ExpectedFile("m.gguf", file.size, sha256=file.sha256), tmp_path / "part",
            limits=TransferLimits(), progress=lambda _: None, stop=threading.Event(),
        )  # fmt: skip
    assert (tmp_path / "part").read_bytes() == content
    assert splices.from_sockets == 0


@pytest.mark.parametrize("word", ["EINVAL", "ENOSYS", "EPERM", "EACCES", "ENOMEM", "EAGAIN"])
def test_bytes_go_through_memory_if_sockets_can_not_be_spliced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    splices = watch_splices(monkeypatch, refuse_from_socket=getattr(errno, word))
    assert_whole(tmp_path / "part")
    assert splices.into_files == 0


def test_bytes_are_read_from_the_pipe_if_the_disk_can_not_splice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splices = watch_splices(monkeypatch, refuse_into_file=errno.EINVAL)
    assert_whole(tmp_path / "part")
    assert splices.from_sockets > 4 * MB


@pytest.mark.parametrize("lacking", ["descriptors", "wide pipes"])
def test_bytes_go_through_memory_without_a_wide_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    splices, before = watch_splices(monkeypatch), open_pipes()
    if lacking == "descriptors":
        monkeypatch.setattr(os, "pipe", refuse)
    else:
        monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert_whole(tmp_path / "part")
    assert splices.from_sockets == 0
    assert open_pipes() == before
