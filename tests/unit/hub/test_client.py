from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from huggingface_hub import close_session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_hf_models.errors import (
    AccessError,
    BadInputError,
    FileNotFoundInRepoError,
    GatedRepoError,
    HubUnavailableError,
    NetworkError,
    NotModifiedError,
    OfflineError,
    RateLimitedError,
    RepoNotFoundError,
    RevisionNotFoundError,
    TimedOutError,
    TlsError,
    TokenInvalidError,
    TokenMissingError,
)
from llm_hf_models.hub import responses
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import RepoFile, RepoId
from llm_hf_models.hub.types import SearchFilters
from tests.conftest import Home
from tests.support import hub_repos
from tests.support.hub_repos import CARD, FILES, REPO, WEIGHTS, make_client
from tests.support.hub_server import Delay, Headers, HubServer, Page, Reset, Stall, Status
from tests.support.proxies import SocksProxy

server = hub_repos.server

TOKEN = "hf_abcdefghijklmnop"


# Results


def test_search_takes_one_request_and_returns_complete_rows(server: HubServer) -> None:
    (row,) = make_client(server).search("tiny", SearchFilters())
    assert (row.id, row.author, row.task, row.license) == (str(REPO), "acme", "text-generation", "mit")
    assert (row.parameters, row.architecture, row.context_length) == (135_000_000, "llama", 8192)
    assert (row.downloads, row.likes, row.gated, row.private) == (7, 2, False, False)
    assert row.size == len(WEIGHTS) + 5 + len(CARD)
    assert row.created == datetime.fromtimestamp(1_600_000_000, timezone.utc)
    assert row.updated == datetime.fromtimestamp(1_700_000_000, timezone.utc)
    assert "en" in row.tags
    assert server.count() == 1


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (SearchFilters(license="MIT", language="en", task="text-generation", author="acme"), True),
        (SearchFilters(license="apache-2.0"), False),
        (SearchFilters(language="fr"), False),
        (SearchFilters(task="translation"), False),
        (SearchFilters(author="other"), False),
        (SearchFilters(library="mlx"), False),
        (SearchFilters(library=None), True),
        (SearchFilters(tags=("nothing",)), False),
        (SearchFilters(min_params=100_000_000, max_params=200_000_000), True),
        (SearchFilters(min_params=200_000_000), False),
        (SearchFilters(max_params=100_000_000), False),
        (SearchFilters(gated=True), False),
        (SearchFilters(gated=False), True),
        (SearchFilters(base_model="acme/tiny"), True),
        (SearchFilters(base_model="acme/huge"), False),
    ],
)
def test_every_filter_reaches_the_hub(server: HubServer, filters: SearchFilters, found: bool) -> None:
    assert bool(make_client(server).search("", filters)) == found


def test_hub_sorts_and_limits_a_search(server: HubServer) -> None:
    for number in range(5):
        server.add_repo(f"acme/other-{number}", {"x.gguf": b"GGUF"}, downloads=number * 100, likes=-number)
    rows = make_client(server).search("", SearchFilters(sort="downloads", limit=2))
    assert [row.id for row in rows] == ["acme/other-4", "acme/other-3"]
    assert make_client(server).search("", SearchFilters(sort="likes", limit=1))[0].id == str(REPO)
    assert server.count() == 2


def test_details_take_one_request_for_sizes_digests_and_scans(server: HubServer) -> None:
    details = make_client(server).fetch_details(REPO)
    served = server.list_repos()[0]
    assert details.commit == served.commit
    assert [(file.path, file.size, file.sha256, file.git_sha1) for file in details.files] == [
        (file.path, file.size, file.sha256, file.git_sha1) for file in served.files
    ]
    assert details.get_file(RepoFile("tiny-Q4_K_M.gguf")).scan == "unsafe"
    assert (details.scans_done, details.files_with_issues) == (True, (("tiny-Q4_K_M.gguf", "unsafe"),))
    assert (details.chat_template, details.base_models, details.library) == (True, ("acme/tiny",), "gguf")
    assert server.count() == 1


def test_repo_without_scans_says_so(server: HubServer) -> None:
    server.add_repo("acme/new", {"x.gguf": b"GGUF"})
    details = make_client(server).fetch_details(RepoId("acme", "new"))
    assert (details.scans_done, details.files_with_issues, details.chat_template) == (None, (), None)


def test_revision_is_resolved_to_its_commit(server: HubServer) -> None:
    old = server.list_repos()[0]
    server.change_repo(old, revisions=("main", "v1", "refs/pr/2"))
    new = server.add_repo(str(REPO), {"README.md": "new"})
    hub = make_client(server)
    assert hub.fetch_details(REPO).commit == new.commit
    assert {hub.fetch_details(REPO, name).commit for name in ("v1", "refs/pr/2", old.commit)} == {old.commit}


def test_missing_file_error_suggests_similar_names(server: HubServer) -> None:
    with pytest.raises(FileNotFoundInRepoError) as caught:
        make_client(server).fetch_details(REPO).get_file(RepoFile("tiny-Q4_K_S.gguf"))
    assert "tiny-Q4_K_M.gguf" in (caught.value.hint or "")


def test_conversions_are_gguf_repos_sorted_by_downloads(server: HubServer) -> None:
    base = RepoId("acme", "tiny")
    server.add_repo("b/tiny-GGUF", {"x.gguf": b"GGUF"}, downloads=900, base_models=("acme/tiny",))
    server.add_repo("b/tiny-tuned", {"x.safetensors": b"x"}, downloads=9000, base_models=("acme/tiny",))
    assert [row.id for row in make_client(server).find_conversions(base)] == ["b/tiny-GGUF", str(REPO)]


def test_card_has_no_front_matter(server: HubServer) -> None:
    assert make_client(server).fetch_card(REPO, "main") == "# Tiny\n\nSmall.\n"


def test_repo_without_a_card_has_an_empty_one(server: HubServer) -> None:
    server.add_repo("acme/bare", {"x.gguf": b"GGUF"})
    assert make_client(server).fetch_card(RepoId("acme", "bare"), "main") == ""


def test_huge_card_is_cut_at_a_megabyte(server: HubServer) -> None:
    server.add_repo("acme/long", {"README.md": b"x" * 5_000_000}, lfs=["README.md"])
    assert len(make_client(server).fetch_card(RepoId("acme", "long"), "main")) == 1_000_000


def test_whoami_returns_name_organisations_and_scopes(server: HubServer) -> None:
    server.add_token(TOKEN, name="ann", kind="fineGrained", scopes=("repo.content.read",), organisations=("acme",))
    account = make_client(server, TOKEN).whoami()
    assert (account.name, account.organisations, account.token_kind) == ("ann", ("acme",), "fineGrained")
    assert account.scopes == ("ann: repo.content.read",)


def test_unchanged_response_is_not_sent_again(server: HubServer) -> None:
    hub = make_client(server)
    hub.search("tiny", SearchFilters())
    search_etag = hub.last_etag
    hub.fetch_details(REPO)
    details_etag = hub.last_etag
    with pytest.raises(NotModifiedError):
        hub.search("tiny", SearchFilters(), known_etag=search_etag)
    with pytest.raises(NotModifiedError):
        hub.fetch_details(REPO, known_etag=details_etag)
    server.add_repo(str(REPO), {"README.md": "changed"})
    assert hub.fetch_details(REPO, known_etag=details_etag).commit == server.list_repos()[0].commit


# Where the bytes are


def test_large_file_is_located_on_the_storage_host_in_one_request(server: HubServer) -> None:
    server.add_token(TOKEN)
    served = server.list_repos()[0]
    location = make_client(server, TOKEN).locate(REPO, RepoFile("sub dir/tiny #2.gguf"), served.commit)
    file = served.find_file("sub dir/tiny #2.gguf")
    assert file is not None
    assert location.url.startswith(server.storage_endpoint)
    assert (location.size, location.etag, location.commit) == (5, file.sha256, served.commit)
    assert "authorization" not in {name.lower() for name in location.headers}
    assert TOKEN not in repr(location)
    assert (server.count(side="hub"), server.count(side="storage")) == (1, 0)


def test_small_file_is_located_on_the_hub_with_the_token(server: HubServer) -> None:
    server.add_token(TOKEN)
    location = make_client(server, TOKEN).locate(REPO, RepoFile("README.md"), "main")
    assert location.url.startswith(server.endpoint)
    assert {name.lower(): value for name, value in location.headers.items()}["authorization"] == f"Bearer {TOKEN}"
    assert (location.size, location.etag) == (len(CARD), server.list_repos()[0].files[0].git_sha1)


def test_token_goes_only_to_the_host_of_the_hub(server: HubServer) -> None:
    server.add_token(TOKEN)
    with HubServer() as other:
        other.add_repo(str(REPO), FILES)
        for path in ("/api/models", "/resolve/main/README.md", "/resolve/main/tiny"):
            server.fault(Status(302, {"Location": other.endpoint + "/api/models"}), on=path, times=None)
        hub = make_client(server, TOKEN)
        hub.search("tiny", SearchFilters())
        hub.fetch_card(REPO, "main")
        location = hub.locate(REPO, RepoFile("tiny-Q4_K_M.gguf"), "main")
        assert (location.headers.get("authorization"), location.etag) == (None, None)
        assert other.count() == 3
        assert not [request for request in other.requests if "authorization" in request.headers]
        assert all(request.headers["authorization"] == f"Bearer {TOKEN}" for request in server.requests)


@pytest.mark.parametrize("target", ["http://[::1/", "http://127.0.0.1:99999/", "ftp://127.0.0.1/"])
def test_redirect_to_an_invalid_address_is_an_error_of_the_hub(server: HubServer, target: str) -> None:
    server.fault(Status(302, {"Location": target}), on="/resolve/", times=None)
    with pytest.raises(HubUnavailableError):
        make_client(server).locate(REPO, RepoFile("tiny-Q4_K_M.gguf"), "main")


def test_request_redirected_to_an_invalid_address_is_an_error_of_the_hub(server: HubServer) -> None:
    server.fault(Status(302, {"Location": "http://[::1/"}), on="/api/models", times=None)
    with pytest.raises(HubUnavailableError, match="a link that is not a web address"):
        make_client(server).fetch_details(REPO)


def test_no_token_is_sent_if_none_is_given(server: HubServer, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (home.hf_home / "token").write_text(TOKEN)
    make_client(server).fetch_details(REPO)
    assert "authorization" not in server.requests[0].headers
    assert server.requests[0].headers["user-agent"].startswith("llm-hf-models/")


def test_response_for_another_commit_is_refused(server: HubServer) -> None:
    server.fault(Headers({"X-Repo-Commit": "f" * 40}), method="HEAD")
    with pytest.raises(HubUnavailableError, match="returned commit ffffffffffff"):
        make_client(server).locate(REPO, RepoFile("tiny-Q4_K_M.gguf"), server.list_repos()[0].commit)


# Refusals


def test_unknown_repo_is_reported_with_and_without_a_token(server: HubServer) -> None:
    server.add_token(TOKEN)
    for token, hint in ((None, "llm hf login"), (TOKEN, "llm hf whoami")):
        with pytest.raises(RepoNotFoundError, match="acme/none") as caught:
            make_client(server, token).fetch_details(RepoId("acme", "none"))
        assert hint in (caught.value.hint or "")


def test_unknown_revision_is_reported(server: HubServer) -> None:
    with pytest.raises(RevisionNotFoundError, match="no revision 'v9'"):
        make_client(server).fetch_details(REPO, "v9")


def test_unknown_file_is_reported(server: HubServer) -> None:
    with pytest.raises(FileNotFoundInRepoError, match=r"no file 'none\.gguf'"):
        make_client(server).locate(REPO, RepoFile("none.gguf"), "main")


def test_private_repo_is_invisible_without_access(server: HubServer) -> None:
    server.add_repo("acme/own", {"x.gguf": b"GGUF"}, private=True)
    server.add_token(TOKEN, access=["acme/own"])
    server.add_token("hf_other")
    for token in (None, "hf_other"):
        with pytest.raises(RepoNotFoundError, match=r"has no (public )?repo"):
            make_client(server, token).fetch_details(RepoId("acme", "own"))
    assert make_client(server, TOKEN).fetch_details(RepoId("acme", "own")).private


@pytest.mark.parametrize("file", ["README.md", "x.gguf"])
def test_gated_repo_error_names_the_page_for_access(server: HubServer, file: str) -> None:
    gated = RepoId("acme", "gated")
    server.add_repo(str(gated), {"x.gguf": b"GGUF", "README.md": "x"}, gated="manual")
    server.add_token(TOKEN, access=[str(gated)])
    server.add_token("hf_other")
    with pytest.raises(TokenMissingError) as missing:
        make_client(server).locate(gated, RepoFile(file), "main")
    with pytest.raises(GatedRepoError) as refused:
        make_client(server, "hf_other").locate(gated, RepoFile(file), "main")
    assert (missing.value.hint, f"{server.endpoint}/{gated}" in str(missing.value)) == ("llm hf login", True)
    assert f"{server.endpoint}/{gated}" in (refused.value.hint or "")
    assert make_client(server, TOKEN).locate(gated, RepoFile(file), "main").size > 0
    assert make_client(server).fetch_details(gated).gated == "manual"


def test_bad_token_is_refused_and_never_shown(server: HubServer) -> None:
    hub = make_client(server, TOKEN)
    calls: list[Callable[[], object]] = [
        hub.whoami,
        lambda: hub.fetch_details(REPO),
        lambda: hub.search("tiny", SearchFilters()),
        lambda: hub.locate(REPO, RepoFile("README.md"), "main"),
    ]
    for call in calls:
        with pytest.raises(TokenInvalidError) as caught:
            call()
        assert TOKEN not in f"{caught.value!r} {caught.value}"
    assert TOKEN not in repr(hub)


@pytest.mark.parametrize("token", ["hf_line\nbreak", "hf_größe", "hf with space"])
def test_token_that_no_header_can_carry_is_not_sent(server: HubServer, token: str) -> None:
    with pytest.raises(TokenInvalidError) as caught:
        make_client(server, token).whoami()
    assert token not in str(caught.value)
    assert server.count() == 0


def test_whoami_without_a_token_asks_for_one(server: HubServer) -> None:
    with pytest.raises(TokenMissingError):
        make_client(server).whoami()
    assert server.count() == 0


def test_token_without_a_permission_is_reported_with_a_hint(server: HubServer) -> None:
    server.add_token(TOKEN)
    server.fault(Status(403, {"X-Error-Message": "your token lacks read access"}))
    with pytest.raises(AccessError) as caught:
        make_client(server, TOKEN).fetch_details(REPO)
    assert caught.value.cause == "your token lacks read access"
    assert "/settings/tokens" in (caught.value.hint or "")


# Network errors


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "7"}, 7),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": '"api";r=3;t=55'}, None),
        ({}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_status_429_reports_its_wait_without_waiting(
    server: HubServer, headers: dict[str, str], wait: float | None
) -> None:
    server.fault(Status(429, headers), times=None)
    with pytest.raises(RateLimitedError) as caught:
        make_client(server).fetch_details(REPO)
    assert caught.value.retry_after == wait
    assert server.count() == 1


def test_retry_date_is_converted_to_seconds(server: HubServer) -> None:
    then = datetime.now(timezone.utc) + timedelta(seconds=90)
    server.fault(Status(429, {"Retry-After": format_datetime(then, usegmt=True)}))
    with pytest.raises(RateLimitedError) as caught:
        make_client(server).fetch_details(REPO)
    assert 60 < (caught.value.retry_after or 0) <= 90


def test_status_503_reports_its_wait(server: HubServer) -> None:
    server.fault(Status(503, {"Retry-After": "6"}))
    with pytest.raises(RateLimitedError) as caught:
        make_client(server).fetch_details(REPO)
    assert caught.value.retry_after == 6


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_server_error_is_a_hub_error(server: HubServer, status: int) -> None:
    server.fault(Status(status))
    with pytest.raises(HubUnavailableError, match=f"HTTP {status}"):
        make_client(server).search("tiny", SearchFilters())


CALLS: list[Callable[[Hub], object]] = [
    lambda hub: hub.search("tiny", SearchFilters()),
    lambda hub: hub.fetch_details(REPO),
    lambda hub: hub.whoami(),
    lambda hub: hub.locate(REPO, RepoFile("tiny-Q4_K_M.gguf"), "main"),
]


@pytest.mark.parametrize("call", CALLS)
def test_web_page_in_place_of_the_hub_is_refused(server: HubServer, call: Callable[[Hub], object]) -> None:
    server.add_token(TOKEN)
    server.fault(Page())
    with pytest.raises(HubUnavailableError, match="returned an invalid response"):
        call(make_client(server, TOKEN))


@pytest.mark.parametrize("call", CALLS)
def test_silent_hub_times_out(server: HubServer, call: Callable[[Hub], object]) -> None:
    server.add_token(TOKEN)
    server.fault(Stall())
    with pytest.raises(TimedOutError, match=r"within 0\.2 s"):
        call(make_client(server, TOKEN, timeout=0.2))


@pytest.mark.parametrize("call", CALLS)
def test_broken_connection_is_a_network_error(server: HubServer, call: Callable[[Hub], object]) -> None:
    server.add_token(TOKEN)
    server.fault(Reset())
    with pytest.raises(NetworkError, match="was interrupted"):
        call(make_client(server, TOKEN))


def test_refused_connection_means_offline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    with pytest.raises(OfflineError, match="can't be reached"):
        Hub(f"http://127.0.0.1:{port}").fetch_details(REPO)


def test_refused_proxy_connection_names_the_proxy(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    close_session()  # the next one reads the environment again
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    try:
        with pytest.raises(OfflineError) as caught:
            make_client(server).fetch_details(REPO)
    finally:
        close_session()
    assert "HTTP_PROXY" in str(caught.value.hint)


@pytest.mark.parametrize("proxy", ["::::", "carrier-pigeon://coop", "http://[::1"])
def test_invalid_proxy_address_is_bad_input(proxy: str, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    close_session()
    monkeypatch.setenv("HTTP_PROXY", proxy)
    try:
        with pytest.raises(BadInputError, match="proxy's address") as caught:
            make_client(server).fetch_details(REPO)
    finally:
        close_session()
    assert "HTTP_PROXY" in str(caught.value.hint)


def test_hub_is_reached_through_a_socks_proxy(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    close_session()
    with SocksProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.make_url())
        try:
            make_client(server).fetch_details(REPO)
        finally:
            close_session()
        assert proxy.lines


def test_unknown_host_means_offline() -> None:
    with pytest.raises(OfflineError, match="can't be resolved"):
        Hub("http://no-such-host.invalid").fetch_details(REPO)


def test_offline_mode_sends_no_request(server: HubServer) -> None:
    for call in CALLS:
        with pytest.raises(OfflineError, match="Offline mode"):
            call(make_client(server, TOKEN, offline=True))
    assert server.count() == 0


def test_unknown_certificate_is_refused() -> None:
    with HubServer(tls=True) as server, pytest.raises(TlsError, match="certificate of 127"):
        make_client(server).fetch_details(REPO)


@pytest.mark.parametrize(
    "endpoint", ["ftp://example.org", "nonsense", "http://", "http://[::1", "http://127.0.0.1:99999"]
)
def test_invalid_endpoint_address_is_bad_input(endpoint: str) -> None:
    with pytest.raises(BadInputError, match="is not an http"):
        Hub(endpoint).fetch_details(REPO)


def test_late_response_within_the_limit_is_used(server: HubServer) -> None:
    server.fault(Delay(0.2))
    assert make_client(server, timeout=5).fetch_details(REPO).id == str(REPO)


@pytest.mark.parametrize("answer", [b"{}", b"[]", b'{"id":"a/b"}', b'{"id":"a/b","sha":"../../etc"}', b"not json"])
def test_details_without_a_commit_are_refused(server: HubServer, answer: bytes) -> None:
    server.fault(Status(200, body=answer))
    with pytest.raises(HubUnavailableError, match="returned an invalid response"):
        make_client(server).fetch_details(REPO)


def test_unsafe_name_is_skipped_and_the_rest_kept(server: HubServer) -> None:
    served = server.list_repos()[0]
    evil = replace(served.files[0], path="../../evil")
    server.change_repo(served, files=(*served.files, evil))
    assert [file.path for file in make_client(server).fetch_details(REPO).files] == [file.path for file in served.files]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["id", "sha", "siblings", "rfilename", "lfs", "size", "tags", "gguf", "gated", "sha256"]),
        inner, max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=JSON | st.binary(max_size=40))
def test_any_response_is_parsed_or_refused(body: object) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with suppress(HubUnavailableError):
        responses.parse_details(data, "hub", REPO)
    readers = (responses.parse_summaries, responses.parse_account, responses.parse_tree, responses.parse_scans)
    for read in (*readers, responses.parse_revision_names):
        with suppress(HubUnavailableError):
            read(data, "hub")


# The cache on this machine


def test_creating_a_hub_client_imports_nothing_heavy() -> None:
    code = (
        "import sys; from llm_hf_models.hub.client import Hub; Hub('http://x');"
        "print([name for name in ('huggingface_hub', 'httpx2', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_hub_client_serves_many_threads(server: HubServer) -> None:
    hub, found = make_client(server), []
    threads = [threading.Thread(target=lambda: found.append(hub.fetch_details(REPO).commit)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [server.list_repos()[0].commit] * 8
