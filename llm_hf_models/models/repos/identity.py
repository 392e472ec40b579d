"""Decide which local models are of a repo on the Hub. Names differ in capitals only, and repos are renamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from llm_hf_models.errors import HfModelsError
from llm_hf_models.gguf.variants import Variant
from llm_hf_models.hub.types import RepoDetails
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import LocalModel


def is_same_repo(one: str | None, other: str) -> bool:
    """Return whether two names are of one repo, unless it was renamed. The Hub ignores capitals."""
    return one is not None and one.casefold() == other.casefold()


def find_models_of_repo(models: Iterable[LocalModel], repo: str) -> list[LocalModel]:
    """Return the local models of a repo."""
    return [model for model in models if is_same_repo(model.repo, repo)]


def find_model_of_variant(
    models: Sequence[LocalModel], repo: str, quant: str, revision: str | None
) -> LocalModel | None:
    """Return the local model of a variant of a repo, whatever capitals its id has."""
    found = [model for model in find_models_of_repo(models, repo) if (model.quant, model.revision) == (quant, revision)]
    return next(iter(found), None)


def find_local_variant(
    models: Sequence[LocalModel], repo: str, variant: Variant, digests_by_path: Mapping[str, str | None]
) -> LocalModel | None:
    """Return the local model to show with a variant: one of the repo, else one of another repo with the same files."""
    of_repo = [model for model in find_models_of_repo(models, repo) if model.quant == variant.quant]
    digests = {digests_by_path.get(path) for path in variant.files}
    same = (model for model in models if None not in digests and list_weight_digests(model) == digests)
    return next(iter(of_repo), None) or next(same, None)


def list_weight_digests(model: LocalModel) -> set[str | None]:
    """Return the digests of a model's weights."""
    return {file.sha256 for file in model.files if file.role == "weights"}


def record_new_name(db: Database, details: RepoDetails, has_new_name: Callable[[str], bool]) -> None:
    """Record the current name of a repo for the local models that were pulled under an earlier name.

    Only a model whose files are those of the repo is changed. Its id stays, because llm's settings refer to it.

    Args:
        db: the library.
        details: the repo.
        has_new_name: returns whether the Hub redirects another name to this repo.
    """
    digests = {file.sha256 for file in details.files if file.sha256}
    candidates: dict[str, list[LocalModel]] = {}
    for model in db.list_models():
        weights = list_weight_digests(model)
        if model.repo and model.commit and model.repo != details.id and weights and weights <= digests:
            candidates.setdefault(model.repo, []).append(model)
    for repo, models in candidates.items():
        if is_same_repo(repo, details.id) or _is_renamed(repo, has_new_name):
            for model in models:
                db.set_repo(model.model_id, details.id)


def _is_renamed(repo: str, has_new_name: Callable[[str], bool]) -> bool:
    try:
        return has_new_name(repo)
    except HfModelsError:  # the repo was removed, or the Hub did not answer
        return False
