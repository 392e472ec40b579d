"""Parse a lockfile. Everything in it is untrusted until it has passed the checks of this module."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from llm_hf_models.errors import BadInputError, LockfileError, LockfileTooNewError, MissingFileError
from llm_hf_models.gguf.template_audit import MAX_TEMPLATE_CHARS
from llm_hf_models.hub.refs import RepoFile, RepoId, is_commit, parse_alias, parse_revision
from llm_hf_models.inference.protocol.openai_protocol import MODALITIES
from llm_hf_models.inference.protocol.options import validate_stored_options
from llm_hf_models.library.records import TEMPLATE, CheckKind
from llm_hf_models.library.registered_models import REMOTE_PREFIX
from llm_hf_models.lockfiles.toml_text import sort_files
from llm_hf_models.lockfiles.types import LockedFact, LockedFile, LockedModel, Lockfile
from llm_hf_models.models.remote_endpoints import check_url
from llm_hf_models.system.text import clean_text, is_hidden, quote_label

VERSION = 1
MAX_BYTES = 4 << 20
MAX_MODELS = 5_000
MAX_ITEMS = 1_000  # files, aliases, facts or options of one model
MAX_FILE_BYTES = 1 << 44
MAX_TEXT_CHARS = 300
MAX_KEY_PARTS = 8  # of a dotted key: parsing a longer one takes quadratic time
NEWER_HINT = "llm install -U llm-hf-models"
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
# The strings and comments of TOML. An unclosed one reaches to the end, so that the search takes linear time.
_STRING = re.compile(
    r'"""(?:[^"\\]|\\(?:.|\Z)|"{1,2}(?!"))*(?:"{3,5}|\Z)'
    r"|'''(?:[^']|'{1,2}(?!'))*(?:'{3,5}|\Z)"
    r'|"(?:[^"\\\n]|\\(?:.|\Z))*(?:"|$|\Z)'
    r"|'[^'\n]*(?:'|$|\Z)"
    r"|\#[^\n]*",
    re.DOTALL | re.MULTILINE,
)
_DOTTED_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]+[ \t]*\.[ \t]*){{{MAX_KEY_PARTS}}}")
T = TypeVar("T")


def read_lockfile(path: Path) -> Lockfile:
    """Read and parse a lockfile.

    Raises:
        MissingFileError: The file does not exist or can't be read.
        LockfileError: It is not a valid lockfile.
    """
    return parse_lockfile(decode_text(read_content(path), str(path)), str(path))


def read_content(path: Path) -> bytes:
    """Return the content of a file, up to a byte more than a lockfile may have.

    Raises:
        MissingFileError: The file does not exist or can't be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise MissingFileError(f"{path} can't be read", cause=getattr(error, "strerror", None)) from None


def decode_text(content: bytes, name: str) -> str:
    """Return the text of a lockfile with this content.

    Raises:
        LockfileError: It is too large, or not UTF-8.
    """
    if len(content) > MAX_BYTES:
        raise LockfileError(f"{name} is too large for a lockfile", cause=f"The limit is {MAX_BYTES >> 20} MiB.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LockfileError(f"{name} is not a lockfile", cause=f"Byte {error.start} is not UTF-8.") from None


def parse_lockfile(text: str, name: str = "The lockfile") -> Lockfile:
    """Parse the text of a lockfile.

    Args:
        text: The text.
        name: The name of the file, for messages.

    Raises:
        LockfileTooNewError: A newer version of this package wrote it.
        LockfileError: A part of it is not valid; the message names the part.
    """
    if len(text) > MAX_BYTES:
        raise LockfileError(f"{name} is too large for a lockfile", cause=f"The limit is {MAX_BYTES >> 20} MiB.")
    top = _Table(_load_toml(text, name), name)
    version = top.take("version", int, required=True)
    if version > VERSION:
        raise LockfileTooNewError(
            f"{name} is a newer lockfile", cause=f"Its version is {version}; this one reads {VERSION}.", hint=NEWER_HINT
        )
    if version != VERSION:
        raise LockfileError(f"{name} has no valid version", cause=f"It is {version}; the only one is {VERSION}.")
    tables = top.take_list("models", dict, limit=MAX_MODELS)
    top.refuse_rest()
    models = tuple(_parse_model(table, f"{name}: model {number}") for number, table in enumerate(tables, 1))
    _refuse_duplicates((model.id for model in models), f"{name}: two models have the id")
    _refuse_duplicates((alias for model in models for alias in model.aliases), f"{name}: two models have the alias")
    return Lockfile(tuple(sorted(models, key=lambda model: (model.id.casefold(), model.id))))


def _load_toml(text: str, name: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    if any("\ud800" <= char <= "\udfff" for char in text):
        raise LockfileError(f"{name} is not valid Unicode")
    if _DOTTED_KEY.search(_STRING.sub("s", text)):
        raise LockfileError(f"{name} is not a lockfile", cause="It has a key of too many parts.")
    try:
        return dict(tomllib.loads(text))
    except RecursionError:
        raise LockfileError(f"{name} is not a lockfile", cause="It is nested too deeply.") from None
    except (ValueError, OverflowError) as error:  # TOMLDecodeError, or a number or date out of range
        raise LockfileError(f"{name} is not valid TOML", cause=clean_text(str(error), MAX_TEXT_CHARS)) from None


def _refuse_duplicates(names: Iterable[str], message: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise LockfileError(f"{message} {quote_label(name, MAX_TEXT_CHARS)}")
        seen.add(name.casefold())


class _Table:
    """A table of a lockfile, from which each field is taken once. Fields that are left are unknown."""

    def __init__(self, values: Mapping[str, Any], label: str) -> None:
        self._values, self.label = dict(values), label

    def make_error(self, problem: str, cause: str | None = None) -> LockfileError:
        """Return the error for a problem in this table."""
        return LockfileError(f"{self.label}: {problem}", cause=cause)

    def take(self, name: str, kind: type[T], *, required: bool = False) -> T:
        """Return the value of a field, or the empty value of its type if it is absent."""
        if name not in self._values:
            if required:
                raise self.make_error(f"{name} is missing")
            return kind()
        value = self._values.pop(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.make_error(f"{name} must be {_KINDS[kind]}, not {_KINDS.get(type(value), 'another value')}")
        return value

    def take_text(self, name: str, *, required: bool = False, limit: int = MAX_TEXT_CHARS) -> str | None:
        """Return one line of text without hidden characters, or None if it is absent."""
        if name not in self._values and not required:
            return None
        value = self.take(name, str, required=required)
        if not value or len(value) > limit:
            raise self.make_error(f"{name} must have 1 to {limit} characters")
        if any(map(is_hidden, value)):
            raise self.make_error(f"{name} has control or hidden characters")
        return value

    def take_word(self, name: str, words: Collection[str], *, required: bool = False) -> str | None:
        """Return one of the allowed words, or None if it is absent."""
        value = self.take_text(name, required=required)
        if value is not None and value not in words:
            raise self.make_error(f"{name} must be one of {', '.join(words)}, not {quote_label(value)}")
        return value

    def take_parsed(self, name: str, parse: Callable[[str], object], *, required: bool = False) -> str | None:
        """Return a text that a parser of names accepts, or None if it is absent."""
        value = self.take_text(name, required=required, limit=MAX_BYTES)
        if value is not None:
            self.parse(name, parse, value)
        return value

    def parse(self, name: str, parse: Callable[[str], object], value: str) -> None:
        """Raise the error of a parser of names as one of this table."""
        try:
            parse(value)
        except BadInputError as error:
            raise self.make_error(f"{name}: {error.message}", error.cause) from None

    def take_list(self, name: str, kind: type[T], *, limit: int = MAX_ITEMS) -> list[T]:
        """Return the items of a list, all of one type; an empty list if it is absent."""
        values = self.take(name, list)
        if len(values) > limit:
            raise self.make_error(f"{name} has {len(values)} entries; the limit is {limit}")
        for value in values:
            if not isinstance(value, kind):
                raise self.make_error(f"each entry of {name} must be {_KINDS[kind]}")
        return values

    def refuse_rest(self) -> None:
        """Raise an error if the table has a field that this version does not know."""
        if self._values:
            field = quote_label(min(self._values))
            error = self.make_error(f"the field {field} is unknown", "A newer llm-hf-models may know it.")
            error.hint = NEWER_HINT
            raise error


_KINDS: dict[type, str] = {
    int: "a whole number", str: "a text", bool: "true or false", list: "a list", dict: "a table",
    float: "a number", datetime: "a date and time",
}  # fmt: skip


def _parse_model(values: dict[str, Any], label: str) -> LockedModel:
    table = _Table(values, label)
    model_id = str(table.take_text("id", required=True, limit=MAX_TEXT_CHARS))
    table.label = f"{label} ({quote_label(model_id)})"
    endpoint = table.take_parsed("endpoint", check_url)
    model = _parse_endpoint(table, model_id, endpoint) if endpoint else _parse_stored_model(table, model_id)
    aliases = tuple(sorted(table.take_list("aliases", str), key=str.casefold))
    for alias in aliases:
        table.parse("aliases", parse_alias, alias)
    options, template = _parse_options(table)
    facts = sorted(
        (_parse_fact(fact, table.label) for fact in table.take_list("facts", dict)), key=lambda one: one.kind
    )
    _refuse_duplicates((fact.kind for fact in facts), f"{table.label}: two facts are of the kind")
    table.refuse_rest()
    return LockedModel(
        **{**vars(model), "aliases": aliases, "options": options, "template": template, "facts": tuple(facts)}
    )


def _parse_endpoint(table: _Table, model_id: str, endpoint: str) -> LockedModel:
    if not model_id.startswith(REMOTE_PREFIX):
        raise table.make_error(f"the id of a model with an endpoint starts with {REMOTE_PREFIX}")
    table.parse("id", parse_alias, model_id.removeprefix(REMOTE_PREFIX))
    variable = table.take_text("key_env")
    if variable is not None and not _VARIABLE.fullmatch(variable):
        raise table.make_error("key_env is not the name of an environment variable")
    key_name = table.take_text("key_name", limit=100)
    if variable and key_name:
        raise table.make_error("key_env and key_name exclude each other")
    modalities = table.take_list("modalities", str)
    if unknown := set(modalities) - set(MODALITIES):
        raise table.make_error(f"modalities has the unknown value {quote_label(min(unknown))}")
    return LockedModel(
        model_id,
        endpoint=endpoint,
        endpoint_model=table.take_text("endpoint_model", required=True),
        key_env=variable,
        key_name=key_name,
        kind=table.take_word("kind", ("chat", "embedding")) or "chat",
        modalities=tuple(sorted(set(modalities))),
    )


def _parse_stored_model(table: _Table, model_id: str) -> LockedModel:
    quant = str(table.take_text("quant", required=True, limit=200))
    _check_id(table, model_id, quant)
    repo = table.take_parsed("repo", RepoId.parse)
    commit = table.take_text("commit", required=repo is not None)
    if commit is not None and (repo is None or not is_commit(commit)):
        raise table.make_error("commit must be 40 hexadecimal digits, and belongs to a repo")
    revision = table.take_parsed("revision", parse_revision)
    if revision is not None and repo is None:
        raise table.make_error("a revision belongs to a repo")
    files = tuple(_parse_file(file, table.label) for file in table.take_list("files", dict))
    if not any(file.role == "weights" for file in files):
        raise table.make_error("it has no file with the role weights")
    _refuse_duplicates((file.path for file in files), f"{table.label}: two files have the path")
    return LockedModel(
        model_id,
        quant=quant,
        repo=repo,
        revision=revision,
        commit=commit,
        files=tuple(sort_files(files)),
        license=table.take_text("license"),
        task=table.take_text("task"),
        gated=cast("Any", table.take_word("gated", ("auto", "manual"))),
        private=table.take("private", bool),
        generation_config=_parse_sampling(table),
    )


def _check_id(table: _Table, model_id: str, quant: str) -> None:
    """Raise an error unless an id has the form `hf/owner/name:QUANT` or `hf/owner/name@revision:QUANT`."""
    name, _, ending = model_id.partition(":")
    repo, at, revision = name.removeprefix("hf/").partition("@")
    if not model_id.startswith("hf/") or ending != quant or model_id.startswith(REMOTE_PREFIX):
        raise table.make_error("id must have the form hf/owner/name:QUANT, with the value of quant")
    table.parse("id", RepoId.parse, repo)
    if at:
        table.parse("id", parse_revision, revision)


def _parse_file(values: dict[str, Any], label: str) -> LockedFile:
    table = _Table(values, f"{label}: file")
    path = str(table.take_parsed("path", RepoFile, required=True))
    table.label = f"{label}: file {quote_label(path)}"
    role = table.take_word("role", ("weights", "mmproj"), required=True)
    size = table.take("size", int, required=True)
    if not 0 < size <= MAX_FILE_BYTES:
        raise table.make_error(f"size must be 1 to {MAX_FILE_BYTES} bytes, not {clean_text(str(size), 40)}")
    sha256, sha1 = table.take_text("sha256"), table.take_text("git_sha1")
    if (sha256 is None) == (sha1 is None):
        raise table.make_error("it needs either sha256 or git_sha1")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise table.make_error("sha256 must be 64 hexadecimal digits in lower case")
    if sha1 is not None and not _SHA1.fullmatch(sha1):
        raise table.make_error("git_sha1 must be 40 hexadecimal digits in lower case")
    table.refuse_rest()
    return LockedFile(path, cast("Any", role), size, sha256, sha1)


def _parse_options(table: _Table) -> tuple[dict[str, Any], str | None]:
    values, template = dict(table.take("options", dict)), None
    if TEMPLATE in values:
        raise table.make_error("the chat template is the field template, not an option")
    template = table.take("template", str) or None
    if template is not None and len(template) > MAX_TEMPLATE_CHARS:
        raise table.make_error(f"template has more than {MAX_TEMPLATE_CHARS} characters")
    if len(values) > MAX_ITEMS:
        raise table.make_error("options has too many entries")
    try:
        return validate_stored_options(values, "the model"), template
    except (BadInputError, RecursionError, OverflowError) as error:
        message = error.message if isinstance(error, BadInputError) else "options has an invalid value"
        raise table.make_error(message) from None


def _parse_sampling(table: _Table) -> dict[str, float]:
    values = table.take("generation_config", dict)
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
            raise table.make_error(f"generation_config: {quote_label(key)} must be a number")
    if len(values) > MAX_ITEMS:
        raise table.make_error("generation_config has too many entries")
    return dict(values)


def _parse_fact(values: dict[str, Any], label: str) -> LockedFact:
    table = _Table(values, f"{label}: facts")
    kind = table.take_word("kind", get_args(CheckKind), required=True)
    result = str(table.take_text("result", required=True))
    at = table.take("at", datetime, required=True) if "at" in values else None
    if at is None or at.tzinfo is None:
        raise table.make_error("at must be a date and time in UTC")
    table.refuse_rest()
    try:
        return LockedFact(cast("Any", kind), result, at.timestamp())
    except (OverflowError, ValueError):
        raise table.make_error("at is out of range") from None
