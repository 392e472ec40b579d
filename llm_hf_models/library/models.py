"""Database tables of local models: files, names, options and checks. Reads no model files."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from llm_hf_models.errors import AmbiguousNameError, NameTakenError, UnknownModelError
from llm_hf_models.gguf.facts import ModelFacts, apply_kind, apply_template
from llm_hf_models.gguf.spellings import find_named, list_file_names
from llm_hf_models.library.collections import CollectionTables
from llm_hf_models.library.records import KIND, TEMPLATE, Check, LocalFile, LocalModel
from llm_hf_models.library.registered_models import list_repo_names
from llm_hf_models.library.sqlite_file import Row, encode_json, translate_row_errors
from llm_hf_models.system.hashing import FileStamp
from llm_hf_models.system.text import suggest_word

MAX_NAME_CHARS = 100  # longest name quoted in a message
_HUB_PREFIX = re.compile(r"^(?:hf://|(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/)", re.IGNORECASE)


def parse_facts(text: str) -> ModelFacts:
    """Parse the stored facts of a model. Drop fields that this version doesn't know."""
    known = {key: value for key, value in json.loads(text).items() if key in ModelFacts.__dataclass_fields__}
    for key in ("modalities", "base_models", "projection_widths"):
        if key in known:
            known[key] = tuple(known[key])
    return ModelFacts(**known)


class ModelTables(CollectionTables):
    """The part of the database that stores local models."""

    def register(self, model: LocalModel) -> LocalModel:
        """Insert a model, or replace the model with the same id but keep its aliases, options and pin.

        This uses one transaction. Aliases that already name another model are skipped. The returned
        model lists the aliases that it has.
        """
        with self.transaction():
            self.write(
                "insert into models (model_id, repo, revision, commit_hash, quant, kind, facts, options, endpoint,"
                " place, hub, added, pinned) values (?,?,?,?,?,?,?,?,?,?,?,?,?) on conflict(model_id) do update set"
                " repo=excluded.repo, revision=excluded.revision, commit_hash=excluded.commit_hash,"
                " quant=excluded.quant, kind=excluded.kind, facts=excluded.facts, endpoint=excluded.endpoint,"
                " place=excluded.place, hub=excluded.hub",
                model.model_id, model.repo, model.revision, model.commit, model.quant, model.facts.kind,
                encode_json(asdict(model.facts)), encode_json(dict(model.options)), model.endpoint, model.place,
                encode_json(dict(model.hub)), model.added or time.time(), model.pinned,
            )  # fmt: skip
            key = self.find_key(model.model_id)
            self.write("delete from files where model = ?", key)
            for position, file in enumerate(model.files):
                self.write(
                    "insert into files values (?,?,?,?,?,?,?,?,?,?)", key, position, file.path, file.role, file.size,
                    file.location, file.sha256, file.git_sha1, file.mtime_ns, file.ctime_ns,
                )  # fmt: skip
            self.write("delete from checks where model = ?", key)
            for check in model.checks:
                self._insert_check(key, check)
            for alias in model.aliases:
                self.write("insert or ignore into aliases values (?, ?)", alias, key)
        return self.get_model(model.model_id)

    def find_key(self, model_id: str) -> int:
        """Return the key of the model's row.

        Raises:
            UnknownModelError: no model has this id.
        """
        rows = self.fetch_rows("select id from models where model_id = ?", model_id)
        if not rows:
            raise UnknownModelError(
                f"There is no local model {model_id}", hint="List the local models with `llm hf list`."
            )
        return int(rows[0]["id"])

    def list_models(self) -> list[LocalModel]:
        """Return all local models, newest first."""
        return self._load_models("order by models.added desc, models.id desc")

    def get_model(self, model_id: str) -> LocalModel:
        """Return the model with exactly this id.

        Raises:
            UnknownModelError: no model has this id.
        """
        found = self._load_models("where models.model_id = ?", model_id)
        if not found:
            raise UnknownModelError(
                f"There is no local model {model_id}", hint="List the local models with `llm hf list`."
            )
        return found[0]

    def find_model(self, name: str) -> LocalModel:
        """Find a model by a name that a user typed.

        A name is an id with or without `hf/`, an alias, a repo with one local variant, a file's name, or the role of
        a model in a collection. The quantization in it may have any spelling that a pull accepts.

        Raises:
            UnknownModelError: no model has this name.
            AmbiguousNameError: several models have this name. The cause lists them.
        """
        text = _HUB_PREFIX.sub("", name.strip())
        with self.snapshot():
            exact = self._load_models("where models.model_id in (?, ?)", text, f"hf/{text}")
            return exact[0] if len(exact) == 1 else self._load_models("where models.id = ?", self._find_key_of(name))[0]

    def _find_key_of(self, name: str) -> int:
        """Find the model with this name. This reads the names of all models, but not their facts."""
        text = _HUB_PREFIX.sub("", name.strip())
        wanted = text.casefold()
        every = self._list_names()
        rules: tuple[Callable[[_Names], bool], ...] = (
            lambda m: m.model_id.casefold() in (wanted, f"hf/{wanted}"),
            lambda m: wanted in (alias.casefold() for alias in m.aliases),
            lambda m: wanted.removeprefix("hf/") in (name.casefold() for name in list_repo_names(m.model_id, m.repo)),
            lambda m: _extract_name(m.model_id).casefold() == wanted,
        )
        for rule in (*rules, None):
            found = [each for each in every if rule(each)] if rule else self._find_by_spelling(every, text)
            if len(found) == 1:
                return found[0].key
            if found:
                names = ", ".join(model.model_id for model in found)
                raise AmbiguousNameError(
                    f"{name[:MAX_NAME_CHARS]!r} names {len(found)} local models", cause=names, hint="Use one of these."
                )
        if ref := self.find_role(name.strip()):  # `hf://…` never is a role
            return self._find_key_of_role(ref, name)
        known = [each for m in every for each in (*m.aliases, m.model_id, _extract_name(m.model_id))]
        hint = self.suggest_collection(name.strip()) or suggest_word(name, known)
        hint += "List the local models with `llm hf list`."
        raise UnknownModelError(f"There is no local model {name[:MAX_NAME_CHARS]!r}", hint=hint)

    def _list_names(self) -> list[_Names]:
        """Return the names of all models, newest first."""
        aliases: dict[int, list[str]] = {}
        for row in self.fetch_rows("select model, alias from aliases order by model, alias"):
            aliases.setdefault(row["model"], []).append(row["alias"])
        rows = self.fetch_rows("select id, model_id, repo, quant from models order by added desc, id desc")
        return [
            _Names(row["id"], row["model_id"], row["repo"], row["quant"], tuple(aliases.get(row["id"], ())))
            for row in rows
        ]

    def _find_by_spelling(self, models: Iterable[_Names], text: str) -> list[_Names]:
        """Return the models that `repo:QUANT` or `alias:QUANT` names in any spelling, or the name of a file."""
        paths: dict[int, list[str]] = {}
        for row in self.fetch_rows("select model, path from files where role = 'weights' order by model, position"):
            paths.setdefault(row["model"], []).append(row["path"])
        entries = [_Entry(model.quant, tuple(paths.get(model.key, ())), model) for model in models]
        head, colon, spelling = text.removeprefix("hf/").partition(":")
        if not colon:
            folded = head.casefold()
            found = [
                entry
                for entry in entries
                if any(folded in map(str.casefold, list_file_names(path)) for path in entry.files)
            ]
        else:
            found = find_named([entry for entry in entries if head.casefold() in _list_heads(entry.model)], spelling)
        return [entry.model for entry in found]

    def _find_key_of_role(self, ref: str, name: str) -> int:
        if model_id := self.find_local_ids([ref])[ref]:
            return self.find_key(model_id)
        raise UnknownModelError(
            f"{ref}, which is {name[:MAX_NAME_CHARS]}, is not on this machine", hint=f"llm hf pull {ref}"
        )

    def _load_models(self, tail: str, *values: object) -> list[LocalModel]:
        with self.snapshot():
            rows = self.fetch_rows(f"select * from models {tail}", *values)  # noqa: S608 - the tails are literals in this module
            keys = {int(row["id"]) for row in rows}
            if not keys:
                return []
            files = self._group_by_model("files", "position", keys)
            aliases = self._group_by_model("aliases", "alias", keys)
            checks = self._group_by_model("checks", "at desc, id desc", keys)
        with translate_row_errors(self.path):
            return [_parse_model_row(row, files[row["id"]], aliases[row["id"]], checks[row["id"]]) for row in rows]

    def _group_by_model(self, table: str, order: str, keys: set[int]) -> dict[int, list[Row]]:
        only = f"where model = {next(iter(keys))}" if len(keys) == 1 else ""
        grouped: dict[int, list[Row]] = {key: [] for key in keys}
        for row in self.fetch_rows(f"select * from {table} {only} order by model, {order}"):  # noqa: S608 - literals
            grouped.setdefault(row["model"], []).append(row)
        return grouped

    def remove_model(self, model_id: str) -> None:
        """Delete a model's record. The caller deletes its files.

        Raises:
            UnknownModelError: no model has this id.
        """
        if not self.write("delete from models where model_id = ?", model_id):
            self.find_key(model_id)

    def add_check(self, model_id: str, check: Check) -> None:
        """Record a check of a model."""
        self._insert_check(self.find_key(model_id), check)

    def _insert_check(self, key: int, check: Check) -> None:
        self.write(
            "insert into checks (model, kind, result, at, detail) values (?,?,?,?,?)",
            key, check.kind, check.result, check.at, encode_json(dict(check.detail)),
        )  # fmt: skip

    def record_verified_files(self, model_id: str, stamps: Mapping[str, FileStamp]) -> None:
        """Record the time stamps of verified files, by location."""
        key = self.find_key(model_id)
        for location, stamp in stamps.items():
            self.write(
                "update files set mtime_ns = ?, ctime_ns = ? where model = ? and location = ?",
                stamp.mtime_ns, stamp.ctime_ns, key, location,
            )  # fmt: skip

    def set_options(self, model_id: str, options: Mapping[str, Any]) -> None:
        """Replace the options that the user set for a model."""
        self.write("update models set options = ? where id = ?", encode_json(dict(options)), self.find_key(model_id))

    def set_repo(self, model_id: str, repo: str) -> None:
        """Record the current name of the repo that a model is from."""
        self.write("update models set repo = ? where id = ?", repo, self.find_key(model_id))

    def set_pinned(self, model_id: str, pinned: bool) -> None:
        """Record whether updates leave a model at its commit."""
        self.write("update models set pinned = ? where id = ?", pinned, self.find_key(model_id))

    def touch_model(self, model_id: str) -> None:
        """Record that a model is used now."""
        self.write("update models set last_used = ? where model_id = ?", time.time(), model_id)

    def add_alias(self, alias: str, model_id: str) -> None:
        """Give a model another name.

        Raises:
            NameTakenError: the alias already names another model.
        """
        key = self.find_key(model_id)
        with self.transaction():
            rows = self.fetch_rows(
                "select model_id from aliases join models on models.id = aliases.model where alias = ?", alias
            )
            if rows and rows[0]["model_id"] != model_id:
                raise NameTakenError(
                    f"{alias!r} already names {rows[0]['model_id']}", hint=f"llm hf alias --remove {alias}"
                )
            self.write("insert or ignore into aliases values (?, ?)", alias, key)

    def replace_aliases(self, model_id: str, aliases: Iterable[str]) -> None:
        """Give a model exactly these aliases. Other models lose those that they have."""
        key = self.find_key(model_id)
        with self.transaction():
            self.write("delete from aliases where model = ?", key)
            for alias in aliases:
                self.write("insert or replace into aliases values (?, ?)", alias, key)

    def remove_alias(self, alias: str) -> None:
        """Remove an alias.

        Raises:
            UnknownModelError: no model has this alias.
        """
        if not self.write("delete from aliases where alias = ?", alias):
            known = (row["alias"] for row in self.fetch_rows("select alias from aliases"))
            hint = suggest_word(alias, known) + "List the aliases with `llm hf alias`."
            raise UnknownModelError(f"No local model has the alias {alias[:MAX_NAME_CHARS]!r}", hint=hint)


class _Names(NamedTuple):
    key: int
    model_id: str
    repo: str | None
    quant: str
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    quant: str
    files: tuple[str, ...]
    model: _Names


def _list_heads(model: _Names) -> set[str]:
    """Return what a name of the model can have before the colon, in lower case."""
    heads = (
        *list_repo_names(model.model_id, model.repo),
        model.model_id.removeprefix("hf/"),
        _extract_name(model.model_id),
        *model.aliases,
    )
    return {head.partition(":")[0].casefold() for head in heads if head}


def _extract_name(model_id: str) -> str:
    """Return `name` from `hf/owner/name@revision:QUANT`."""
    return model_id.partition(":")[0].partition("@")[0].rpartition("/")[2]


def _parse_model_row(row: Row, files: Iterable[Row], aliases: Iterable[Row], checks: Iterable[Row]) -> LocalModel:
    options = json.loads(row["options"])
    return LocalModel(
        model_id=row["model_id"],
        repo=row["repo"],
        revision=row["revision"],
        commit=row["commit_hash"],
        quant=row["quant"],
        files=tuple(
            LocalFile(
                f["path"], f["role"], f["size"], f["location"], f["sha256"], f["git_sha1"], f["mtime_ns"], f["ctime_ns"]
            )
            for f in files
        ),
        facts=apply_kind(apply_template(parse_facts(row["facts"]), options.get(TEMPLATE)), options.get(KIND)),
        aliases=tuple(alias["alias"] for alias in aliases),
        options=options,
        checks=tuple(Check(c["kind"], c["result"], c["at"], json.loads(c["detail"])) for c in checks),
        added=row["added"],
        last_used=row["last_used"],
        endpoint=row["endpoint"],
        place=row["place"],
        hub=json.loads(row["hub"]),
        pinned=bool(row["pinned"]),
    )
