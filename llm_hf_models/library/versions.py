"""Database table of other versions of local models: those that were replaced, and those that failed a load test."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import get_args

from llm_hf_models.library.models import ModelTables, parse_facts
from llm_hf_models.library.records import Check, LocalFile, LocalModel, ModelVersion, VersionState
from llm_hf_models.library.sqlite_file import Row, encode_json, translate_row_errors


class VersionTables(ModelTables):
    """The part of the database that stores other versions of local models."""

    def list_versions(self, model_id: str) -> list[ModelVersion]:
        """Return the other versions of a model, the most recently replaced first."""
        return self.list_all_versions(model_id).get(model_id, [])

    def list_all_versions(self, model_id: str | None = None) -> dict[str, list[ModelVersion]]:
        """Return the other versions by the id of their model, the most recently replaced first.

        A pull or a sync can have returned a model to a recorded version, which is then not another one.
        """
        rows = self.fetch_rows(
            "select models.model_id, versions.* from versions join models on models.id = versions.model"
            " where (?1 is null or models.model_id = ?1) and versions.commit_hash is not models.commit_hash"
            " order by versions.replaced desc, versions.id desc",
            model_id,
        )
        found: dict[str, list[ModelVersion]] = {}
        with translate_row_errors(self.path):
            for row in rows:
                found.setdefault(row["model_id"], []).append(_parse_version(row))
        return found

    def save_version(self, model_id: str, version: ModelVersion) -> None:
        """Record another version of a model, in place of a record of the same commit."""
        key = self.find_key(model_id)
        with self.transaction():
            self.remove_version(model_id, version.commit)
            self.write(
                "insert into versions (model, repo, commit_hash, facts, hub, files, checks, replaced, state)"
                " values (?,?,?,?,?,?,?,?,?)",
                key, version.repo, version.commit, encode_json(asdict(version.facts)), encode_json(dict(version.hub)),
                encode_json([asdict(file) for file in version.files]),
                encode_json([asdict(check) for check in version.checks]), version.replaced, version.state,
            )  # fmt: skip

    def remove_version(self, model_id: str, commit: str | None) -> None:
        """Remove the record of another version, if there is one."""
        self.write("delete from versions where model = ? and commit_hash is ?", self.find_key(model_id), commit)

    def set_version_state(self, model_id: str, commit: str | None, state: VersionState) -> None:
        """Record whether the files of another version are kept."""
        self.write(
            "update versions set state = ? where model = ? and commit_hash is ?", state, self.find_key(model_id), commit
        )

    def switch_version(self, model: LocalModel, *, keep_old: bool) -> LocalModel:
        """Replace a model by another version, in one transaction, and record the version that it had.

        Its aliases, options and pin stay. A version with the same files is replaced without a record.

        Raises:
            UnknownModelError: the model was removed in the meantime.
        """
        with self.transaction():
            old = self.get_model(model.model_id)
            if _list_contents(old) != _list_contents(model):
                self.save_version(model.model_id, make_version(old, "kept" if keep_old else "replaced"))
            self.remove_version(model.model_id, model.commit)
            return self.register(model)


def make_version(model: LocalModel, state: VersionState) -> ModelVersion:
    """Return the record of a model's version, as it is replaced or refused now."""
    return ModelVersion(model.repo, model.commit, model.facts, model.hub, model.files, model.checks, time.time(), state)


def _list_contents(model: LocalModel) -> set[tuple[str, str | None]]:
    return {(file.path, file.sha256 or file.git_sha1) for file in model.files}


def _parse_version(row: Row) -> ModelVersion:
    if row["state"] not in get_args(VersionState):
        raise ValueError(f"unknown state {row['state']!r}")
    return ModelVersion(
        repo=row["repo"],
        commit=row["commit_hash"],
        facts=parse_facts(row["facts"]),
        hub=json.loads(row["hub"]),
        files=tuple(LocalFile(**file) for file in json.loads(row["files"])),
        checks=tuple(Check(**check) for check in json.loads(row["checks"])),
        replaced=row["replaced"],
        state=row["state"],
    )
