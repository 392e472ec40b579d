"""The rules for names of collections and of roles, in one place."""

from __future__ import annotations

import re

from llm_hf_models.errors import BadInputError
from llm_hf_models.system.text import clean_text

MAX_NAME_CHARS = 100
MAX_DEPTH = 8
MAX_NOTE_CHARS = 500
_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
# The first parts of ids of models, of URLs and of other things on the Hub.
_RESERVED = frozenset(
    {"hf", "local", "remote", "huggingface.co", "hf.co", "www.huggingface.co", "models", "datasets", "spaces"}
)
_HINT = "Use letters, digits and any of ._- such as `coding`, or `coding/small` for a collection in another one."


def parse_collection_name(text: str) -> str:
    """Validate and return the name of a collection.

    Raises:
        BadInputError: the name is malformed, too long or reserved.
    """
    parts = text.split("/")
    if len(text) > MAX_NAME_CHARS:
        cause = f"It has more than {MAX_NAME_CHARS} characters."
    elif len(parts) > MAX_DEPTH:
        cause = f"It has more than {MAX_DEPTH} parts."
    elif not all(_PART.fullmatch(part) and ".." not in part for part in parts):
        cause = "A part of it is empty, or has other characters than these."
    elif parts[0].casefold() in _RESERVED:
        cause = f"Names that start with {parts[0]} belong to models."
    else:
        return text
    raise BadInputError(f"{clean_text(text, 60)!r} is not a valid name of a collection", cause=cause, hint=_HINT)


def parse_role(text: str) -> str:
    """Validate and return the role of a model in a collection.

    Raises:
        BadInputError: the role can't be a part of a model's name.
    """
    if len(text) > MAX_NAME_CHARS or not _PART.fullmatch(text) or ".." in text:
        raise BadInputError(
            f"{clean_text(text, 60)!r} is not a valid role",
            hint="Use letters, digits and any of ._- such as `best`.",
        )
    return text


def parse_note(text: str) -> str:
    """Return a note without control characters.

    Raises:
        BadInputError: the note is too long.
    """
    if len(text) > MAX_NOTE_CHARS:
        raise BadInputError(f"A note has at most {MAX_NOTE_CHARS} characters", cause=f"This one has {len(text)}.")
    return clean_text(text, MAX_NOTE_CHARS)


def list_parents(name: str) -> list[str]:
    """Return the collections that contain a collection by its name, outermost first."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
