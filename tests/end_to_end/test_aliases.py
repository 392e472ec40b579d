"""Several changes of aliases at once are all made, or none: in Python, on the command line and over MCP."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_hf_models.errors import HfModelsError
from llm_hf_models.service import Library
from tests.support.commands import run
from tests.support.ggufs import tiny_chat
from tests.support.mcp_hosts import call_refused, call_tool, connect_stdio, run_async

LONG = "x" * 101
# The aliases to add and to remove; one of them can't be. `theirs` is another model's.
WRONG = (
    (("good", "bad one"), ()),
    (("good", "theirs"), ()),
    (("theirs",), ("first",)),
    (("bad one",), ("first", "second")),
    ((), ("first", "none")),
    (("good",), ("first", "none")),
    (("good", LONG), ("second",)),
)


@pytest.fixture
def aliases(tmp_path: Path) -> frozenset[str]:
    """Import two models, and return the aliases of the first."""
    library = Library()
    library.import_file(tiny_chat(tmp_path / "other-Q8_0.gguf", seed=2), aliases=["theirs"])
    library.import_file(tiny_chat(tmp_path / "tiny-Q8_0.gguf"), aliases=["first", "second"])
    return list_aliases()


def list_aliases() -> frozenset[str]:
    return frozenset(Library().show("tiny:Q8_0").aliases)


@pytest.mark.parametrize(("add", "remove"), WRONG)
def test_library_changes_all_aliases_or_none(
    add: tuple[str, ...], remove: tuple[str, ...], aliases: frozenset[str]
) -> None:
    with pytest.raises(HfModelsError):
        Library().change_aliases("tiny:Q8_0", add=add, remove=remove)
    assert list_aliases() == aliases


def test_command_changes_all_aliases_or_none(aliases: frozenset[str]) -> None:
    for words in (
        ("tiny:Q8_0", "good", "bad one", "--remove", "first"),
        ("tiny:Q8_0", "good", "--remove", "first", "--remove", "none"),
        ("--remove", "first", "--remove", "none"),
    ):
        assert run("alias", *words, code=None).exit_code != 0
        assert list_aliases() == aliases
    run("alias", "tiny:Q8_0", "third", "--remove", "first", "--remove", "second")
    assert list_aliases() == aliases - {"first", "second"} | {"third"}


@run_async
async def test_tool_changes_all_aliases_or_none(aliases: frozenset[str]) -> None:
    async with connect_stdio() as client:
        for add, remove in WRONG:
            await call_refused(client, "hf_edit_aliases", name="tiny:Q8_0", add=list(add), remove=list(remove))
            assert list_aliases() == aliases
        await call_refused(client, "hf_edit_aliases", name="tiny:Q8_0", remove=["first", "theirs"])
        assert list_aliases() == aliases
        change = {"name": "tiny:Q8_0", "add": ["third"], "remove": ["first", "second"]}
        await call_refused(client, "hf_edit_aliases", **change)
        assert list_aliases() == aliases, "the user has not agreed"
        await call_tool(client, "hf_edit_aliases", **change, confirm="first second")
    assert list_aliases() == aliases - {"first", "second"} | {"third"}
