"""Untrusted text, before it is shown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_hf_models.system.text import clean_text, quote_label, suggest_word


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("plain", "plain"),
        ("a\x1b[31mred\x1b[0m b", "ared b"),
        ("a\x1b]0;new title\x07b", "ab"),
        ("a\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\b", "alinkb"),
        ("a\x1bPq#0;payload\x1b\\b", "ab"),
        ("a\x9b2Jb", "ab"),
        ("a\x9d0;title\x9cb", "ab"),
        ("a\x1bcb", "ab"),
        ("a\x1b\x1b[31mb", "a[31mb"),
        ("user\u202egnp.exe", "usergnp.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("a\r\nb\tc\n\nd  e", "a b c d e"),
        ("line\u2028sep", "line sep"),
        ("\x00 a \x00 b \x00", "a b"),
        ("half\ud800pair", "halfpair"),
        ("naïve 模型 🦭", "naïve 模型 🦭"),
        ("tag\U000e0041s", "tags"),
        ("hid\U000e0142den\ufe01\u3164", "hidden"),
        ("", ""),
    ],
)
def test_hidden_and_cursor_characters_are_removed(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


def test_lines_are_kept_on_request_and_returns_can_not_overwrite() -> None:
    assert clean_text("a\r\nb\rc\td\u2028e\x0bf", keep_lines=True) == "a\nb\nc\td\nef"


def test_cut_is_shown() -> None:
    assert clean_text("abcdef", 4) == "abc…"
    assert clean_text("abcd", 4) == "abcd"
    assert clean_text("abcd", 1) == "…"
    assert clean_text("abcd", 0) == ""
    assert clean_text("ab" + "\x00" * 100_000 + "cd", 4) == "ab…"


@given(
    st.text(st.characters(), max_size=300)
    | st.text(st.sampled_from("\x1b[]31m;\x07\\ \n\r\x9b\x9c\u202eaP"), max_size=60)
)
def test_no_control_or_format_character_remains(text: str) -> None:
    for keep_lines in (False, True):
        clean = clean_text(text, 100, keep_lines=keep_lines)
        assert len(clean) <= 100
        allowed = "\n\t" if keep_lines else ""
        assert all(c in allowed or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co") for c in clean)
        assert keep_lines or clean == " ".join(clean.split())
        clean.encode()


@given(st.text(max_size=200))
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    assert clean_text(clean_text(text)) == clean_text(text)


@pytest.mark.parametrize(("typed", "suggested"), [("temprature", "temperature"), ("top-p", "top_p"), ("sed", "seed")])
def test_mistyped_word_gets_the_nearest_one(typed: str, suggested: str) -> None:
    assert suggest_word(typed, ["seed", "temperature", "top_p"]) == f"Did you mean {suggested!r}? "


@pytest.mark.parametrize("typed", ["", "walrus", "\x1b[2J", "t" * 10_000])
def test_word_without_a_similar_one_gets_none(typed: str) -> None:
    assert suggest_word(typed, ["seed", "temperature", "top_p"]) == ""


def test_label_of_others_is_short_and_quoted_unless_it_is_one_plain_word() -> None:
    assert quote_label("UD-Q4_K_XL") == "UD-Q4_K_XL"
    assert quote_label('run "rm"\nnow') == '"run \\"rm\\" now"'
    assert len(quote_label("x" * 500)) == 60
