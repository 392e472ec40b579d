"""Result types of the verbs about models. Holds no logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.memory_fit import Fit
from llm_hf_models.gguf.rules import Finding
from llm_hf_models.gguf.variants import Variant
from llm_hf_models.hub.types import HubFile, RepoSummary
from llm_hf_models.inference.types import LoadResult
from llm_hf_models.library.records import (
    Check,
    EndpointHealth,
    LocalFile,
    ModelDefault,
    ModelState,
)


@dataclass(frozen=True)
class ImportResult:
    """A file that was already on the disk and is now a local model."""

    model: LocalModelView
    digest: str  # "matches owner/name@commit" | "not checked: …"


@dataclass(frozen=True)
class TensorView:
    """One tensor of the header."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int


@dataclass(frozen=True)
class Inspection:
    """A header as the faces show it. Sizes in bytes; what was not asked for is None."""

    source: str
    file: str
    version: int
    byte_order: str
    header_bytes: int
    fetched_bytes: int  # from the Hub for this; 0 for a file that is here
    alignment: int
    tensor_count: int
    facts: ModelFacts
    metadata: Mapping[str, Any] | None = None
    tensors: tuple[TensorView, ...] | None = None
    chat_template: str | None = None


@dataclass(frozen=True)
class CheckReport:
    """What the validator has to say of a file."""

    source: str
    errors: int
    warnings: int
    findings: tuple[Finding, ...]
    complete: bool  # False where only the header could be seen
    own_template: bool = False  # prompts use a chat template of the person's own, whose findings are among these


@dataclass(frozen=True)
class LocalModelView:
    """A local model as the faces show it. Times in Unix seconds, sizes in bytes."""

    model_id: str
    aliases: tuple[str, ...]
    state: ModelState | Literal["remote"]
    kind: str
    repo: str | None
    revision: str | None
    commit: str | None
    quant: str
    size: int
    facts: ModelFacts
    files: tuple[LocalFile, ...]
    options: Mapping[str, Any]
    checks: tuple[Check, ...]
    added: float
    last_used: float | None
    hub: Mapping[str, Any]
    endpoint: str | None = None
    endpoint_model: str | None = None  # what it is called there
    key_env: str | None = None  # the environment variable that holds the key for it
    key_name: str | None = None  # or the key's name among llm's
    key_in_the_clear: bool = False  # whether that key goes over a network without TLS
    health: EndpointHealth | None = None  # of one served elsewhere, where it was asked for
    defaults: tuple[ModelDefault, ...] = ()  # of one model that is shown alone
    fix: str | None = None  # the command that mends a state that is not ready


@dataclass(frozen=True)
class Removal:
    """What `rm` removes, or would. Bytes; `kept` are files that something else uses or that are not ours to remove."""

    model_id: str
    files: tuple[str, ...]
    freed_bytes: int
    kept: tuple[str, ...] = ()
    done: bool = False


@dataclass(frozen=True)
class Verification:
    """Re-hashed files of one model.

    Each file's result is MATCHES, UNCHANGED, "differs: …", "missing", "not readable: …" or "no digest recorded".
    """

    model_id: str
    matches: bool  # every file is what the Hub recorded at the pinned commit
    unchanged: bool  # every file is what was recorded here, whether or not the Hub was ever asked
    files: tuple[tuple[str, str], ...]  # (path, result)
    fix: str | None = None
    scan: Check | None = None  # what the Hub's scanners had said when it was pulled


@dataclass(frozen=True)
class Freshness:
    """Where an answer came from: the Hub just now, or the metadata cache. `age` in seconds."""

    source: Literal["hub", "cache"] = "hub"
    age: float = 0.0
    stale: bool = False  # older than it should be, and shown because the Hub gave none now
    problem: str | None = None  # why it gave none


@dataclass(frozen=True)
class PromptResult:
    """What a model said. Tokens are counted by its engine; `notes` say what was done to make it run."""

    model_id: str
    text: str
    reasoning: str
    finish_reason: str | None  # stop; length: it was cut at max_tokens
    input_tokens: int | None
    output_tokens: int | None
    tokens_per_second: float | None
    load_seconds: float | None  # None where it was warm
    context: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SearchResult(RepoSummary):
    """A row of a search, with what this machine knows of it."""

    local_models: tuple[str, ...] = ()  # ids of local models of that repo
    fits: bool | None = None  # estimated from its parameters; None where the Hub doesn't say


@dataclass(frozen=True)
class SearchPage:
    """What a search found. `loosen` suggests what to drop when it found nothing."""

    results: tuple[SearchResult, ...]
    freshness: Freshness
    suggestions: tuple[str, ...] = ()


@dataclass(frozen=True)
class VariantInfo(Variant):
    """A variant, weighed against this machine."""

    bits_per_weight: float | None = None
    fit: Fit | None = None
    chosen: bool = False  # a plain pull would take this one
    local_model: str | None = None  # id of the local model


@dataclass(frozen=True)
class ModelInfo(RepoSummary):
    """One repo in full."""

    revision: str | None = None
    commit: str = ""
    variants: tuple[VariantInfo, ...] = ()
    choice_reason: str | None = None
    facts: ModelFacts | None = None  # from the header of the chosen variant where it was read
    chat_template: bool | None = None
    base_models: tuple[str, ...] = ()
    library: str | None = None
    access: str | None = None  # how to get access to a gated repo
    scan: str | None = None  # the Hub's scanners, as reported
    files: tuple[HubFile, ...] = ()
    card: str | None = None
    notes: tuple[str, ...] = ()  # what could not be found out, and why
    freshness: Freshness = field(default_factory=Freshness)


@dataclass(frozen=True)
class LoadTestReport:
    """What came of loading a model and having it say a few words."""

    source: str
    result: LoadResult
    recorded: bool  # with a local model; a mere file has no record
    ran: bool = True  # False where its header can't be read: then nothing was loaded
    doubt: str | None = None  # why these are not, or may not be, the bytes that were recorded

    @property
    def passed(self) -> bool:
        """Whether it loads, and is what it is recorded as."""
        return self.result.passed and self.doubt is None
