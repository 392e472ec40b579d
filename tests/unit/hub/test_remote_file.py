from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_hf_models.errors import (
    AccessError,
    FileChangedError,
    FileNotFoundInRepoError,
    HubUnavailableError,
    NetworkError,
    RateLimitedError,
    SlowHeaderError,
    TimedOutError,
    TlsError,
)
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.remote_file import FIRST_BLOCK_BYTES, RemoteFile
from llm_hf_models.hub.types import Location
from tests.support.hub_server import (
    Compress,
    FlipBit,
    Headers,
    HubServer,
    IgnoreRange,
    LieAboutRange,
    Page,
    Reset,
    Stall,
    Status,
    Throttle,
    Truncate,
)

REPO, NAME = RepoId("acme", "tiny-GGUF"), RepoFile("tiny.gguf")
CONTENT = random.Random(1).randbytes(3_000_000)
TOKEN = "hf_abcdefghijklmnop"


@pytest.fixture(scope="module")
def shared() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_repo(str(REPO), {NAME.path: CONTENT, "README.md": "small", "empty.gguf": b""})
        server.add_token(TOKEN)
        yield server


@pytest.fixture
def server(shared: HubServer) -> HubServer:
    shared.clear()
    shared.forget_requests()
    return shared


def open_remote(server: HubServer, file: RepoFile = NAME, *, timeout: float = 10) -> RemoteFile:
    hub = Hub(server.endpoint, token=TOKEN)
    return RemoteFile(lambda: hub.locate(REPO, file, "main"), timeout=timeout)


def test_remote_file_reads_forward_to_its_end(server: HubServer) -> None:
    with open_remote(server) as file:
        parts = [file.read(4), file.read(0), file.read(1_000_000), file.read(5_000_000), file.read(10)]
    assert parts == [CONTENT[:4], b"", CONTENT[4:1_000_004], CONTENT[1_000_004:], b""]
    assert server.count(side="hub") == 1
    assert server.sent(side="storage") == len(CONTENT)


def test_remote_file_fetches_at_most_one_block_in_advance(server: HubServer) -> None:
    with open_remote(server) as file:
        file.read(4)
        assert server.sent(side="storage") == file.fetched_bytes == FIRST_BLOCK_BYTES
        file.read(FIRST_BLOCK_BYTES - 4)
        assert server.sent(side="storage") == FIRST_BLOCK_BYTES
        file.read(1)
        assert server.sent(side="storage") == 3 * FIRST_BLOCK_BYTES


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 900_000), max_size=8))
def test_any_reads_return_the_bytes_of_the_file(shared: HubServer, sizes: list[int]) -> None:
    shared.clear()
    with open_remote(shared) as file:
        read = b"".join(file.read(size) for size in sizes)
        assert read == CONTENT[: sum(sizes)]
        assert file.fetched_bytes <= 3 * len(read) + FIRST_BLOCK_BYTES


def test_dripping_host_times_out(server: HubServer) -> None:
    server.fault(Throttle(bytes_per_second=100_000), on=NAME.path, side="storage", times=None)
    hub = Hub(server.endpoint, token=TOKEN)
    with (
        RemoteFile(lambda: hub.locate(REPO, NAME, "main"), timeout=10, total_seconds=0.5) as file,
        pytest.raises(SlowHeaderError, match=r"longer than 0\.5 s"),
    ):
        file.read(1_000_000)
    assert 0 < server.sent(side="storage") < FIRST_BLOCK_BYTES


def test_no_request_is_sent_before_the_first_read(server: HubServer) -> None:
    with open_remote(server):
        assert server.count() == 0


def test_token_never_reaches_the_storage_host(server: HubServer) -> None:
    with open_remote(server) as file:
        file.read(1_000_000)
    assert server.matching(side="storage")
    assert not [request for request in server.matching(side="storage") if "authorization" in request.headers]


def test_small_file_comes_from_the_hub_itself(server: HubServer) -> None:
    with open_remote(server, RepoFile("README.md")) as file:
        assert file.read(100) == b"small"
    assert all(request.headers["authorization"] == f"Bearer {TOKEN}" for request in server.requests)


def test_empty_file_is_at_its_end(server: HubServer) -> None:
    with open_remote(server, RepoFile("empty.gguf")) as file:
        assert file.read(4) == b""


def test_expired_link_is_renewed_once(server: HubServer) -> None:
    with open_remote(server) as file:
        start = file.read(10)
        server.expire_links()
        assert start + file.read(1_000_000) == CONTENT[:1_000_010]
    assert server.count(side="hub", method="HEAD") == 2


def test_link_that_is_refused_again_is_given_up(server: HubServer) -> None:
    server.fault(Status(403), side="storage", times=None)
    with open_remote(server) as file, pytest.raises(AccessError, match="including fresh ones"):
        file.read(10)
    assert server.count(side="storage") == 2


def test_file_changed_during_the_read_is_refused(shared: HubServer) -> None:
    shared.clear()
    repo = shared.add_repo("acme/moving", {"x.gguf": CONTENT})
    hub = Hub(shared.endpoint)
    with RemoteFile(lambda: hub.locate(RepoId("acme", "moving"), RepoFile("x.gguf"), "main")) as file:
        file.read(10)
        shared.change_file(repo, "x.gguf", CONTENT[::-1])
        with pytest.raises(FileChangedError):
            file.read(1_000_000)


def test_file_changed_before_the_link_was_renewed_is_refused(shared: HubServer) -> None:
    shared.clear()
    repo = shared.add_repo("acme/moving", {"x.gguf": CONTENT})
    hub = Hub(shared.endpoint)
    with RemoteFile(lambda: hub.locate(RepoId("acme", "moving"), RepoFile("x.gguf"), repo.commit)) as file:
        file.read(10)
        shared.change_file(repo, "x.gguf", CONTENT[::-1])
        shared.expire_links()
        with pytest.raises(FileChangedError, match="changed on the Hub"):
            file.read(1_000_000)


@pytest.mark.parametrize(
    "fault",
    [
        *(Headers({name: ""}) for name in ("ETag", "Content-Range", "Content-Length")),
        *(Headers({"ETag": etag}) for etag in ('"another"', '"{n}"', 'W/"{n}"')),
        Compress(),
        Compress(only_claim=True),
    ],
    ids=str,
)
def test_odd_headers_are_no_change_of_the_file(server: HubServer, fault: Headers | Compress) -> None:
    with open_remote(server) as file:
        start = file.read(10)
        server.fault(fault, side="storage", times=None)
        assert start + file.read(700_000) + file.read(1_500_000) == CONTENT[:2_200_010]


def test_reader_needs_no_record_of_the_hub(server: HubServer) -> None:
    names = ("X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size", "ETag", "Content-Length")
    server.fault(Headers(dict.fromkeys(names, "")), side="hub", times=None)
    hub = Hub(server.endpoint, token=TOKEN)
    with RemoteFile(lambda: hub.locate(REPO, NAME, "main"), size=len(CONTENT)) as file:
        assert file.read(1_000_000) == CONTENT[:1_000_000]
    with (
        RemoteFile(lambda: Location(f"{server.endpoint}/x", {})) as file,
        pytest.raises(HubUnavailableError, match="size of the file is unknown"),
    ):
        file.read(1)


def test_server_without_ranges_returns_the_right_bytes(server: HubServer) -> None:
    server.fault(IgnoreRange(), side="storage", times=None)
    with open_remote(server) as file:
        assert file.read(10) + file.read(1_000_000) == CONTENT[:1_000_010]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (LieAboutRange(), HubUnavailableError),
        (LieAboutRange(-1), HubUnavailableError),
        (Headers({"Content-Range": "bytes */5"}), HubUnavailableError),
        (Page(), HubUnavailableError),
        (Status(500), HubUnavailableError),
        (Status(404), FileNotFoundInRepoError),
        (Status(204, body=b""), HubUnavailableError),
        (Status(429, {"Retry-After": "3"}), RateLimitedError),
        (Reset(), NetworkError),
        (Reset(after=1000), NetworkError),
        (Truncate(after=1000), NetworkError),
        (Stall(), TimedOutError),
        (Stall(after=1000), TimedOutError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_every_network_fault_is_one_of_our_errors(server: HubServer, fault: object, error: type[Exception]) -> None:
    with open_remote(server, timeout=0.5) as file:
        assert file.read(10) == CONTENT[:10]
        # Twice, because a request on an idle connection is sent again if the connection is reset.
        server.fault(fault, side="storage", times=2)  # type: ignore[arg-type]
        with pytest.raises(error):
            file.read(1_000_000)


def test_reader_continues_after_a_transient_error(server: HubServer) -> None:
    with open_remote(server) as file:
        start = file.read(10)
        server.fault(Reset(after=1000), side="storage")
        with pytest.raises(NetworkError):
            file.read(1_000_000)
        assert start + file.read(1_000_000) == CONTENT[:1_000_010]


def test_flipped_bit_is_left_to_the_parser(server: HubServer) -> None:
    server.fault(FlipBit(at=5), side="storage")
    with open_remote(server) as file:
        assert file.read(10) == CONTENT[:5] + bytes([CONTENT[5] ^ 1]) + CONTENT[6:10]


def test_unknown_certificate_is_refused() -> None:
    with HubServer(tls=True) as server:
        location = Location(f"{server.storage_endpoint}/x", {}, 100, "a" * 64, "b" * 40)
        with RemoteFile(lambda: location) as file, pytest.raises(TlsError):
            file.read(10)
