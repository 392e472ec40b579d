"""Each field that is read from the Hub, with values that the Hub should not send."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import datetime, timezone
from typing import Any

import pytest
from pydantic import TypeAdapter

from llm_hf_models.errors import FileNotFoundInRepoError, HubUnavailableError, RevisionNotFoundError
from llm_hf_models.hub.refs import RepoFile
from llm_hf_models.hub.types import RepoDetails, RepoSummary, SearchFilters
from tests.support import hub_repos
from tests.support.hub_replies import MISSING, change_field, fetch_reply, send_reply
from tests.support.hub_repos import REPO, make_client
from tests.support.hub_server import Headers, HubServer, Status

server = hub_repos.server

MODEL = f"/api/models/{REPO}"
WEIGHTS = "tiny-Q4_K_M.gguf"
ODD_VALUES = (MISSING, None, "", "text", "\ud800", 0, -1, 1.5, True, 10**30, [], [[]], {}, {"a": {}})
SEARCH_FIELDS = (
    "_id", "author", "pipeline_tag", "library_name", "tags", "usedStorage", "downloads", "likes", "createdAt",
    "lastModified", "gated", "private", "gguf", "gguf.total", "gguf.totalFileSize", "gguf.architecture",
    "gguf.context_length", "gguf.chat_template", "safetensors", "safetensors.total",
)  # fmt: skip
DETAILS_FIELDS = (
    *SEARCH_FIELDS, "id", "modelId", "siblings", "siblings.2", "siblings.2.rfilename", "siblings.2.size",
    "siblings.2.blobId", "siblings.2.lfs", "siblings.2.lfs.sha256", "siblings.2.lfs.size", "securityRepoStatus",
    "securityRepoStatus.scansDone", "securityRepoStatus.filesWithIssues",
)  # fmt: skip
# The attributes of the result that a field determines. Every other attribute has to stay as it was.
DETERMINED = {
    "pipeline_tag": {"task"},
    "library_name": {"library"},
    "tags": {"tags", "license", "base_models"},
    "usedStorage": {"size"},
    "createdAt": {"created"},
    "lastModified": {"updated"},
    "gguf": {"parameters", "size", "architecture", "context_length", "chat_template"},
    "safetensors": {"parameters"},
    "securityRepoStatus": {"scans_done", "files_with_issues", "files"},
}


def add_fields(reply: dict[str, Any]) -> dict[str, Any]:
    """Return a repo with the fields that the tests' Hub does not send."""
    gguf = {**reply["gguf"], "totalFileSize": 200_000}
    return {**reply, "gguf": gguf, "safetensors": {"total": 7}, "private": False, "gated": False}


def fetch_details(server: HubServer, reply: object) -> RepoDetails:
    server.clear()
    send_reply(server, f"{MODEL}?", reply)
    return make_client(server).fetch_details(REPO)


@pytest.mark.parametrize("field", DETAILS_FIELDS)
def test_odd_field_changes_only_what_it_determines(server: HubServer, field: str) -> None:
    reply = add_fields(fetch_reply(server, f"{MODEL}?blobs=true&securityStatus=true"))
    usual = fetch_details(server, reply)
    top = field.partition(".")[0]
    determined = DETERMINED.get(top, {top})
    for value in ODD_VALUES:
        found = fetch_details(server, change_field(reply, field, value))
        kept = {
            one.name: getattr(usual, one.name)
            for one in fields(usual)
            if one.name not in {*determined, "files", "left_out"}
        }
        assert {name: getattr(found, name) for name in kept} == kept, value
        if top != "siblings" or value is None:
            assert [file.path for file in found.files] == [file.path for file in usual.files], value
        TypeAdapter(RepoDetails).dump_json(found)  # it can be stored
        no_files = (field, value) == ("siblings", [])
        assert no_files or top == "securityRepoStatus" or usual.files[0] in found.files, value


@pytest.mark.parametrize("field", SEARCH_FIELDS)
def test_odd_field_spoils_no_other_row_of_a_search(server: HubServer, field: str) -> None:
    row = add_fields(fetch_reply(server, MODEL))
    rows = [change_field(row, field, value) for value in ODD_VALUES]
    send_reply(server, "/api/models?", [None, "text", {}, [], 5, *rows, row, {"id": "../x"}, {"id": 7}])
    found = make_client(server).search("", SearchFilters(limit=100))
    assert [each.id for each in found] == [str(REPO)] * (len(ODD_VALUES) + 1)
    TypeAdapter(list[RepoSummary]).dump_json(found)  # they can be stored
    assert (found[-1].parameters, found[-1].likes, found[-1].license) == (135_000_000, 2, "mit")


TIME = datetime(2024, 5, 6, 7, 8, 9, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("id", "Acme/Tiny-gguf", {"id": "Acme/Tiny-gguf", "author": "Acme"}),
        ("id", "no-owner", {"id": str(REPO)}),
        ("author", "mallory", {"author": "acme"}),
        ("tags", ["en", None, 5, {}, "\ud800", "license:apache-2.0"], {"tags": ("en", "license:apache-2.0")}),
        ("tags", ["license:"], {"license": None}),
        ("tags", ["base_model:", "base_model:acme/tiny"], {"base_models": ("acme/tiny",)}),
        ("gated", None, {"gated": False}),
        ("gated", "auto", {"gated": "auto"}),
        ("gated", "by-invitation", {"gated": "manual"}),
        ("gated", True, {"gated": "manual"}),
        ("gated", "false", {"gated": False}),
        ("private", None, {"private": False}),
        ("private", "true", {"private": True}),
        ("private", "members", {"private": True}),
        ("downloads", "12", {"downloads": 12}),
        ("downloads", 12.0, {"downloads": 12}),
        ("downloads", 1e400, {"downloads": None}),
        ("createdAt", "2024-05-06T07:08:09", {"created": TIME}),
        ("createdAt", "2024-05-06T09:08:09+02:00", {"created": TIME}),
        ("createdAt", TIME.timestamp(), {"created": TIME}),
        ("createdAt", "0001-01-01T00:00:00Z", {"created": None}),
        ("createdAt", "yesterday", {"created": None}),
        ("gguf", {"total": None}, {"parameters": 7, "chat_template": False}),
        ("gguf.chat_template", [{"name": "default", "template": "{{ x }}"}], {"chat_template": True}),
        ("gguf.context_length", -1, {"context_length": None}),
        ("securityRepoStatus", {"scansDone": True, "filesWithIssues": None}, {"scans_done": True}),
        ("securityRepoStatus.scansDone", "yes", {"scans_done": None}),
        # A warning that can't be read completely is never dropped.
        ("securityRepoStatus.filesWithIssues", "all", {"scans_done": None}),
        ("securityRepoStatus.filesWithIssues", [{"level": "unsafe"}], {"scans_done": None}),
        ("securityRepoStatus.filesWithIssues.0.path", "\ud800", {"scans_done": None, "files_with_issues": ()}),
        ("securityRepoStatus.filesWithIssues.0.level", "\ud800", {"files_with_issues": ((WEIGHTS, "issue"),)}),
        ("securityRepoStatus.filesWithIssues", [WEIGHTS], {"files_with_issues": ((WEIGHTS, "issue"),)}),
        ("securityRepoStatus.filesWithIssues.0.level", None, {"files_with_issues": ((WEIGHTS, "issue"),)}),
        ("securityRepoStatus.filesWithIssues.0.level", "new", {"files_with_issues": ((WEIGHTS, "new"),)}),
    ],
)
def test_odd_value_has_a_defined_meaning(
    server: HubServer, field: str, value: object, expected: dict[str, object]
) -> None:
    reply = add_fields(fetch_reply(server, f"{MODEL}?blobs=true&securityStatus=true"))
    found = fetch_details(server, change_field(reply, field, value))
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize("value", [MISSING, None, "text", "../../etc", 5])
def test_commit_comes_from_the_request_if_the_reply_has_none(server: HubServer, value: object) -> None:
    served = server.list_repos()[0]
    send_reply(server, "/revision/", change_field(fetch_reply(server, f"{MODEL}?blobs=true"), "sha", value))
    assert make_client(server).fetch_details(REPO, served.commit).commit == served.commit


# Files


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("siblings", None),
        ("siblings", MISSING),
        ("siblings", {"0": "x"}),
        *((f"siblings.2.{name}", value) for name in ("size", "lfs") for value in (None, "x", -1, [])),
        *((f"siblings.2.lfs.{name}", value) for name in ("size", "sha256") for value in (None, "..", MISSING)),
        ("siblings.2.lfs", {"oid": "0" * 64, "size": 1}),
    ],
)
def test_sizes_and_digests_come_from_the_tree_if_the_list_lacks_them(
    server: HubServer, field: str, value: object
) -> None:
    reply = fetch_reply(server, f"{MODEL}?blobs=true&securityStatus=true")
    usual = fetch_details(server, reply)
    found = fetch_details(server, change_field(reply, field, value))
    file, expected = found.get_file(RepoFile(WEIGHTS)), usual.get_file(RepoFile(WEIGHTS))
    if value == {"oid": "0" * 64, "size": 1}:
        expected = replace(expected, sha256="0" * 64, size=1)  # `oid` is the name in trees
    assert file == expected


def test_sizes_come_from_the_files_if_the_hub_has_no_tree(server: HubServer) -> None:
    reply = fetch_reply(server, MODEL)  # without sizes
    server.fault(Status(404), on="/tree/", times=None)
    send_reply(server, f"{MODEL}?", reply)
    details = make_client(server).fetch_details(REPO)
    served = server.list_repos()[0]
    assert [(file.path, file.size, file.etag) for file in details.files] == [
        (file.path, file.size, file.etag) for file in served.files
    ]


def test_file_without_any_size_is_left_out_with_the_reason(server: HubServer) -> None:
    reply = fetch_reply(server, MODEL)
    server.fault(Status(404), on="/tree/", times=None)
    server.fault(Headers({"X-Linked-Size": ""}), on=WEIGHTS, method="HEAD", times=None)
    send_reply(server, f"{MODEL}?", reply)
    details = make_client(server).fetch_details(REPO)
    assert [file.path for file in details.files] == ["README.md", "sub dir/tiny #2.gguf"]
    with pytest.raises(FileNotFoundInRepoError) as caught:
        details.get_file(RepoFile(WEIGHTS))
    assert "X-Linked-Size" in str(caught.value.cause)


def test_repo_whose_files_are_listed_nowhere_is_an_error(server: HubServer) -> None:
    send_reply(server, f"{MODEL}?", {"id": str(REPO), "sha": "a" * 40})
    send_reply(server, "/tree/", {})
    with pytest.raises(HubUnavailableError, match="returned an invalid response"):
        make_client(server).fetch_details(REPO)


def test_tree_of_several_pages_is_read_to_its_end(server: HubServer) -> None:
    tree = fetch_reply(server, f"{MODEL}/tree/main?recursive=true")
    send_reply(server, "page=2", tree[2:])
    send_reply(server, "/tree/", tree[:2], {"Link": f'<{server.endpoint}/api/x?page=2>; rel="next"'})
    send_reply(server, f"{MODEL}?", {"id": str(REPO), "sha": "a" * 40})
    assert len(make_client(server).fetch_details(REPO).files) == 3


# Scans, revisions, accounts


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (MISSING, None),
        (None, None),
        (5, None),
        ([], None),
        ("unsafe", ("unsafe", ())),
        ({}, ("", ())),
        ({"status": None}, ("", ())),
        ({"status": {"a": 1}}, ("", ())),
        ({"status": "brand-new"}, ("brand-new", ())),
        ({"status": "safe", "avScan": None, "newScan": "x", "pickleImportScan": []}, ("safe", ())),
        ({"status": "safe", "avScan": {"status": 5, "message": {}}}, ("safe", (("antivirus", "no result", ""),))),
        ({"status": "safe", "newScan": {"status": "unsafe"}}, ("safe", (("new", "unsafe", ""),))),
    ],
)
def test_odd_scan_result_is_read_as_far_as_it_can_be(
    server: HubServer, status: object, expected: tuple[str, object] | None
) -> None:
    row = change_field({"path": WEIGHTS, "securityFileStatus": 0}, "securityFileStatus", status)
    good = {"path": "README.md", "securityFileStatus": {"status": "safe"}}
    send_reply(server, "/paths-info/", [None, "x", {"path": 5}, row, good])
    *rest, last = make_client(server).fetch_scans(REPO, "a" * 40, [WEIGHTS])
    assert (last.path, last.status) == ("README.md", "safe")
    found = [(scan.status, tuple((one.scanner, one.status, one.message) for one in scan.scanners)) for scan in rest]
    assert found == ([expected] if expected else [])


@pytest.mark.parametrize("branches", [None, "main", [None, 5, {"name": 5}, {}], {"a": 1}, MISSING])
def test_odd_branches_leave_the_tags_in_the_hint(server: HubServer, branches: object) -> None:
    send_reply(server, "/refs", change_field({"branches": [], "tags": [{"name": "v1"}]}, "branches", branches))
    with pytest.raises(RevisionNotFoundError) as caught:
        make_client(server).fetch_details(REPO, "v2")
    assert "v1" in str(caught.value.hint)


@pytest.mark.parametrize("value", [None, "x", 5, [], {}, [None], {"accessToken": None}, {"accessToken": {"role": 5}}])
@pytest.mark.parametrize("field", ["orgs", "auth", "auth.accessToken", "auth.accessToken.fineGrained"])
def test_odd_account_keeps_its_name(server: HubServer, field: str, value: object) -> None:
    token = {"displayName": "t", "role": "read", "fineGrained": {"scoped": [{"entity": None, "permissions": [None]}]}}
    reply = {"name": "ann", "orgs": [{"name": "acme"}], "auth": {"accessToken": token}}
    send_reply(server, "/whoami-v2", change_field(reply, field, value))
    assert make_client(server, "hf_x").whoami().name == "ann"


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000, b"NaN", b""])
def test_reply_that_is_no_json_is_refused(server: HubServer, body: bytes) -> None:
    server.fault(Status(200, body=body), times=None)
    with pytest.raises(HubUnavailableError, match="returned an invalid response"):
        make_client(server).fetch_details(REPO)
