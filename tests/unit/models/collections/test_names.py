"""Names of collections: any text is a valid name or a clear error, and no name is an id or a ref with parts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_hf_models.errors import BadInputError, BadRefError
from llm_hf_models.hub.refs import ModelRef
from llm_hf_models.models.collections.names import MAX_NAME_CHARS, parse_collection_name


@given(st.text(max_size=120))
def test_name_is_valid_or_refused_and_is_never_an_id(text: str) -> None:
    try:
        name = parse_collection_name(text)
    except BadInputError as error:
        shown = str(error)
        assert len(shown) < 400
        assert shown.replace("\n", "").isprintable()
        return
    assert name == text
    assert name.isascii()
    assert name.isprintable()
    assert 0 < len(name) <= MAX_NAME_CHARS
    assert ":" not in name
    assert "@" not in name
    assert not name.startswith(("-", "/", ".", "hf/"))


@given(st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}", fullmatch=True), min_size=1, max_size=3))
def test_name_means_a_repo_only_in_the_plain_form(parts: list[str]) -> None:
    text = "/".join(parts)
    try:
        name = parse_collection_name(text)
    except BadInputError:
        return
    try:
        ref = ModelRef.parse(name)
    except BadRefError:
        return
    assert (str(ref), ref.quant, ref.file, ref.revision, ref.host) == (name, None, None, None, None)
