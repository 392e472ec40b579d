"""Explain usage errors: the names that commands have in other tools, and messages that fit the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.layout import wrap_words
from llm_hf_models.system.text import clean_text, suggest_word

MAX_NAME_CHARS = 60
_PREFIX = "Error: "  # click's, before the message

# Commands of hf, ollama, pip and llm, and the command here that does the same.
OTHER_NAMES = {
    "add": "llm hf pull REF",
    "aliases": "llm hf alias",
    "auth": "llm hf login",
    "chat": "llm chat -m NAME",
    "collections": "llm hf collection list",
    "clean": "llm hf gc",
    "config": "llm hf settings",
    "configure": "llm hf settings",
    "delete": "llm hf rm NAME",
    "df": "llm hf du",
    "disk": "llm hf du",
    "download": "llm hf pull REF",
    "embed": "llm embed -m NAME -c 'TEXT'",
    "find": "llm hf search QUERY",
    "get": "llm hf pull REF",
    "freeze": "llm hf pin NAME",
    "help": "llm hf --help",
    "install": "llm hf pull REF",
    "kill": "llm hf stop NAME",
    "log": "llm logs",
    "logs": "llm logs",
    "ls": "llm hf list",
    "models": "llm hf list",
    "prompt": "llm -m NAME 'PROMPT'",
    "remove": "llm hf rm NAME",
    "run": "llm -m NAME 'PROMPT'",
    "server": "llm hf serve",
    "start": "llm -m NAME 'PROMPT'",
    "undo": "llm hf rollback NAME",
    "unload": "llm hf stop NAME",
    "upgrade": "llm hf update NAME",
    "version": "llm hf --version",
}


def explain_unknown_command(name: str, known: Iterable[str]) -> str:
    """Return the message for a command that does not exist, with the command that was probably meant."""
    message = f"No such command {clean_text(name, MAX_NAME_CHARS)!r}."
    if other := OTHER_NAMES.get(name.casefold()):
        return f"{message} Use: {other}"
    return f"{message} {suggest_word(name, known)}".rstrip()


def wrap_message(error: click.UsageError) -> click.UsageError:
    """Return the error with a message that fits the terminal's width."""
    if type(error).show is not click.UsageError.show:  # shows a help text
        return error
    text = wrap_words(_PREFIX + error.format_message(), output.get_width(sys.stderr))
    return click.UsageError(text.removeprefix(_PREFIX), error.ctx)
