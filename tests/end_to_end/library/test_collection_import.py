"""Collections of the Hub: models, other items, nesting, limits, hostile texts and faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llm_hf_models import Library
from llm_hf_models.errors import (
    BadRefError,
    HfModelsError,
    HubServerError,
    HubUnavailableError,
    NameTakenError,
    TimedOutError,
    TokenInvalidError,
    UnknownCollectionError,
)
from llm_hf_models.hub.collections import CollectionSlug
from llm_hf_models.models.collections.hub_import import MAX_COLLECTIONS, MAX_DEPTH, MAX_ITEMS
from tests.support.commands import run, run_json, run_json_one
from tests.support.hub_server import EditJson, HubServer, Page, Stall, Status, run_hub
from tests.support.local_models import record_model

ID = "64f9a55bb3115b4f513ec026"
SLUG = f"ann/good-models-{ID}"


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with run_hub(monkeypatch) as hub:
        items = [("model", "far/one-GGUF", "try <b>this</b>"), ("dataset", "far/data"), ("model", "far/two")]
        hub.add_collection(SLUG, items, title="Good models", description="A selection")
        yield hub


def list_refs(name: str) -> list[str]:
    return [member.ref for member in Library().list_collection_members(name)]


@pytest.mark.parametrize(
    "text",
    [SLUG, f"https://huggingface.co/collections/{SLUG}", f"hf.co/collections/{SLUG}/", f"collections/{SLUG}",
     f"http://mirror:80/collections/{SLUG}?x=1#y"],
)  # fmt: skip
def test_every_form_of_its_name_is_understood(text: str) -> None:
    assert str(CollectionSlug.parse(text)) == SLUG
    assert CollectionSlug.parse(text).title == "good-models"


@pytest.mark.parametrize(
    "text",
    ["", "one", "a/b/c", "https://huggingface.co/far/one-GGUF/tree/main", "hf.co", "../../x", "a/..", "a/b\x00", "a /b",
     "a/b%2f..", "https://[x/collections/a/b", "x" * 2000, "huggingface.co/huggingface.co/x", "a/ü", "datasets/a/b"],
)  # fmt: skip
def test_other_texts_are_refused_before_any_request(text: str, hub: HubServer) -> None:
    with pytest.raises(BadRefError, match="is not a collection on the Hub"):
        Library().import_collection(text)
    assert hub.requests == []


def test_models_are_stored_and_other_items_listed(hub: HubServer) -> None:
    planned = Library().import_collection(SLUG, dry_run=True)
    assert (planned.done, planned.added, Library().list_collections()) == (False, ("far/one-GGUF", "far/two"), ())
    done = Library().import_collection(f"https://huggingface.co/collections/{SLUG}")
    source = f"{hub.endpoint}/collections/{SLUG}"
    assert (done.name, done.source, done.title, done.done) == ("good-models", source, "Good models", True)
    assert [(item.kind, item.id, item.why) for item in done.skipped] == [("dataset", "far/data", "It is a dataset.")]
    shown = Library().show_collection("good-models")
    assert (shown.note, shown.source) == ("Good models: A selection", source)
    assert [(each.ref, each.note) for each in shown.members] == [
        ("far/one-GGUF", "try <b>this</b>"), ("far/two", ""),
    ]  # fmt: skip
    assert [request.path for request in hub.requests] == [f"/api/collections/{SLUG}"] * 2


def test_second_import_adds_what_is_new_and_removes_nothing(hub: HubServer) -> None:
    record_model("far/one-GGUF:Q4_K_M")
    Library().import_collection(SLUG, name="work/hub")
    Library().add_to_collection("work/hub", "my/own", note="mine")
    Library().add_to_collection("work/hub", "far/one-GGUF:Q4_K_M", role="best")
    Library().remove_from_collection("work/hub", "hf://far/one-GGUF")
    Library().rename_collection("work/hub", "hub")
    hub.add_collection(SLUG, [("model", "FAR/one-GGUF", "changed"), ("model", "far/three")])
    done = Library().import_collection(SLUG)
    assert (done.name, done.added, done.kept) == ("hub", ("far/three",), ("FAR/one-GGUF",))
    assert done.missing == ("far/two", "my/own")
    members = Library().show_collection("hub").members
    assert [(each.ref, each.role, each.note) for each in members] == [
        ("far/two", None, ""), ("my/own", None, "mine"), ("far/one-GGUF:Q4_K_M", "best", ""), ("far/three", None, ""),
    ]  # fmt: skip


def test_name_of_another_collection_is_not_taken_over() -> None:
    Library().create_collection("good-models")
    with pytest.raises(NameTakenError, match="exists already, and is not from http"):
        Library().import_collection(SLUG)
    assert Library().import_collection(SLUG, name="other").name == "other"
    assert list_refs("good-models") == []


def test_nested_collections_are_followed_once_and_without_circles(hub: HubServer) -> None:
    inner, deep = f"bob/inner-{ID}", f"bob/inner-{ID[::-1]}"
    links = [("collection", inner), ("collection", deep)]
    hub.add_collection(SLUG, [("model", "far/one"), *links, ("collection", SLUG), ("collection", "bob/dead-1")])
    hub.add_collection(inner, [("model", "far/inner"), ("collection", deep), ("collection", SLUG)], title="In\x1b[1m")
    hub.add_collection(deep, [("model", "far/one"), ("model", "far/deep"), ("collection", inner)])
    done = Library().import_collection(SLUG)
    assert done.added == ("far/one", "far/inner", "far/deep")
    assert done.collections == ("good-models/inner", "good-models/inner-2")
    assert [(item.id, item.why) for item in done.skipped] == [
        (inner, "It contains this collection."),
        (SLUG, "It contains this collection."),
        (SLUG, "It contains this collection."),
        ("bob/dead-1", "It does not exist, or it is private."),
    ]
    assert list_refs("good-models/inner") == ["far/inner", "far/one", "far/deep"]
    assert [each.name for each in Library().show_collection("good-models/inner").collections] == ["good-models/inner-2"]
    assert Library().show_collection("good-models/inner").note == "In"
    assert hub.count("/api/collections/") == 4
    again = Library().import_collection(SLUG)
    assert (again.added, again.collections) == ((), done.collections)
    assert len(Library().list_collections()) == 3


def test_circle_with_the_users_own_members_is_skipped(hub: HubServer) -> None:
    one, two = f"bob/one-{ID}", f"bob/two-{ID}"
    hub.add_collection(SLUG, [("collection", one), ("collection", two)])
    for slug in (one, two):
        hub.add_collection(slug, [("model", "far/one")])
    Library().import_collection(SLUG, name="hub")
    Library().add_to_collection("hub/two", "hub/one")
    hub.add_collection(one, [("collection", two)])
    (skipped,) = Library().import_collection(SLUG).skipped
    assert skipped.why == "hub/one can't contain hub/two. It would contain itself: hub/one → hub/two → hub/one"


def test_depth_and_number_of_collections_and_items_are_limited(hub: HubServer) -> None:
    for number in range(MAX_DEPTH + 3):
        hub.add_collection(f"deep/{number}", [("collection", f"deep/{number + 1}"), ("model", f"deep/m{number}")])
    done = Library().import_collection("deep/0", name="deep")
    assert [(item.id, item.why) for item in done.skipped] == [
        (f"deep/{MAX_DEPTH}", f"The limit is {MAX_DEPTH} collections in one another.")
    ]
    assert len(done.added) == MAX_DEPTH
    hub.forget_requests()
    hub.add_collection("wide/0", [("collection", f"wide/{number}") for number in range(1, MAX_COLLECTIONS + 10)])
    for number in range(1, MAX_COLLECTIONS + 10):
        hub.add_collection(f"wide/{number}", [("model", f"wide/m{number}")])
    done = Library().import_collection("wide/0", name="wide")
    assert (len(done.collections), len(done.skipped)) == (MAX_COLLECTIONS - 1, 10)
    assert len(hub.requests) == MAX_COLLECTIONS
    hub.add_collection("huge/0", [("model", f"huge/m{number}") for number in range(10_000)])
    done = Library().import_collection("huge/0", name="huge")
    assert len(done.added) == MAX_ITEMS
    assert [(item.id, item.why) for item in done.skipped] == [
        (f"{10_000 - MAX_ITEMS} items of huge/0", f"The limit is {MAX_ITEMS} items.")
    ]


def test_odd_items_are_skipped_and_texts_are_cleaned(hub: HubServer) -> None:
    odd = [
        None, 5, "x", [], {}, {"type": "model"}, {"type": 7, "id": "a/b"}, {"type": "model", "id": 7},
        ("model", "gpt2"), ("model", "a/../b"), ("model", "x" * 5000), ("model", "\x1b[31mred/name"),
        ("collection", "nowhere"), ("bucket", "a/b"), ("paper", "2307.09288"), ("space", "a/b"), ("agent", "a/b"),
        {"type": "model", "id": "far/fine", "note": "no object"},
        {"type": "model", "id": "far/noted", "note": {"text": 7}},
        ("model", "far/long", "n" * 5000 + "\u202e"),
    ]  # fmt: skip
    hub.add_collection(SLUG, odd, title="T\u202e\x1b]0;x\x07" + "t" * 5000, description="d\n" * 5000)
    done = Library().import_collection(SLUG)
    assert done.added == ("far/fine", "far/noted", "far/long")
    assert len(done.skipped) == len(odd) - 3
    texts = [done.title, *(item.id + item.why for item in done.skipped)]
    shown = Library().show_collection("good-models")
    texts += [shown.note, *(each.note for each in shown.members)]
    assert all(text.isprintable() and len(text) <= 600 for text in texts), texts
    assert run_json_one("collection", "show", "good-models")["members"][2]["note"].endswith("…")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(500), HubServerError),
        (Page(), HubUnavailableError),
        (EditJson(lambda _body: b"[]"), HubUnavailableError),
        (EditJson(lambda _body: b'{"title": "t", "items": null}'), HubUnavailableError),
        (EditJson(lambda _body: b'{"title": "t", "items": {"a": 1}}'), HubUnavailableError),
        (EditJson(lambda _body: b'{"title": "no items"}'), HubUnavailableError),
        (Status(404), UnknownCollectionError),
        (Status(401), UnknownCollectionError),
        (Status(404, {"X-Error-Code": "RepoNotFound"}), UnknownCollectionError),
    ],
)
def test_bad_reply_is_an_error_and_stores_nothing(hub: HubServer, fault: object, error: type[HfModelsError]) -> None:
    hub.fault(fault, on="/api/collections/", times=None)  # type: ignore[arg-type]
    with pytest.raises(error):
        Library().import_collection(SLUG)
    assert Library().list_collections() == ()


def test_slow_hub_ends_in_an_error_and_stores_nothing(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HF_METADATA_SECONDS", "0.5")
    hub.add_collection(SLUG, [("model", "far/one"), ("collection", f"bob/slow-{ID}")])
    hub.add_collection(f"bob/slow-{ID}", [("model", "far/two")])
    hub.fault(Stall(), on="bob/slow")
    with pytest.raises(TimedOutError):
        Library().import_collection(SLUG)
    assert Library().list_collections() == ()


def test_wrong_token_is_named(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.endpoint
    monkeypatch.setenv("HF_TOKEN", "hf_unknown_token")
    with pytest.raises(TokenInvalidError):
        Library().import_collection(SLUG)


def test_command_prints_the_name_the_models_and_what_is_skipped() -> None:
    done = run("collection", "import", SLUG, "--name", "work")
    assert done.stdout == "work\n"
    assert "2 new models." in done.stderr
    assert "Skipped 1 item:\n  far/data: It is a dataset.\n" in done.stderr
    assert "llm hf pull --collection work" in done.stderr
    assert run_json("collection", "import", SLUG, "--name", "work")["kept"] == ["far/one-GGUF", "far/two"]
    assert "has no collection ann/none" in run("collection", "import", "ann/none", code=1).stderr
