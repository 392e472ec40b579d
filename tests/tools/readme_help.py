"""README's generated parts: every command's help, the settings, the Python snippets. `--write` updates them.

README marks each as `<!-- help:COMMAND -->` … `<!-- /help -->` (`help:all` is every command) and `<!-- settings -->` …
`<!-- /settings -->`; `snippet:NAME` is a file of tests/end_to_end/snippets. A test compares README with this.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from llm_hf_models.cli.format import format_setting
from llm_hf_models.cli.main import hf
from llm_hf_models.settings import Settings, get_unit

README = Path(__file__).parents[2] / "README.md"
SNIPPETS = Path(__file__).parents[1] / "end_to_end/snippets"
WIDTH = 80
_MARKED = re.compile(
    r"(?P<open><!-- (?P<what>help:(?P<name>\w+)|settings|snippet:\w+) -->\n).*?"
    r"(?P<close><!-- /(?:help|settings|snippet) -->)",
    re.DOTALL,
)


def make_help_blocks() -> dict[str, str]:
    """Return the `--help` of `llm hf` (as `hf`) and of each of its commands, as a terminal of 80 columns shows it."""
    context = click.Context(
        hf, info_name="llm hf", terminal_width=WIDTH, max_content_width=WIDTH, **hf.context_settings
    )
    return {"hf": hf.get_help(context), **dict(_list_helps(context, hf, ""))}


def _list_helps(parent: click.Context, group: click.Group, before: str) -> Iterator[tuple[str, str]]:
    for name, command in group.commands.items():
        with click.Context(command, info_name=name, parent=parent) as context:
            yield before + name, command.get_help(context)
            if isinstance(command, click.Group):
                yield from _list_helps(context, command, f"{before}{name} ")


def make_settings_table() -> str:
    """Return every setting with its default and description, as a Markdown table."""
    rows = [
        f"| `{key}` | {format_setting(field.default, get_unit(key))} | {field.description} |"
        for key, field in Settings.model_fields.items()
    ]
    return "\n".join(["| setting | default | what it does |", "|---|---|---|", *rows]) + "\n"


def make_parts() -> dict[str, str]:
    """Return the text by marker: `help:hf`, `help:pull`, …, `help:all`, `settings`."""
    blocks = {name: f"```text\n{text}\n```\n" for name, text in make_help_blocks().items()}
    titled = [text if name == "hf" else f"### llm hf {name}\n\n{text}" for name, text in blocks.items()]
    marked = {f"help:{name}": text for name, text in blocks.items()}
    snippets = {f"snippet:{file.stem}": f"```python\n{file.read_text()}```\n" for file in SNIPPETS.glob("*.py")}
    return {**marked, **snippets, "help:all": "\n".join(titled), "settings": make_settings_table()}


def update_readme(text: str) -> str:
    """Return README with its generated parts updated.

    Raises:
        KeyError: A marker names no command.
    """
    now = make_parts()
    return _MARKED.sub(lambda found: f"{found['open']}{now[found['what']]}{found['close']}", text)


def list_documented(text: str) -> Iterator[str]:
    """Yield the commands whose help README has."""
    for found in _MARKED.finditer(text):
        if found["name"] == "all":
            yield from make_help_blocks()
        elif found["name"]:
            yield found["name"]


def main() -> int:
    """Update README with `--write`; without it return 1 if README is outdated."""
    text = README.read_text(encoding="utf-8")
    if "--write" in sys.argv[1:]:
        README.write_text(update_readme(text), encoding="utf-8")
        return 0
    return 0 if update_readme(text) == text else 1


if __name__ == "__main__":
    sys.exit(main())
