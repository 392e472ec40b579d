"""Installing the entry in any JSONC file changes no byte outside the entry, and installing twice changes nothing."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_hf_models.cli.jsonc import MAX_DEPTH, Document, JsoncError
from llm_hf_models.cli.mcp_entry import Entry, merge_entry, merge_flags, remove_entry

NEW = Entry(("/opt/new/llm-hf-mcp",), ("--read-only",), {"HF_HOME": "/data/hf", "LLM_USER_PATH": "/data/llm"}, "stdio")
SECTION = "mcpServers"
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\r\n]*|/\*.*?\*/|[{}\[\],:]|[^\s{}\[\],:"/]+', re.DOTALL)


def parse_exactly(text: str) -> Any:
    """Parse JSONC by other means than the product. Keep duplicate keys and the digits of numbers."""
    found = [token for token in TOKEN.findall(text.removeprefix("\ufeff")) if not token.startswith(("//", "/*"))]
    kept = [
        token for token, after in zip(found, [*found[1:], ""], strict=True) if token != "," or after not in ("}", "]")
    ]

    def keep_digits(digits: str) -> tuple[str, str]:
        return "number", digits

    return json.loads(" ".join(kept), object_pairs_hook=list, parse_float=keep_digits, parse_int=keep_digits)


def drop_entry(pairs: Any) -> Any:
    """Remove the server's entry, and a section that holds nothing else."""
    sections = [index for index, (key, _) in enumerate(pairs) if key == SECTION]
    if not sections:
        return pairs
    last = sections[-1]
    inside = pairs[last][1]
    entries = [index for index, (key, _) in enumerate(inside) if key == "hf-models"]
    inside = [pair for index, pair in enumerate(inside) if not entries or index != entries[-1]]
    return [*pairs[:last], *([(SECTION, inside)] if inside else []), *pairs[last + 1 :]]


NEWLINES = ("\n", "\r\n")
COMMENTS = ('/* } , " */', "/**/", '// { ] "', "/* \u2028 ü */")


@st.composite
def trivia(draw: st.DrawFn, newline: str) -> str:
    pieces = draw(st.lists(st.sampled_from(["", " ", "  ", "\t", newline, *COMMENTS]), max_size=3))
    return "".join(f"{piece}{newline}" if piece.startswith("//") else piece for piece in pieces)


NUMBERS = st.sampled_from(["1.0", "1e3", "-0", "0.10", "1E+400", "123456789012345678901234567890", "5"])
STRINGS = st.builds(json.dumps, st.text(max_size=5), ensure_ascii=st.booleans()).filter(
    lambda text: text.isascii() or text.encode()
)
SCALARS = NUMBERS | STRINGS | st.sampled_from(["true", "false", "null"])


@st.composite
def containers(draw: st.DrawFn, newline: str, members: list[str], brackets: str = "{}") -> str:
    space = [draw(trivia(newline)) for _ in range(2 * len(members) + 3)]
    texts = [f"{space[2 * n]}{member}{space[2 * n + 1]}" for n, member in enumerate(members)]
    comma = f",{space[-2]}" if members and draw(st.booleans()) else ""
    return f"{brackets[0]}{','.join(texts)}{comma}{space[-1]}{brackets[1]}"


@st.composite
def values(draw: st.DrawFn, newline: str, depth: int = 2) -> str:
    if depth == 0 or draw(st.booleans()):
        return draw(SCALARS)
    items = draw(st.lists(values(newline, depth - 1), max_size=3))
    if draw(st.booleans()):
        return draw(containers(newline, items, "[]"))
    return draw(containers(newline, [draw(members(newline, item)) for item in items]))


@st.composite
def members(draw: st.DrawFn, newline: str, value: str, key: str | None = None) -> str:
    name = json.dumps(draw(st.sampled_from(["a", "b", "\\u0061", "ü"])) if key is None else key)
    return f"{name}{draw(trivia(newline))}:{draw(trivia(newline))}{value}"


@st.composite
def objects(draw: st.DrawFn, newline: str, inner: list[str]) -> str:
    """Return an object that has these members among others."""
    others = [[draw(members(newline, value)) for value in draw(st.lists(values(newline), max_size=2))] for _ in "ab"]
    return draw(containers(newline, [*others[0], *inner, *others[1]]))


HOLE = '"\u0000"'
ARGS = ("--read-only", "--ask-above", "5GB", "--yes-to=delete", "--downloads", "2")


@st.composite
def entries(draw: st.DrawFn, newline: str) -> str:
    command = draw(st.sampled_from(["/old/bin/llm-hf-mcp", "llm-hf-mcp", "uvx", "C:\\\\old\\\\llm-hf-mcp.exe"]))
    args = [json.dumps(word) for word in ARGS[: draw(st.integers(0, len(ARGS)))]]
    env = [
        draw(members(newline, json.dumps("/mine"), name))
        for name in draw(st.lists(st.sampled_from(["HF_HOME", "MINE", "HF_TOKEN"]), unique=True))
    ]
    parts = [
        ("command", f'"{command}"'),
        ("args", draw(containers(newline, args, "[]"))),
        ("env", draw(containers(newline, env))),
    ]
    parts = [*draw(st.lists(st.sampled_from(parts), unique=True)), ("autoApprove", draw(values(newline)))]
    return draw(
        containers(newline, [draw(members(newline, value, key)) for key, value in draw(st.permutations(parts))])
    )


@st.composite
def documents(draw: st.DrawFn, has_entry: bool) -> tuple[str, str, str]:
    """Return the text before the entry's value, the value, and the text after it. Without an entry, only the last."""
    newline = draw(st.sampled_from(NEWLINES))
    entry = [f'"hf-models": {HOLE}'] if has_entry else []
    section = f'"{SECTION}": {draw(objects(newline, entry))}'
    has_section = has_entry or draw(st.booleans())
    duplicate = [f'"{SECTION}": {draw(values(newline))}'] if has_section and draw(st.booleans()) else []
    root = draw(objects(newline, [*duplicate, *([section] if has_section else [])]))
    text = f"{draw(st.sampled_from(['', chr(0xFEFF)]))}{draw(trivia(newline))}{root}{draw(trivia(newline))}"
    before, hole, after = text.rpartition(HOLE)
    return (before, draw(entries(newline)), after) if hole else ("", "", text)


RANDOM_DOCUMENTS = settings(max_examples=25)  # building one takes 80 ms


@RANDOM_DOCUMENTS
@given(documents(has_entry=False))
@example(("", "", "{}"))
@example(("", "", '{"mcpServers": {}}'))
@example(("", "", '{"mcpServers": {"a": {}, // c\n}}'))
def test_new_entry_changes_no_byte_of_the_rest(parts: tuple[str, str, str]) -> None:
    before = parts[2]
    after = merge_entry(before, SECTION, NEW).text
    start = next((n for n, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), len(before))
    pairs = zip(reversed(before[start:]), reversed(after[start:]), strict=False)
    end = len(before) - next((n for n, (old, new) in enumerate(pairs) if old != new), len(before) - start)
    between = before[start:end]  # the comments between the comma and the entry
    assert after[start : len(after) - len(before) + end].startswith(("," + between) if between else "")
    assert not re.sub(r"//[^\r\n]*|/\*.*?\*/|[ \t\r\n]", "", between, flags=re.DOTALL)
    assert drop_entry(parse_exactly(after)) == drop_entry(parse_exactly(before))
    added = dict(dict(parse_exactly(after))[SECTION])["hf-models"]
    assert {**dict(added), "env": dict(dict(added)["env"])} == NEW.to_json()
    assert merge_entry(after, SECTION, NEW).text == after


@RANDOM_DOCUMENTS
@given(documents(has_entry=True))
def test_existing_entry_is_merged_and_the_rest_keeps_its_bytes(parts: tuple[str, str, str]) -> None:
    before, entry, rest = parts
    merged = merge_entry(before + entry + rest, SECTION, NEW)
    after = merged.text
    assert after.startswith(before)
    assert after.endswith(rest)
    old = dict(parse_exactly(entry))
    new = dict(parse_exactly(after[len(before) : len(after) - len(rest)]))
    assert new["autoApprove"] == old["autoApprove"]
    kept = dict(old.get("env", ()))
    assert dict(new["env"]) == {**NEW.env, **kept}
    assert " ".join(old.get("args", ())) in " ".join(new["args"])
    assert "--read-only" in new["args"]
    is_ours = old.get("command", "/llm-hf-mcp").endswith(("/llm-hf-mcp", "\\llm-hf-mcp.exe"))
    assert new["command"] == (NEW.command[0] if is_ours else old["command"])
    assert ("command" in merged.kept) is not is_ours
    assert merge_entry(after, SECTION, NEW).text == after


@RANDOM_DOCUMENTS
@given(documents(has_entry=True))
def test_reset_replaces_the_entry_and_keeps_the_rest(parts: tuple[str, str, str]) -> None:
    before, entry, rest = parts
    after = merge_entry(before + entry + rest, SECTION, NEW, reset=True).text
    assert after.startswith(before)
    assert after.endswith(rest)
    assert json.loads(after[len(before) : len(after) - len(rest)]) == NEW.to_json()
    assert merge_entry(after, SECTION, NEW, reset=True).text == after


@RANDOM_DOCUMENTS
@given(documents(has_entry=True))
@example(('{"mcpServers": {"a": 1, /* b */ "hf-models": ', "{}", " /* c */ , // d\n}}"))
@example(('{"mcpServers": {"a": 1 // b\n, // c\n"hf-models": ', "{}", "}}"))
def test_removal_keeps_every_byte_of_the_rest(parts: tuple[str, str, str]) -> None:
    before, entry, rest = parts
    after = remove_entry(before + entry + rest, SECTION)
    assert drop_entry(parse_exactly(after)) == drop_entry(parse_exactly(before + entry + rest))
    assert remove_entry(after, SECTION) == after
    head = before[: before.rindex('"hf-models"')]
    assert squeeze(after) == squeeze(head) + squeeze(rest)


def squeeze(text: str) -> str:
    """Return a text without blanks and commas."""
    return re.sub(r"[ \t\r\n,]", "", text)


LAYOUTS = [
    ('{"mcpServers": {"a": {}, "hf-models": {}}}', '{"mcpServers": {"a": {}}}'),
    ('{"mcpServers": {"hf-models": {}, "a": {}}}', '{"mcpServers": {"a": {}}}'),
    ('{"mcpServers": {"hf-models": {}}}', '{"mcpServers": {}}'),
    ('{\n  "mcpServers": {\n    "hf-models": {\n    },\n  },\n}\n', '{\n  "mcpServers": {},\n}\n'),
    ('{"mcpServers": {\n  "a": 1,\n  "hf-models": {}\n}}', '{"mcpServers": {\n  "a": 1\n}}'),
    ('{"mcpServers": {\r\n  "hf-models": {\r\n  },\r\n  "a": 1,\r\n}}', '{"mcpServers": {\r\n  "a": 1,\r\n}}'),
    ('{"mcpServers": {\n  "a": 1, // a\n  // ours\n  "hf-models": {} // b\n}}',
     '{"mcpServers": {\n  "a": 1 // a\n  // ours\n   // b\n}}'),
    ('{"mcpServers": {"hf-models": 1, "a": 2, "hf-models": 3}}', '{"mcpServers": {"a": 2}}'),
    ('{"servers": {"hf-models": 1}, "hf-models": 2}', '{"servers": {"hf-models": 1}, "hf-models": 2}'),
    ("// only a comment", "// only a comment"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), LAYOUTS)
def test_removal_follows_the_layout_of_the_file(before: str, after: str) -> None:
    assert remove_entry(before, SECTION) == after


@given(st.text(alphabet='{}[],:"\\/*1e-.+ \n\r\tatrufnl\ufeff\u0000', max_size=40))
def test_parser_accepts_no_text_that_another_one_rejects(text: str) -> None:
    try:
        root = Document(text).root
    except JsoncError:
        return
    if root is not None:
        parse_exactly(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from([None, 0, 2, "\t"]),
)
def test_every_json_text_is_accepted(value: Any, indent: int | str | None) -> None:
    text = json.dumps(value, indent=indent)
    document = Document(text)
    assert document.root is not None
    assert (document.root.start, document.root.end) == (0, len(text))


INVALID = (
    "{", "[", '{"a"', '{"a":', '{"a":1', "[1,", "{,}", "[,]", "[1,,2]", '{"a" 1}', "{a: 1}", "{'a': 1}", "[01]",
    "[+1]", "[.5]", "[NaN]", "[0x1]", '["\n"]', '["\\x"]', '["\\u12"]', '"', "{} {}", "/* ", "[1 2]", "truefalse",
    "[1]]", "{]", "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "\ufeff\ufeff{}",
)  # fmt: skip


@pytest.mark.parametrize("text", INVALID)
def test_invalid_text_is_rejected_with_its_position(text: str) -> None:
    with pytest.raises(JsoncError, match=r"^Line \d+, column \d+: "):
        Document(text)


LAYOUTS = {
    "tabs": ('{\n\t"a": 1\n}\n', '{\n\t"a": 1,\n\t"s": {\n\t\t"hf-models": {\n\t\t\t"type": "t"\n\t\t}\n\t}\n}\n'),
    "one line": ('{"a":1}', '{"a":1, "s": {"hf-models": {"type": "t"}}}'),
    "CRLF": (
        '{\r\n   "s": {}\r\n}',
        '{\r\n   "s": {\r\n      "hf-models": {\r\n         "type": "t"\r\n      }\r\n   }\r\n}',
    ),
    "trailing comma": (
        '{\n  "s": {\n    "x": {}, // last\n  }\n}',
        '{\n  "s": {\n    "x": {}, // last\n    "hf-models": {\n      "type": "t"\n    }\n  }\n}',
    ),
    "comment": (
        '{\n  "s": {\n    "x": {} // last\n  }\n}',
        '{\n  "s": {\n    "x": {}, // last\n    "hf-models": {\n      "type": "t"\n    }\n  }\n}',
    ),
    "only a comment": ("// c", '// c\n{\n  "s": {\n    "hf-models": {\n      "type": "t"\n    }\n  }\n}\n'),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_new_entry_follows_the_layout_of_the_file(layout: str) -> None:
    before, after = LAYOUTS[layout]
    merged = merge_entry(before, "s", Entry(("c",), (), {}, "t")).text
    assert re.sub(r'("type": "t"),\s+"command": "c",\s+"args": \[\]', r"\1", merged) == after


@pytest.mark.parametrize(
    ("old", "new", "merged"),
    [
        ("", "--read-only", "--read-only"),
        ("--read-only", "", "--read-only"),
        ("--ask-above 5GB --read-only", "--ask-above 9GB", "--ask-above 9GB --read-only"),
        ("--ask-above=5GB", "--ask-above 9GB", "--ask-above 9GB"),
        ("--read-only", "--downloads 2", "--read-only --downloads 2"),
    ],
)
def test_new_options_replace_old_ones_of_the_same_name(old: str, new: str, merged: str) -> None:
    assert merge_flags(old.split(), new.split()) == merged.split()
