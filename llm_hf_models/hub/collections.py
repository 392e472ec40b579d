"""Collections of the Hub: their names and addresses, and the parts of the Hub's reply that are used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast, get_args
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, TypeAdapter

from llm_hf_models.errors import BadRefError
from llm_hf_models.hub.json_fields import OR_NONE, Text, validate_json
from llm_hf_models.hub.refs import HUB_HOSTS
from llm_hf_models.system.text import clean_text

MAX_TEXT_CHARS = 1000  # of an address
MAX_TITLE_CHARS = 200
MAX_NOTE_CHARS = 500
_OWNER = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_SLUG = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_HASH = re.compile(r"-[0-9a-f]{24}$")

ItemKind = Literal["model", "dataset", "space", "paper", "collection", "bucket", "unknown"]


@dataclass(frozen=True)
class CollectionSlug:
    """The name of a collection on the Hub, such as `owner/title-64f9a55bb3115b4f513ec026`."""

    owner: str
    name: str

    def __post_init__(self) -> None:
        is_safe = _OWNER.fullmatch(self.owner) and _SLUG.fullmatch(self.name) and ".." not in f"{self.owner}{self.name}"
        if not is_safe or self.owner.casefold() in HUB_HOSTS:
            raise _make_error(f"{self.owner}/{self.name}")

    @classmethod
    def parse(cls, text: str) -> CollectionSlug:
        """Parse `owner/slug-id`, or the address of the page of a collection.

        Raises:
            BadRefError: the text has neither form.
        """
        if len(text) > MAX_TEXT_CHARS:
            raise _make_error(text)
        path = text.strip()
        if path.casefold().startswith(("http://", "https://", *(f"{host}/" for host in HUB_HOSTS))):
            try:
                path = unquote(urlsplit(path if "://" in path else f"https://{path}").path)
            except ValueError:
                raise _make_error(text) from None
        parts = [part for part in path.split("/") if part]
        if parts[:1] == ["collections"] and len(parts) == 3:  # noqa: PLR2004 - collections/owner/slug
            del parts[0]
        if len(parts) != 2:  # noqa: PLR2004
            raise _make_error(text)
        return cls(*parts)

    @property
    def title(self) -> str:
        """Return the words of the name, without its id."""
        return _HASH.sub("", self.name)

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"


def _make_error(text: str) -> BadRefError:
    return BadRefError(
        f"{clean_text(text, 80)!r} is not a collection on the Hub",
        hint="Write owner/title-ID or https://huggingface.co/collections/owner/title-ID.",
    )


@dataclass(frozen=True)
class HubItem:
    """An item of a collection."""

    kind: ItemKind
    id: str  # such as `owner/name`; of a collection its slug. As the Hub sent it, because a cleaned id may be another
    note: str  # cleaned and cut


@dataclass(frozen=True)
class HubCollection:
    """A collection of the Hub. The title and the description are cleaned and cut."""

    title: str
    description: str
    items: tuple[HubItem, ...]


class _Note(BaseModel):
    text: Text = None


class _Item(BaseModel):
    id: Text = None
    slug: Text = None  # of a collection, whose `id` is another one
    type: Text = None
    note: Annotated[_Note | None, OR_NONE] = None


class _Collection(BaseModel):
    title: Text = None
    description: Text = None
    items: list[Annotated[_Item | None, OR_NONE]]


_COLLECTION: TypeAdapter[_Collection] = TypeAdapter(_Collection)


def parse_collection(body: bytes, host: str) -> HubCollection:
    """Parse the Hub's reply. An odd item is one of an unknown kind.

    Raises:
        HubUnavailableError: the reply is not JSON, or has no list of items.
    """
    found = validate_json(_COLLECTION, body, host)
    return HubCollection(
        clean_text(found.title or "", MAX_TITLE_CHARS),
        clean_text(found.description or "", MAX_NOTE_CHARS),
        tuple(_make_item(item) for item in found.items),
    )


def _make_item(item: _Item | None) -> HubItem:
    if item is None:
        return HubItem("unknown", "", "")
    kind: Any = item.type if item.type in get_args(ItemKind) else "unknown"
    name = item.slug if kind == "collection" and item.slug else item.id
    note = clean_text(item.note.text or "", MAX_NOTE_CHARS) if item.note else ""
    return HubItem(cast("ItemKind", kind), name or "", note)
