"""Define the rows of a list of models. Importing this module costs almost nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from llm_hf_models.library.file_states import ModelState
    from llm_hf_models.library.records import EndpointHealth


class ModelSummary(NamedTuple):
    """A local model as a row of a list. It is read without the model's facts, options and checks."""

    id: str
    aliases: tuple[str, ...]
    state: ModelState | Literal["remote"]
    kind: str
    size_bytes: int | None  # of all files; None without files
    repo: str | None
    revision: str | None
    commit: str | None
    quant: str
    added: float
    last_used: float | None
    location: str | None = None  # of the first file
    has_unproven_files: bool = False  # whether the content of a file is unknown
    pinned: bool = False  # whether updates leave it at its commit
    fix: str | None = None  # the command that repairs a model that is not ready
    health: EndpointHealth | None = None  # of a remote model, if requested
    collections: tuple[str, ...] = ()  # if requested
    # Only in a survey (Library.survey). None otherwise, or if it is unknown.
    update_available: bool | None = None
    update_note: str | None = None
    freed_bytes: int | None = None
