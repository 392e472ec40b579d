"""Collections: names, members, nesting, roles, and the change of each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llm_hf_models import Library
from llm_hf_models.context import Context
from llm_hf_models.errors import (
    AmbiguousNameError,
    BadInputError,
    BadRefError,
    CircularCollectionError,
    HfModelsError,
    NameTakenError,
    UnknownCollectionError,
    UnknownModelError,
)
from llm_hf_models.library.sqlite_file import Row, SQLiteFile
from llm_hf_models.models.collections import list_members, list_members_by_collection
from tests.support.local_models import forget_model, record_model

TINY, SMALL = "tiny/chat-GGUF:Q4_K_M", "small/chat-GGUF:Q8_0"


@pytest.fixture
def library() -> Library:
    record_model(TINY, "tiny")
    record_model(SMALL)
    return Library()


def list_refs(library: Library, name: str) -> list[str]:
    return [member.ref for member in library.list_collection_members(name)]


def list_names(library: Library) -> list[str]:
    return [row.name for row in library.list_collections()]


def test_members_are_local_models_and_refs_of_the_hub(library: Library) -> None:
    library.create_collection("coding", note="for work")
    shown = library.add_to_collection("Coding", "tiny", "hf://far/away-GGUF", "https://hf.co/far/else:q5_k_m", note="x")
    assert (shown.name, shown.note) == ("coding", "for work")
    assert [(each.ref, each.id, each.note) for each in shown.members] == [
        (TINY, f"hf/{TINY}", "x"),
        ("far/away-GGUF", None, "x"),
        ("far/else:q5_k_m", None, "x"),
    ]
    assert [each.fix for each in shown.members] == [None, "llm hf pull far/away-GGUF", "llm hf pull far/else:q5_k_m"]
    record_model("far/else:Q5_K_M")
    assert [each.id for each in list_members(Context(), "coding")] == [f"hf/{TINY}", None, "hf/far/else:Q5_K_M"]
    (row,) = library.list_collections()
    assert (row.models, row.local_models) == (3, 2)


@pytest.mark.parametrize("text", ["tiny", TINY, TINY.lower(), f"hf/{TINY}", "tiny/chat-GGUF", "tiny/chat-GGUF:q4km"])
def test_one_model_is_one_member_in_any_spelling(library: Library, text: str) -> None:
    library.create_collection("coding")
    library.add_to_collection("coding", "tiny", text)
    assert list_refs(library, "coding") == [TINY]
    assert library.remove_from_collection("coding", text).members == ()


def test_removed_model_stays_as_a_ref_and_returns_with_a_pull(library: Library) -> None:
    library.create_collection("coding")
    library.add_to_collection("coding", "tiny", role="best")
    forget_model(f"hf/{TINY}")
    (member,) = library.show_collection("coding").members
    assert (member.id, member.fix) == (None, f"llm hf pull {TINY}")
    record_model(TINY)
    (member,) = library.show_collection("coding").members
    assert (member.id, member.role, member.fix) == (f"hf/{TINY}", "best", None)


def test_ref_without_quantization_means_the_newest_variant(library: Library) -> None:
    library.create_collection("coding")
    library.add_to_collection("coding", "far/away-GGUF")
    record_model("far/away-GGUF:Q2_K")
    record_model("Far/Away-GGUF:Q6_K")
    assert [each.id for each in library.list_collection_members("coding")] == ["hf/Far/Away-GGUF:Q6_K"]
    with pytest.raises(AmbiguousNameError):
        library.add_to_collection("coding", "far/away-gguf")


def test_names_nest_and_a_collection_contains_others(library: Library) -> None:
    assert library.create_collection("coding/small/tiny").name == "coding/small/tiny"
    assert list_names(library) == ["coding", "coding/small", "coding/small/tiny"]
    library.create_collection("CODING/Large")
    library.create_collection("writing")
    library.add_to_collection("coding/small/tiny", "tiny")
    library.add_to_collection("coding/Large", SMALL, "tiny")
    library.add_to_collection("writing", "coding", note="too")
    assert list_names(library) == ["coding", "coding/Large", "coding/small", "coding/small/tiny", "writing"]
    assert sorted(list_refs(library, "writing")) == [SMALL, TINY]
    (inner,) = library.show_collection("writing").collections
    assert (inner.name, inner.by_name, inner.note) == ("coding", False, "too")
    assert [each.by_name for each in library.show_collection("coding").collections] == [True, True]
    assert [(row.name, row.models) for row in library.list_collections()] == [
        ("coding", 2), ("coding/Large", 2), ("coding/small", 1), ("coding/small/tiny", 1), ("writing", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("container", "member", "path"),
    [
        ("one", "one", "one → one"),
        ("three", "one", "three → one → two → three"),
        ("one/inner", "one", "one/inner → one → one/inner"),
        ("three", "ONE/inner/deep", None),
    ],
)
def test_circular_collection_is_refused_with_its_path(
    library: Library, container: str, member: str, path: str | None
) -> None:
    for name in ("one/inner/deep", "two", "three"):
        library.create_collection(name)
    library.add_to_collection("one", "two")
    library.add_to_collection("two", "three")
    if path is None:
        library.add_to_collection(container, member)
        return
    with pytest.raises(CircularCollectionError) as caught:
        library.add_to_collection(container, "tiny", member)
    assert caught.value.cause == f"It would contain itself: {path}"
    assert list_refs(library, container) == []


def test_rename_keeps_what_is_in_the_collection(library: Library) -> None:
    library.create_collection("coding/small")
    library.add_to_collection("coding/small", "tiny", role="best")
    library.create_collection("work")
    library.add_to_collection("work", "coding")
    assert library.rename_collection("coding", "Code").name == "Code"
    assert list_names(library) == ["Code", "Code/small", "work"]
    assert library.rename_collection("code", "old/stuff/Code").collections[0].name == "old/stuff/Code/small"
    assert list_names(library) == ["old", "old/stuff", "old/stuff/Code", "old/stuff/Code/small", "work"]
    assert list_refs(library, "work") == [TINY]
    assert library.show("old/stuff/code/small/BEST").id == f"hf/{TINY}"
    library.rename_collection("old", "OLD")
    assert list_names(library)[0] == "OLD"


@pytest.mark.parametrize(
    ("name", "new", "error"),
    [
        ("a", "a/b/c", "can't be moved into itself"),
        ("a", "z", "The collection z exists already"),
        ("a", "tiny", "is a name of the local model"),
        ("a", "z/best", "is the role of"),
        ("a", "small/chat-GGUF", "is a name of the local model"),
        ("a", "in/x/y/z/u/v/w", "more than 8 parts"),
        ("a", "user/x", "It would contain itself: user → user/x → user"),
        ("nothing", "x", "There is no collection 'nothing'"),
    ],
)
def test_impossible_rename_changes_nothing(library: Library, name: str, new: str, error: str) -> None:
    for each in ("a/b/c", "z", "user"):
        library.create_collection(each)
    library.add_to_collection("z", "tiny", role="best")
    library.add_to_collection("a", "user")
    before = [library.show_collection(each) for each in list_names(library)]
    with pytest.raises((BadInputError, UnknownCollectionError)) as caught:
        library.rename_collection(name, new)
    assert error in str(caught.value)
    assert [library.show_collection(each) for each in list_names(library)] == before


def test_delete_takes_collections_by_name_and_keeps_models(library: Library) -> None:
    for name in ("coding/small", "coder", "work"):
        library.create_collection(name)
    library.add_to_collection("coding/small", "tiny", role="best")
    library.add_to_collection("work", "coding/small", "coder")
    plan = library.plan_collection_deletion("CODING")
    assert plan.collections == ("coding", "coding/small")
    assert (plan.models, plan.roles, plan.containers, plan.done) == (1, ("coding/small/best",), ("work",), False)
    assert len(list_names(library)) == 4
    assert library.delete_collection("coding").done
    assert list_names(library) == ["coder", "work"]
    assert [each.name for each in library.show_collection("work").collections] == ["coder"]
    assert len(library.list()) == 2


def test_role_is_a_name_of_the_model_and_moves(library: Library) -> None:
    library.create_collection("coding")
    assert library.add_to_collection("coding", "tiny", role="best").messages == ()
    assert library.show("coding/best").id == f"hf/{TINY}"
    moved = library.add_to_collection("coding", SMALL, role="Best")
    assert moved.messages == (f"coding/Best was {TINY} before.",)
    assert [(each.ref, each.role) for each in moved.members] == [(TINY, None), (SMALL, "Best")]
    assert library.show("Coding/BEST").id == f"hf/{SMALL}"
    assert library.add_to_collection("coding", "coding/best", role="").members[1].role is None
    with pytest.raises(UnknownModelError):
        library.show("coding/best")


def test_role_of_a_missing_model_names_the_pull(library: Library) -> None:
    library.create_collection("coding")
    library.add_to_collection("coding", "far/away:Q4_K_M", role="best")
    with pytest.raises(UnknownModelError, match=r"far/away:Q4_K_M, which is coding/best, is not on this machine") as e:
        library.show("coding/best")
    assert e.value.hint == "llm hf pull far/away:Q4_K_M"
    library.create_collection("other")
    assert library.add_to_collection("other", "coding/best").members[0].ref == "far/away:Q4_K_M"


@pytest.mark.parametrize("role", ["", "a/b", "-x", "a b", "ü", "x" * 101, "..", "a\x1b", "a:b"])
def test_role_is_a_plain_word(library: Library, role: str) -> None:
    library.create_collection("coding")
    if not role:
        return
    with pytest.raises(BadInputError, match="is not a valid role"):
        library.add_to_collection("coding", "tiny", role=role)


def test_role_that_means_something_else_is_refused(library: Library) -> None:
    library.create_collection("tiny2/inner")
    record_model("tiny2/repo:Q8_0", "tiny2/alias")
    for role, owner in (("repo", "hf/tiny2/repo:Q8_0"), ("ALIAS", "hf/tiny2/repo:Q8_0"), ("inner", "a collection")):
        with pytest.raises(NameTakenError, match=owner):
            library.add_to_collection("tiny2", "tiny", role=role)
    assert library.show_collection("tiny2").members == ()
    with pytest.raises(BadInputError, match="one model"):
        library.add_to_collection("tiny2", "tiny", SMALL, role="best")
    library.add_to_collection("tiny2", "tiny", role="best")
    record_model("tiny2/best:Q8_0")
    assert library.show("tiny2/best").id == "hf/tiny2/best:Q8_0", "a real model wins"
    library.create_collection("other")
    assert library.add_to_collection("other", "tiny2/best").members[0].ref == "tiny2/best:Q8_0"
    (member,) = library.show_collection("tiny2").members
    assert member.clash == "tiny2/best is a name of hf/tiny2/best:Q8_0, which is used instead"


def test_a_name_of_a_model_is_not_a_name_of_a_collection(library: Library) -> None:
    for name in ("tiny", "TINY/chat-gguf", "small/chat-GGUF"):
        with pytest.raises(NameTakenError, match="is a name of the local model"):
            library.create_collection(name)
    library.create_collection("unsloth/Qwen3")
    library.create_collection("all")
    assert library.add_to_collection("all", "unsloth/qwen3").collections[0].name == "unsloth/Qwen3"
    assert library.add_to_collection("all", "hf://unsloth/Qwen3").members[0].ref == "hf://unsloth/Qwen3"
    library.remove_from_collection("all", "hf://unsloth/Qwen3")
    assert len(library.show_collection("all").collections) == 1
    assert library.remove_from_collection("all", "unsloth/Qwen3").collections == ()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda it: it.create_collection("coding"), NameTakenError, "The collection coding exists already"),
        (lambda it: it.create_collection("x", note="n" * 501), BadInputError, "at most 500 characters"),
        (lambda it: it.show_collection("codin"), UnknownCollectionError, "Did you mean 'coding'"),
        (lambda it: it.add_to_collection("coding", "nope"), UnknownModelError, "neither a local model nor"),
        (lambda it: it.add_to_collection("coding", "a/b/c"), BadRefError, "not a model ref"),
        (lambda it: it.remove_from_collection("coding", SMALL), UnknownCollectionError, "is not in coding"),
        (lambda it: it.remove_from_collection("coding", "tiny", "x/y"), UnknownCollectionError, "'x/y' is not in"),
    ],
)
def test_error_names_the_fact(
    library: Library, call: Callable[[Library], object], error: type[HfModelsError], message: str
) -> None:
    library.create_collection("coding")
    library.add_to_collection("coding", "tiny")
    with pytest.raises(error) as caught:
        call(library)
    assert message in str(caught.value)
    assert list_refs(library, "coding") == [TINY]


def test_dry_run_changes_nothing(library: Library) -> None:
    assert library.create_collection("coding", dry_run=True).name == "coding"
    assert list_names(library) == []
    library.create_collection("coding")
    assert library.add_to_collection("coding", "tiny", role="best", dry_run=True).members[0].role == "best"
    assert list_refs(library, "coding") == []
    library.add_to_collection("coding", "tiny")
    assert library.remove_from_collection("coding", "tiny", dry_run=True).members == ()
    assert library.rename_collection("coding", "x", dry_run=True).name == "x"
    assert list_refs(library, "coding") == [TINY]


def test_notes_have_no_control_characters(library: Library) -> None:
    assert library.create_collection("coding", note="a\x1b[31mred\u202e\nnote").note == "ared note"


@pytest.mark.parametrize(
    "name",
    [
        "", "/", "a/", "/a", "a//b", "-a", "a/-b", ".", "..", "a/../b", "a..b", "hf", "HF/x", "local/x", "remote/x",
        "hf.co/x", "huggingface.co/a/b", "a:b", "a@b", "a b", "a\x00", "a\n", "ü", "\u0430", "x" * 101,
        "a/b/c/d/e/f/g/h/i", "~/x", "$HOME", "a\\b", "datasets/x/y", "a.", "%", "*", "'; drop table collections",
    ],
)  # fmt: skip
def test_hostile_name_is_refused(name: str) -> None:
    with pytest.raises(BadInputError, match="is not a valid name of a collection"):
        Library().create_collection(name)
    assert Library().list_collections() == ()


def count_queries(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> int:
    """Return the number of queries that a call sends to the library."""
    sent: list[str] = []
    fetch_rows = SQLiteFile.fetch_rows

    def record(db: SQLiteFile, sql: str, *values: object) -> list[Row]:
        sent.append(sql)
        return fetch_rows(db, sql, *values)

    with monkeypatch.context() as patch:
        patch.setattr(SQLiteFile, "fetch_rows", record)
        call()
    return len(sent)


def test_number_of_queries_does_not_grow_with_the_collections(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Callable[[], object]] = [
        library.list_collections,
        lambda: library.list(with_collections=True),
        lambda: library.list(collection="group-0"),
        lambda: library.show_collection("group-0"),
        lambda: list_members_by_collection(Context()),
    ]
    counts = []
    for start in (0, 5):
        for number in range(start, start + 5):
            library.create_collection(f"group-{number}/inner")
            library.add_to_collection(f"group-{number}/inner", "tiny", SMALL, f"far/away-{number}:Q8_0")
        counts.append([count_queries(monkeypatch, call) for call in calls])
    assert counts[0] == counts[1]
    assert {name: len(members) for name, members in list_members_by_collection(Context()).items()} == {
        name: 3 for number in range(10) for name in (f"group-{number}", f"group-{number}/inner")
    }
