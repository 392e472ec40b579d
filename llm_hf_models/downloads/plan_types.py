"""Define the types of a pull: its options, plan and result. Contains no logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.gguf.memory_fit import Fit
from llm_hf_models.gguf.rules import Finding
from llm_hf_models.hub.types import FileScan, HubFile, ScanState
from llm_hf_models.models.signature_types import SignatureReport
from llm_hf_models.models.types import Freshness
from llm_hf_models.system.arguments import check_fields
from llm_hf_models.system.json_values import Result, json_name


@dataclass(frozen=True)
class PullResult(Result):
    """The outcome of a pull."""

    plan: PullPlan
    download_id: int | None  # None if there was nothing to download
    id: str | None  # of the model
    aliases: tuple[str, ...]
    files: tuple[str, ...]  # absolute paths
    fetched_bytes: int
    elapsed_seconds: float
    other_process_bytes: int = 0  # downloaded by other processes during this pull
    warnings: tuple[str, ...] = ()
    is_copy: bool = False  # the files are an additional copy: the registered model keeps its own


@dataclass(frozen=True)
class PullOptions:
    """The options of a pull.

    If the number of connections or the rate is None, the setting applies.
    """

    revision: str | None = None
    mmproj: bool = True
    to: Path | None = None
    aliases: tuple[str, ...] = ()
    allow_unsafe: bool = False
    allow_invalid: bool = False
    connections: int | None = None
    limit_rate: int | None = field(default=None, metadata=json_name("limit_rate_bytes_per_second"))
    file_only: bool = False  # download only the named file, and register no model
    kind: str | None = None  # options of the model to store, as `llm hf set` does
    pooling: str | None = None

    @property
    def model_options(self) -> dict[str, str]:
        """The options to store for the model."""
        given = {"kind": self.kind, "pooling": self.pooling}
        return {key: value for key, value in given.items() if value is not None}

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class VersionSwitch:
    """How a pull replaces the current version of a local model: after a load test, and in one transaction."""

    kind: Literal["update", "rollback"]
    keep_old: bool = False  # keep the files of the version that is replaced
    replaces: str | None = None  # the commit that an update was planned for


@dataclass(frozen=True)
class PlannedFile(HubFile):
    """A file that a pull needs."""

    local: bool = False  # already complete on this machine
    partial: int = field(
        default=0, metadata=json_name("partial_bytes")
    )  # bytes that an interrupted pull left on this machine
    copy: bool = False  # complete in the cache, and to be copied from there into another folder


@dataclass(frozen=True)
class PullPlan(Result):
    """Everything that a pull would do. Only metadata and a header have been downloaded for it."""

    ref: str
    repo: str
    revision: str | None
    commit: str
    model_id: str | None = field(metadata=json_name("id"))  # None for a file that is not a model
    quant: str | None
    reason: str  # why this variant was chosen
    files: tuple[PlannedFile, ...]
    weights: tuple[str, ...]  # paths of the model's shards, in order
    mmproj: str | None
    total_bytes: int
    fetch_bytes: int
    folder: str  # the folder that will contain the files
    options: PullOptions
    replaces: tuple[str, ...] = ()  # existing files with other content that the pull will overwrite (`--to DIR`)
    aliases: tuple[str, ...] = ()
    refused_aliases: Mapping[str, str] = field(default_factory=dict)  # short names of other models, with the reasons
    fit: Fit | None = None
    facts: ModelFacts | None = None
    findings: tuple[Finding, ...] = ()
    scan: str | None = None  # a summary of the Hub's scan reports
    scans: tuple[FileScan, ...] = ()  # each scanner's report on each file
    scan_warnings: tuple[str, ...] = ()  # reports that a person should read before the pull
    scan_state: ScanState | None = None  # None in plans of earlier versions
    scan_problem: str | None = None  # why the Hub was not asked for the reports, or did not answer
    signature: SignatureReport | None = None  # the facts about the repo's signature; None if it has none
    unsafe: tuple[str, ...] = ()  # files that a scanner reports as unsafe, pulled because of `--allow-unsafe`
    hub: Mapping[str, Any] | None = None  # the Hub's metadata about the repo
    freshness: Freshness = field(default_factory=Freshness)  # stale: the newest commit could not be fetched
    already_complete: bool = False  # registered and complete, so that the pull has nothing to download
    # Whether the header and the scan reports are missing, because they could not be read in time. The process that
    # carries out the plan reads them first. The files stay the same: consent was given for their sizes.
    is_draft: bool = False
    # The cache and the Hub that the plan was made for. They take precedence over the environment of the process that
    # carries the plan out. None in plans of older versions.
    cache_dir: str | None = None
    endpoint: str | None = None
    note: str | None = None  # the name of the repo on the Hub, if the model ref has another one
    left_out: tuple[str, ...] = ()  # projectors of other models, each with the reason
    switch: VersionSwitch | None = None  # of an update or a rollback
    unusable: tuple[str, ...] = ()  # GGUF files of the repo that can't be stored because of their names
    # A plan from a lockfile: its commit may be older than that of the branch, which keeps its ref in the cache.
    from_lockfile: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)  # files to copy instead of downloading them, by path
    local_only: bool = False  # a file that is not on this machine is an error, not a download


def list_restrictions(plan: PullPlan) -> list[str]:
    """Return why the download of a plan's files needs a token: `gated`, `private`, both or none."""
    return [name for name in ("gated", "private") if (plan.hub or {}).get(name) and plan.fetch_bytes]
