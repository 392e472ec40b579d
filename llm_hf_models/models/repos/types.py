"""Define the result types of search, repo information and inspection. Contains no logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.memory_fit import Fit
from llm_hf_models.gguf.rules import Finding
from llm_hf_models.gguf.variants import Variant
from llm_hf_models.hub.types import HubFile, RepoSummary, ScanState
from llm_hf_models.models.signature_types import SignatureReport
from llm_hf_models.models.types import Freshness
from llm_hf_models.system.json_values import Result


@dataclass(frozen=True)
class TensorView:
    """One tensor in a GGUF header."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int  # in the tensor data of its file


@dataclass(frozen=True)
class Inspection(Result):
    """A GGUF header as the CLI and the MCP server show it. Sizes are in bytes. Parts not requested are None."""

    source: str
    file: str
    version: int
    byte_order: str
    header_bytes: int
    fetched_bytes: int  # downloaded from the Hub to read the header; 0 for a local file
    alignment: int
    tensor_count: int
    facts: ModelFacts
    metadata: Mapping[str, Any] | None = None
    tensors: tuple[TensorView, ...] | None = None
    chat_template: str | None = None
    part: str | None = None  # which shard of a split model the file is, and whether the figures are those of all shards


@dataclass(frozen=True)
class CheckReport(Result):
    """The validator's report on a file."""

    source: str
    errors: int
    warnings: int
    findings: tuple[Finding, ...]
    complete: bool  # False if only the header was validated
    part: str | None = None  # which shard of a split model the file is, and whether all shards were checked
    own_template: bool = False  # the findings include those of the user's own chat template, which prompts use


@dataclass(frozen=True)
class SearchResult(RepoSummary):
    """One repo in the results of a search, compared with this machine."""

    local_models: tuple[str, ...] = ()  # the ids of local models from that repo
    update_available: bool | None = None  # for one of them; None if there is none, or if it is unknown
    update_note: str | None = None  # why it is unknown
    fits: bool | None = None  # estimated from the number of parameters; None if the Hub does not report it
    recommended_quant: str | None = None  # the variant that a plain pull chooses, as far as the file names show
    recommended_bytes: int | None = None  # size of its weights, estimated from the number of parameters


@dataclass(frozen=True)
class SearchPage(Result):
    """The results of a search. If there are none, `suggestions` lists filters to drop."""

    results: tuple[SearchResult, ...]
    freshness: Freshness
    suggestions: tuple[str, ...] = ()
    more: bool = False  # True if the limit has cut the list


@dataclass(frozen=True)
class VariantInfo(Variant):
    """A variant, with its memory fit on this machine."""

    bits_per_weight: float | None = None
    fit: Fit | None = None
    chosen: bool = False  # True if a pull without a quantization chooses this variant
    local_model: str | None = None  # the id of the local model with this variant
    update_available: bool | None = None  # whether the local model's files differ from these
    update_note: str | None = None  # why that is unknown
    refused: str | None = None  # why a pull refuses this variant, as far as the repo's details show


@dataclass(frozen=True)
class Conversion(Result):
    """A repo with GGUF files that were converted from another repo."""

    id: str
    downloads: int | None = None  # last 30 days


@dataclass(frozen=True)
class ModelInfo(RepoSummary):
    """The details of one repo."""

    revision: str | None = None
    commit: str = ""
    variants: tuple[VariantInfo, ...] = ()
    choice_reason: str | None = None
    conversions: tuple[Conversion, ...] = ()  # of a repo without GGUF files, most downloaded first
    facts: ModelFacts | None = None  # from the header of the chosen variant, if it could be read
    chat_template: bool | None = None
    base_models: tuple[str, ...] = ()
    library: str | None = None
    access: str | None = None  # how to get access to a gated repo
    scan: str = "not reported"  # a summary of the Hub's scan reports
    scan_state: ScanState = "not reported"
    scan_problem: str | None = None  # why the Hub was not asked, or did not answer
    signature: SignatureReport | None = None  # for the files of the chosen variant; None if the repo has none
    files: tuple[HubFile, ...] = ()
    card: str | None = None
    notes: tuple[str, ...] = ()  # missing information, with the reasons
    freshness: Freshness = field(default_factory=Freshness)
