"""Refs and names from outside: every common form, and every form that must be refused."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_hf_models.errors import BadRefError
from llm_hf_models.hub.refs import ModelRef, RepoFile, RepoId, is_commit, parse_revision

REPO = RepoId("owner", "name")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("owner/name", ModelRef(REPO)),
        (" owner/name\n", ModelRef(REPO)),
        ("owner/name:Q4_K_M", ModelRef(REPO, quant="Q4_K_M")),
        ("owner/name:UD-Q4_K_XL", ModelRef(REPO, quant="UD-Q4_K_XL")),
        ("owner/name:llama-v1.5", ModelRef(REPO, quant="llama-v1.5")),
        ("owner/name:model.gguf", ModelRef(REPO, file=RepoFile("model.gguf"))),
        ("owner/name:model.Q4_K_M.gguf", ModelRef(REPO, file=RepoFile("model.Q4_K_M.gguf"))),
        ("owner/name:BF16/m-00001-of-00002.gguf", ModelRef(REPO, file=RepoFile("BF16/m-00001-of-00002.gguf"))),
        ("owner/name:README.md", ModelRef(REPO, file=RepoFile("README.md"))),
        ("owner/name:LICENSE", ModelRef(REPO, file=RepoFile("LICENSE"))),
        ("owner/name@main:Q4_K_M", ModelRef(REPO, "main", quant="Q4_K_M")),
        (f"owner/name@{COMMIT}", ModelRef(REPO, COMMIT)),
        ("owner/name@refs/pr/3:Q8_0", ModelRef(REPO, "refs/pr/3", quant="Q8_0")),
        ("hf/owner/name:Q4_K_M", ModelRef(REPO, quant="Q4_K_M")),
        ("hf/name", ModelRef(RepoId("hf", "name"))),
        ("hf/name:dir/model.gguf", ModelRef(RepoId("hf", "name"), file=RepoFile("dir/model.gguf"))),
        ("hf://owner/name", ModelRef(REPO)),
        ("hf://models/owner/name:Q4_K_M", ModelRef(REPO, quant="Q4_K_M")),
        ("HF://owner/name@v1:Q4_K_M", ModelRef(REPO, "v1", quant="Q4_K_M")),
        ("hf://owner/name/dir/model.gguf", ModelRef(REPO, file=RepoFile("dir/model.gguf"))),
        ("hf://owner/name@v1/model.gguf", ModelRef(REPO, "v1", file=RepoFile("model.gguf"))),
        ("hf://owner/name@refs/pr/3/m.gguf", ModelRef(REPO, "refs/pr/3", file=RepoFile("m.gguf"))),
        ("hf://owner/name@refs%2Fpr%2F3/m.gguf", ModelRef(REPO, "refs/pr/3", file=RepoFile("m.gguf"))),
        ("hf.co/owner/name", ModelRef(REPO)),
        ("hf.co/owner/name:Q4_K_M", ModelRef(REPO, quant="Q4_K_M")),
        ("huggingface.co/owner/name/blob/main/a/b.gguf", ModelRef(REPO, file=RepoFile("a/b.gguf"))),
        ("https://huggingface.co/owner/name", ModelRef(REPO)),
        ("https://huggingface.co/owner/name/", ModelRef(REPO)),
        ("https://huggingface.co/owner/name?show_file_info=x.gguf#top", ModelRef(REPO, file=RepoFile("x.gguf"))),
        (
            "hf.co/owner/name?local-app=ollama&show_file_info=Q8_0%2Fa%20b.gguf",
            ModelRef(REPO, file=RepoFile("Q8_0/a b.gguf")),
        ),
        (
            "https://huggingface.co/owner/name/tree/refs/pr/3/Q8_0?show_file_info=Q8_0%2Fx.gguf",
            ModelRef(REPO, "refs/pr/3", file=RepoFile("Q8_0/x.gguf")),
        ),
        (
            "https://huggingface.co/owner/name/blob/v1.0/x.gguf?show_file_info=x.gguf",
            ModelRef(REPO, "v1.0", file=RepoFile("x.gguf")),
        ),
        ("https://huggingface.co/owner/name?library=transformers", ModelRef(REPO)),
        ("https://hf.co/owner/name:Q4_K_M", ModelRef(REPO, quant="Q4_K_M")),
        ("https://hf.co/owner/name:dir/m.gguf", ModelRef(REPO, file=RepoFile("dir/m.gguf"))),
        ("http://mirror.example:8080/owner/name", ModelRef(REPO)),
        ("https://huggingface.co/owner/name/tree/main", ModelRef(REPO)),
        ("https://huggingface.co/owner/name/tree/main/BF16", ModelRef(REPO, quant="BF16")),
        ("https://huggingface.co/owner/name/tree/v1.0", ModelRef(REPO, "v1.0")),
        ("https://huggingface.co/owner/name/tree/refs%2Fpr%2F3", ModelRef(REPO, "refs/pr/3")),
        (
            "https://huggingface.co/owner/name/blob/refs/pr/3/m.gguf",
            ModelRef(REPO, "refs/pr/3", file=RepoFile("m.gguf")),
        ),
        (
            f"https://huggingface.co/owner/name/resolve/{COMMIT}/a%20b.gguf?download=true",
            ModelRef(REPO, COMMIT, file=RepoFile("a b.gguf")),
        ),
    ],
)
def test_every_common_form_of_a_ref_is_parsed(text: str, ref: ModelRef) -> None:
    assert ModelRef.parse(text) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "name",
        "owner/",
        "/name",
        "owner//name",
        "owner/name/more",
        "owner/name:",
        "owner/name@",
        "owner/name@:Q4",
        "owner/name:Q4 K",
        "owner/name:Q4@v1",
        "owner/name:../x.gguf",
        "owner/name:/etc/passwd",
        "owner/name:a\\b.gguf",
        "owner/name:C:/x.gguf",
        "owner/..",
        "../name",
        "owner/.name",
        "owner/na--me",
        "owner/na..me",
        "owner/name.git",
        "owner/name.GIT",
        "-owner/name",
        "owner/name-",
        "öwner/name",
        "owner/na me",
        "owner/na\x00me",
        "owner/name\u202e",
        "owner/name@../x",
        "owner/name@-rf",
        "owner/name@a..b",
        "owner/name@x.lock",
        "owner/name@a//b",
        "hf://datasets/owner/name",
        "hf://name",
        "https://huggingface.co/",
        "https://huggingface.co/owner",
        "https://huggingface.co/datasets/owner/name",
        "https://huggingface.co/spaces/owner/name",
        "https://huggingface.co/owner/name/discussions/1",
        "https://huggingface.co/owner/name/tree/main/docs",
        "https://huggingface.co/owner/name/blob/main/%2e%2e/%2e%2e/x",
        "https://huggingface.co/owner%2Fname/x",
        "https://huggingface.co/owner/name/resolve/main/a%00b",
        "https://[broken/owner/name",
        "https://huggingface.co/owner/name?unknown=1",
        "https://huggingface.co/owner/name?unknown",
        "https://huggingface.co/owner/name?show_file_info=",
        "https://huggingface.co/owner/name?show_file_info=../x",
        "https://huggingface.co/owner/name?show_file_info=x.gguf&show_file_info=y.gguf",
        "https://huggingface.co/owner/name:Q8_0?show_file_info=x.gguf",
        "https://huggingface.co/owner/name/resolve/main/y.gguf?show_file_info=x.gguf",
        "owner/" + "n" * 96,
        "o/" + "x" * 1000,
    ],
)
def test_invalid_ref_is_refused_with_the_accepted_forms(text: str) -> None:
    with pytest.raises(BadRefError) as caught:
        ModelRef.parse(text)
    assert "owner/name:Q4_K_M" in str(caught.value.hint)
    assert "\x00" not in str(caught.value)
    assert "\u202e" not in str(caught.value)


def test_unknown_part_of_an_address_is_named() -> None:
    with pytest.raises(BadRefError) as caught:
        ModelRef.parse("https://huggingface.co/owner/name?utm_source=x")
    assert caught.value.cause == "The part 'utm_source' after the ? is unknown. Remove it."


@pytest.mark.parametrize(
    "text", ["owner/name@", "owner/name@:Q8_0", "owner/name@-rf", "owner/name:a/../b", "https://hf.co/own er/name"]
)
def test_invalid_ref_is_quoted_as_typed(text: str) -> None:
    with pytest.raises(BadRefError) as caught:
        ModelRef.parse(text)
    assert caught.value.message == f"{text!r} is not a model ref"
    assert caught.value.cause


def test_ref_to_a_dataset_is_named_as_such() -> None:
    for text in ("hf://datasets/owner/name", "https://huggingface.co/datasets/owner/name"):
        with pytest.raises(BadRefError, match="datasets"):
            ModelRef.parse(text)


@pytest.mark.parametrize(
    "path", ["model.gguf", "a/b/c.gguf", ".gitattributes", "naïve 模型.gguf", "a..b", "x.gguf.part", "com10"]
)
def test_safe_path_is_accepted_unchanged(path: str) -> None:
    assert RepoFile(path).path == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "a/../b",
        "a//b",
        "/a",
        "a/",
        "./a",
        "a\\b",
        "a:b",
        "C:a",
        "a\nb",
        "a\x7f",
        "a*",
        "con",
        "CON.txt",
        "nul .gguf",
        "dir/LPT1.gguf",
        "com¹",
        "CONIN$",
        "a.",
        "a ",
        " a",
        "a/b /c",
        "a\u3000",
        ".git/hooks/post-checkout",
        "x/.GIT/config",
        "half\ud800",
        "x" * 256,
        "ü" * 128,
        "a/" * 300 + "b",
    ],
)
def test_path_that_leaves_its_folder_or_names_a_device_is_refused(path: str) -> None:
    with pytest.raises(BadRefError):
        RepoFile(path)


PIECES = st.lists(
    st.sampled_from(
        ["a", "owner", "/", "..", ".", ":", "@", "Q4_K_M", ".gguf", "hf://", "hf/", "models/", "\\", " ", "%2F"]
    )
    | st.sampled_from(
        ["https://hf.co/", "hf.co/", "blob/", "tree/", "refs/pr/1", "main", "\x00", "é", "LICENSE", "--", "-"]
    )
    | st.text(max_size=3),
    max_size=9,
).map("".join)


@given(PIECES | st.text(max_size=60))
def test_any_text_is_a_ref_that_round_trips_or_is_refused(text: str) -> None:
    try:
        ref = ModelRef.parse(text)
    except BadRefError:
        return
    assert ModelRef.parse(str(ref)) == ref
    assert not (ref.quant and ref.file)
    assert str(ref.repo).isascii()


@given(PIECES | st.text(max_size=80))
def test_any_accepted_path_stays_below_its_folder_on_every_system(text: str) -> None:
    try:
        path = RepoFile(text).path
    except BadRefError:
        return
    below = Path("/folder").joinpath(path)
    assert below.is_relative_to("/folder")
    assert ".." not in below.parts
    windows = PureWindowsPath("C:/folder", path)
    assert windows.is_relative_to("C:/folder")
    assert not windows.is_reserved() if hasattr(windows, "is_reserved") else True
    assert below.as_posix().removeprefix("/folder/") == path


SAFE_NAMES = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,20}[A-Za-z0-9_])?", fullmatch=True).filter(
    lambda name: ".." not in name and "--" not in name and not name.lower().endswith(".git")
)
PATHS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)


@given(SAFE_NAMES, SAFE_NAMES, st.none() | SAFE_NAMES | st.just("refs/pr/7"), PATHS)
def test_every_ref_to_a_file_round_trips(owner: str, name: str, revision: str | None, path: str) -> None:
    try:
        ref = ModelRef(RepoId(owner, name), revision and parse_revision(revision), file=RepoFile(path))
    except BadRefError:
        return
    assert ModelRef.parse(str(ref)) == ref


def test_only_forty_hex_digits_are_a_commit() -> None:
    assert is_commit(COMMIT)
    assert not any(is_commit(text) for text in ("main", COMMIT[:-1], COMMIT.upper(), f"{COMMIT}\n"))


def test_address_of_the_hub_is_not_a_repo() -> None:
    with pytest.raises(BadRefError, match="Hub's host"):
        ModelRef.parse("https://hf.co/hf.co/a")
