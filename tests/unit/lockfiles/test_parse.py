"""A lockfile is untrusted: each invalid part gets a message of its own, and no text gets a traceback."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_hf_models.errors import HfModelsError, LockfileError, LockfileTooNewError
from llm_hf_models.lockfiles.parse import MAX_BYTES, parse_lockfile, read_lockfile
from llm_hf_models.lockfiles.toml_text import write_lockfile
from llm_hf_models.lockfiles.types import LockedFact, LockedFile, LockedModel, Lockfile

COMMIT, DIGEST = "c" * 40, "d" * 64
MODEL = LockedModel(
    "hf/acme/tiny-GGUF:Q8_0",
    quant="Q8_0",
    repo="acme/tiny-GGUF",
    commit=COMMIT,
    files=(
        LockedFile("tiny-00001-of-00002.gguf", "weights", 10, DIGEST),
        LockedFile("tiny-00002-of-00002.gguf", "weights", 20, git_sha1="a" * 40),
        LockedFile("mmproj.gguf", "mmproj", 5, "e" * 64),
    ),
    aliases=("small", "walrus"),
    options={"seed": 3, "stop": ["a", "b"], "system": 'Say """hi"""\nin C:\\dir\t"', "temperature": 0.5},
    template="{% for m in messages %}\n{{ m['content'] }}\u202e\r\n{% endfor %}\n",
    license="mit",
    gated="auto",
    private=True,
    generation_config={"top_k": 20, "top_p": 0.9},
    facts=(LockedFact("digest", "matches", 1_700_000_000.0),),
)
REMOTE = LockedModel(
    "hf/remote/far", endpoint="https://gpu:8000/v1", endpoint_model="m", key_env="KEY", kind="chat",
    modalities=("image",),
)  # fmt: skip
LOCKFILE = Lockfile((MODEL, REMOTE))
TEXT = write_lockfile(LOCKFILE)


def test_text_is_parsed_to_the_same_lockfile() -> None:
    assert parse_lockfile(TEXT) == LOCKFILE
    assert write_lockfile(parse_lockfile(TEXT)) == TEXT
    assert "\u202e" not in TEXT, "characters that an editor hides are escaped"


@pytest.mark.parametrize(
    "changes",
    [
        {"commit": "b" * 40},
        {"aliases": ("small", "other", "walrus")},
        {"options": {**MODEL.options, "seed": 4}},
        {"options": {**MODEL.options, "min_p": 0.1}},
        {"facts": (LockedFact("digest", "matches", 1_700_000_060.0),)},
        {"files": (replace(MODEL.files[0], sha256="f" * 64), *MODEL.files[1:])},
        {"template": str(MODEL.template).replace("content", "text")},
    ],
)
def test_one_change_is_one_line(changes: dict[str, object]) -> None:
    before, after = (
        set(text.splitlines()) for text in (TEXT, write_lockfile(Lockfile((replace(MODEL, **changes), REMOTE))))
    )  # type: ignore[arg-type]
    assert len(before - after) <= 1
    assert len(after - before) == 1


FILE = f'path = "tiny-00001-of-00002.gguf", role = "weights", size = 10, sha256 = "{DIGEST}"'
INVALID = {
    "newer": ("version = 1", "version = 2", "is a newer lockfile"),
    "old version": ("version = 1", "version = 0", "has no valid version"),
    "no version": ("version = 1\n", "", "version is missing"),
    "text version": ("version = 1", 'version = "1"', "version must be a whole number, not a text"),
    "unknown top field": ("version = 1", "version = 1\nextra = 2", "the field extra is unknown"),
    "unknown field": ('license = "mit"', 'licence = "mit"', "the field licence is unknown"),
    "not toml": ("[[models]]", "[[models]", "is not valid TOML"),
    "duplicate key": ('license = "mit"', 'license = "mit"\nlicense = "mit"', "is not valid TOML"),
    "models is a table": ("[[models]]", "[models]", "TOML"),
    "huge number": ("size = 10,", f"size = {'9' * 5000},", "is not valid TOML"),
    "absurd size": ("size = 10,", f"size = {2**60},", "size must be 1 to"),
    "negative size": ("size = 10,", "size = -1,", "size must be 1 to"),
    "size is true": ("size = 10,", "size = true,", "size must be a whole number, not true or false"),
    "traversal": ("tiny-00001-of-00002.gguf", "../../etc/passwd", "is not a valid part of a file's path"),
    "absolute path": ("tiny-00001-of-00002.gguf", "/etc/passwd", "is not a valid part of a file's path"),
    "backslashes": ("tiny-00001-of-00002.gguf", "..\\\\..\\\\x", "backslashes"),
    "same path": ("tiny-00002-of-00002.gguf", "tiny-00001-of-00002.gguf", "two files have the path"),
    "short digest": (DIGEST, "d" * 63, "sha256 must be 64 hexadecimal digits"),
    "capital digest": (DIGEST, "D" * 64, "sha256 must be 64 hexadecimal digits in lower case"),
    "no digest": (f', sha256 = "{DIGEST}"', "", "it needs either sha256 or git_sha1"),
    "unknown role": ('role = "weights", size = 10', 'role = "script", size = 10', "role must be one of"),
    "commit is a branch": (COMMIT, "main", "commit must be 40 hexadecimal digits"),
    "no commit": (f'commit = "{COMMIT}"\n', "", "commit is missing"),
    "repo": ('repo = "acme/tiny-GGUF"', 'repo = "../x"', "is not a model ref"),
    "id of another quant": ('quant = "Q8_0"', 'quant = "Q4_0"', "id must have the form"),
    "id without prefix": ('id = "hf/acme', 'id = "acme', "id must have the form"),
    "id with path": ('id = "hf/acme/tiny-GGUF:Q8_0"', 'id = "hf/../tiny-GGUF:Q8_0"', "is not a model ref"),
    "hidden character": ('license = "mit"', 'license = "m\\u202eit"', "license has control or hidden characters"),
    "alias": ('"walrus"', '"hf/walrus"', "is not a valid alias"),
    "alias twice": ('"walrus"', '"SMALL"', "two models have the alias"),
    "option": ("seed = 3", "sead = 3", "there is no such option"),
    "option range": ("temperature = 0.5", "temperature = -3", "temperature"),
    "option table": ("seed = 3", "seed = { a = 1 }", "seed"),
    "date without zone": ("22:13:20Z", "22:13:20", "at must be a date and time in UTC"),
    "fact kind": ('kind = "digest"', 'kind = "safe"', "kind must be one of"),
    "gated": ('gated = "auto"', 'gated = "yes"', "gated must be one of auto, manual"),
    "sampling": ("top_k = 20", 'top_k = "x"', "must be a number"),
    "key": ('key_env = "KEY"', 'key_env = "sk-secret key"', "key_env is not the name of an environment variable"),
    "endpoint": ("https://gpu:8000/v1", "https://me:pw@gpu/v1", "is not the address of a server"),
    "endpoint id": ('id = "hf/remote/far"', 'id = "hf/far/far:x"', "starts with hf/remote/"),
    "deep": ("seed = 3", f"seed = {'[' * 3000}{']' * 3000}", "nested too deeply"),
    "deep key": ("seed = 3", f"{'a.' * 5000}b = 3", "has a key of too many parts"),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_invalid_part_has_its_own_message(name: str) -> None:
    old, new, message = INVALID[name]
    assert old in TEXT, "the part to change"
    with pytest.raises(LockfileError) as raised:
        parse_lockfile(TEXT.replace(old, new))
    assert message in f"{raised.value.message} {raised.value.cause}"


def test_second_entry_of_a_model_is_refused() -> None:
    with pytest.raises(LockfileError, match="two models have the id"):
        parse_lockfile(write_lockfile(Lockfile((MODEL, replace(MODEL, id="hf/ACME/tiny-GGUF:Q8_0", aliases=())))))


def test_newer_lockfile_names_the_upgrade() -> None:
    with pytest.raises(LockfileTooNewError) as raised:
        parse_lockfile(TEXT.replace("version = 1", "version = 7"))
    assert raised.value.hint == "llm install -U llm-hf-models"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "Byte 0 is not UTF-8"),
        (b"# " + b"x" * MAX_BYTES, "too large"),
        (b"", "version is missing"),
        (b"\0", "TOML"),
    ],
)
def test_file_that_is_no_lockfile_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "models.lock.toml"
    path.write_bytes(content)
    with pytest.raises(LockfileError) as raised:
        read_lockfile(path)
    assert str(path) in raised.value.message
    assert message in f"{raised.value.message} {raised.value.cause}"


@pytest.mark.parametrize(
    "text",
    [
        "x = {" + "a." * 400_000 + "b = 1}",
        "x = {" + '"a" . ' * 200_000 + "b = 1}",
        'x = {y = """a"""", ' + "a." * 400_000 + "b = 1}",
        '"\\' * 200_000,
        "a" * 1_000_000,
        "'" * 1_000_000,
        "x = " + "[" * 500_000,
    ],
    ids=["dotted key", "quoted dotted key", "key after a string", "escapes", "long key", "quotes", "nesting"],
)
def test_text_that_parsers_take_long_for_is_refused_at_once(text: str) -> None:
    with pytest.raises(LockfileError):  # quadratic time would exceed the time limit of a test
        parse_lockfile(f"version = 1\n{text}")


@settings(max_examples=300)
@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_mutated_text_is_parsed_or_refused(source: random.Random, count: int) -> None:
    text = TEXT
    for _ in range(count):
        text = _mutate(text, source)
    try:
        found = parse_lockfile(text)
    except HfModelsError as error:
        assert error.message  # noqa: PT017
    else:
        assert parse_lockfile(write_lockfile(found)) == found


def _mutate(text: str, source: random.Random) -> str:
    start = source.randrange(len(text) + 1)
    end = min(len(text), start + source.choice([0, 1, 4, 40]))
    other = source.randrange(len(text) + 1)
    inserted = source.choice(
        ["", '"', "'", "[", "]", "{", "}", "=", "\n", ".", "0", "-", "nan", "1e400", "\ud800", "\0", "é",
         "[[models]]\n", text[other : other + 60], "9" * 400, "1979-05-27T07:32:00Z", "true"]
    )  # fmt: skip
    return text[:start] + inserted + text[end:]
