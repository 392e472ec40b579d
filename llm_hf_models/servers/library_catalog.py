"""Build the catalog that the mirror serves from the library: each model under its repo and commit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.hub.refs import RepoId
from llm_hf_models.library.records import LocalFile, LocalModel
from llm_hf_models.servers.catalog import ServedFile, ServedRepo


@dataclass(frozen=True)
class LibraryCatalog:
    """The library's models with known digests.

    Gated and private repos are served only if named in `allow`, and so are models that were imported from local files
    and not found on the Hub.

    The library is read for each request, so that a pull or a removal takes effect at once.
    """

    context: Context
    allow: frozenset[RepoId] = frozenset()
    exported: Callable[[], Sequence[LocalModel]] | None = None  # reads the models of a folder, in place of the library

    def list_repos(self) -> Sequence[ServedRepo]:
        """Return one entry for each repo and commit, newest first."""
        models = [model for model in self._list_models() if self._is_published(model)]
        grouped: dict[tuple[str, str], list[LocalModel]] = {}
        for model in models:
            grouped.setdefault((get_served_repo(model), get_served_commit(model)), []).append(model)
        seen: set[str] = set()
        served = []
        for (repo, commit), group in grouped.items():
            served.append(_build_served_repo(repo, commit, group, newest=repo not in seen))
            seen.add(repo)
        return served

    def _list_models(self) -> list[LocalModel]:
        return [model for model in self._read_models() if _is_servable(model)]

    def _read_models(self) -> Sequence[LocalModel]:
        if self.exported is not None:
            return self.exported()
        with self.context.open_database() as db:
            return db.list_models()

    def _is_published(self, model: LocalModel) -> bool:
        return explain_restriction(model) is None or get_served_repo(model) in map(str, self.allow)

    def describe_hidden_repos(self) -> list[str]:
        """Return the repos that are not served because `allow` does not name them, each with the reason."""
        hidden = {
            get_served_repo(model): explain_restriction(model)
            for model in self._list_models()
            if not self._is_published(model)
        }
        return [f"{repo} ({reason})" for repo, reason in sorted(hidden.items())]

    def list_missing_repos(self) -> list[str]:
        """Return the repos in `allow` that have no model in the library."""
        present = {get_served_repo(model) for model in self._read_models()}
        return sorted({str(repo) for repo in self.allow} - present)


def _is_servable(model: LocalModel) -> bool:
    """Return whether the model's files are present and their digests known."""
    if model.endpoint or model.state in ("missing", "changed"):
        return False
    return all(file.sha256 or file.git_sha1 for file in model.files)


def explain_restriction(model: LocalModel) -> str | None:
    """Return why a model is served only if a person names it, or None."""
    if model.hub.get("gated"):
        return "gated"
    if model.hub.get("private"):
        return "private"
    return None if model.commit else "imported from a local file"


def get_served_repo(model: LocalModel) -> str:
    """Return the repo that a model is served as: its own, or `local/STEM` for an import without a repo."""
    return model.repo or model.model_id.removeprefix("hf/").partition(":")[0]


def get_served_commit(model: LocalModel) -> str:
    """Return the model's commit on the Hub, or if it is unknown, a substitute made from the files' digests."""
    if model.commit:
        return model.commit
    return make_substitute_commit((file.path, file.sha256 or file.git_sha1 or "") for file in model.files)


def make_substitute_commit(files: Iterable[tuple[str, str]]) -> str:
    """Return a substitute for the commit of files with these paths and digests."""
    digests = sorted(f"{path} {digest}" for path, digest in files)
    return hashlib.sha1("\n".join(digests).encode(), usedforsecurity=False).hexdigest()


def _build_served_repo(repo: str, commit: str, group: Sequence[LocalModel], *, newest: bool) -> ServedRepo:
    first, facts = group[0], group[0].facts
    revisions = {model.revision for model in group if model.revision} | ({"main"} if newest else set())
    return ServedRepo(
        id=repo,
        commit=commit,
        files=tuple(_build_served_files(file for model in group for file in model.files)),
        revisions=tuple(sorted(revisions - {commit})),
        task=first.hub.get("task") or ("text-generation" if facts.kind in ("chat", "base") else None),
        tags=tuple(dict.fromkeys((*first.hub.get("tags", ()), "gguf"))),
        license=first.hub.get("license") or facts.license,
        gated=first.hub.get("gated") or False,
        private=bool(first.hub.get("private")),
        downloads=int(first.hub.get("downloads") or 0),
        likes=int(first.hub.get("likes") or 0),
        updated=first.added,
        gguf={
            "total": facts.parameters,
            "architecture": facts.architecture,
            "context_length": facts.context_length,
            "totalFileSize": sum(file.size for model in group for file in model.files if file.role == "weights"),
        },
        base_models=facts.base_models,
    )


def _build_served_files(files: Iterable[LocalFile]) -> list[ServedFile]:
    unique = {file.path: file for file in files}
    return [
        ServedFile(file.path, Path(file.location), file.size, file.sha256, file.git_sha1)
        for _, file in sorted(unique.items())
    ]
