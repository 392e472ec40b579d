"""Tokens and keys are replaced in any text, in the encodings that servers and logs use."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from llm_hf_models.errors import HfModelsError
from llm_hf_models.redaction import REPLACEMENT, StreamRedactor, redact, redact_bytes, remember
from llm_hf_models.system.json_values import to_json
from llm_hf_models.system.text import clean_text

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
KEY = "sk-/a+b=c.de^]-f\\g%20&x;z"


def encode(secret: str) -> dict[str, str]:
    """Return the spellings of a secret that must be replaced as a whole."""
    return {
        "plain": secret,
        "upper case": secret.upper(),
        "lower case": secret.lower(),
        "in a URL": quote(secret, safe=""),
        "in a URL twice": quote(quote(secret, safe=""), safe=""),
        "all escaped for a URL": "".join(f"%{ord(char):02x}" for char in secret),
        "in JSON": json.dumps(secret)[1:-1],
        "in JSON with escaped slashes": json.dumps(secret)[1:-1].replace("/", "\\/"),
        "all escaped for JSON": "".join(f"\\u{ord(char):04X}" for char in secret),
        "in JSON in JSON": json.dumps(json.dumps(secret))[3:-3],
        "in HTML": "".join(f"&#{ord(char)};" for char in secret),
        "in HTML with hexadecimal numbers": "".join(f"&#x{ord(char):x};" for char in secret),
        "repr": repr(secret)[1:-1],
        "hexadecimal": secret.encode().hex(),
    }


@pytest.mark.parametrize("secret", [TOKEN, KEY], ids=["token", "key"])
def test_each_spelling_of_a_secret_is_replaced(secret: str) -> None:
    remember(secret)
    for name, text in encode(secret).items():
        assert redact(f"got {text} here") == f"got {REPLACEMENT} here", name


@pytest.mark.parametrize("before", ["", "u:", "us:", "use:", "Bearer "])
def test_base64_of_a_text_with_the_secret_is_replaced(before: str) -> None:
    remember(TOKEN)
    for text in (f"{before}{TOKEN}", f"{before}{TOKEN}:rest"):
        encoded = base64.b64encode(text.encode()).decode()
        for spelling in (encoded, quote(encoded, safe="")):
            found = redact(f"Basic {spelling}")
            left = found.replace(REPLACEMENT, "")
            assert REPLACEMENT in found
            assert not any(encoded[at : at + 12] in left for at in range(len(encoded) - 12))


def test_the_start_of_a_secret_is_replaced() -> None:
    remember(TOKEN)
    assert redact(f"The token {TOKEN[:10]}… is invalid") == f"The token {REPLACEMENT}… is invalid"
    assert redact("hf_AbCdEf") == "hf_AbCdEf"


def test_short_keys_are_placeholders_and_stay() -> None:
    remember("ollama")
    assert redact("Use ollama") == "Use ollama"


def test_a_text_is_redacted_before_it_is_shortened() -> None:
    remember(TOKEN)
    for size in range(1, 60):
        assert "hf_" not in clean_text(f"The token is {TOKEN} and more", size)


def test_hidden_characters_in_a_secret_do_not_keep_it() -> None:
    remember(TOKEN)
    assert clean_text("\u200b".join(TOKEN)) == REPLACEMENT
    assert clean_text("\x1b[1m".join(TOKEN)) == REPLACEMENT


def test_errors_and_json_values_contain_no_secret() -> None:
    remember(TOKEN)
    error = HfModelsError(f"a {TOKEN}", cause=f"b {TOKEN}", hint=f"c {TOKEN}")
    assert str(error) == f"a {REPLACEMENT}\nb {REPLACEMENT}\nc {REPLACEMENT}"
    assert to_json({TOKEN: [f"x{TOKEN}"]}) == {REPLACEMENT: [f"x{REPLACEMENT}"]}
    assert redact_bytes(b'{"\xc3\xa4": "%s"}' % TOKEN.encode()) == b'{"\xc3\xa4": "%s"}' % REPLACEMENT.encode()


@pytest.mark.parametrize("size", [1, 2, 5, 36, 37, 38, 1000])
def test_a_secret_in_a_stream_of_pieces_is_replaced(size: int) -> None:
    remember(TOKEN)
    text = f"The h of {TOKEN} and {base64.b64encode(TOKEN.encode()).decode()} begins hf_Ab"
    stream = StreamRedactor()
    pieces = [stream.feed(text[at : at + size]) for at in range(0, len(text), size)]
    assert "".join([*pieces, stream.end()]) == redact(text)
