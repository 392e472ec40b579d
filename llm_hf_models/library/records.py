"""The nouns of the library: local models and their proofs, engines, kept answers. SQL is library/database.py's.

Downloads have a module of their own (library/download_records.py): listing them must not cost what a model's facts do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llm_hf_models.errors import BadInputError
from llm_hf_models.gguf.facts import ModelFacts

FileRole = Literal["weights", "mmproj", "file"]

# Where the files stand: the Hugging Face cache, a folder that we put them in, or where their owner keeps them.
Place = Literal["cache", "folder", "in place"]
ModelState = Literal["ready", "missing", "unverified", "changed"]

# `touched`: written to since its digest was taken, so that nobody knows what is in it.
FileState = Literal["as recorded", "missing", "other size", "touched"]
CheckKind = Literal["digest", "scan", "structure", "template", "load_test", "signature"]

# What is kept with a model's own options and isn't one: what an endpoint elsewhere needs.
ENDPOINT_MODEL, ENDPOINT_KEY_ENV, ENDPOINT_KEY_NAME = "endpoint_model", "endpoint_key_env", "endpoint_key_name"

# Options that are no part of a prompt's: a system prompt where it brings none, a template for the engine.
SYSTEM, TEMPLATE = "system", "template"


@dataclass(frozen=True)
class LocalFile:
    """One recorded file of a local model. `size` in bytes; `location` is absolute."""

    path: str
    role: FileRole
    size: int
    location: str
    sha256: str | None = None
    git_sha1: str | None = None
    mtime_ns: int | None = None  # of the bytes that were checked: a cheap first sign of a change

    def compare_with_disk(self) -> FileState:
        """What the disk says of it now, at the cost of one stat."""
        try:
            found = os.stat(self.location)  # noqa: PTH116 - as cheap as can be: every prompt asks
        except (OSError, ValueError):
            return "missing"
        if found.st_size != self.size:
            return "other size"
        return "as recorded" if self.mtime_ns in (None, found.st_mtime_ns) else "touched"


@dataclass(frozen=True)
class Check:
    """One fact that was established about a model, and when (Unix seconds). Facts are never summed up."""

    kind: CheckKind
    result: str  # "matches", "differs", "valid", "errors", "safe as reported", …
    at: float
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalModel:
    """One entry of the library."""

    model_id: str  # hf/owner/name:QUANT, hf/owner/name@rev:QUANT or hf/local/STEM:QUANT
    repo: str | None
    revision: str | None  # as asked for; None is the default branch
    commit: str | None
    quant: str
    files: tuple[LocalFile, ...]
    facts: ModelFacts
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)  # a user's own: sampling, context, system …
    checks: tuple[Check, ...] = ()
    added: float = 0.0
    last_used: float | None = None
    endpoint: str | None = None  # served elsewhere: the base URL
    place: Place = "cache"
    hub: Mapping[str, Any] = field(default_factory=dict)  # what the Hub said of the repo at the pull

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def refuse_if_remote(self) -> None:
        """Refuses what needs files of one that is served elsewhere.

        Raises:
            BadInputError: it is.
        """
        if self.endpoint is not None:
            raise BadInputError(f"{self.model_id} is served elsewhere", cause="There are no files of it here.")

    @property
    def user_options(self) -> dict[str, Any]:
        """What a person has set for it (`llm hf set`), as it is kept."""
        of_endpoint = (ENDPOINT_MODEL, ENDPOINT_KEY_ENV, ENDPOINT_KEY_NAME)
        return {key: value for key, value in self.options.items() if key not in of_endpoint}

    @property
    def user_template(self) -> str | None:
        """The chat template that a person has set in place of the header's."""
        return self.options.get(TEMPLATE)

    @property
    def template_digest(self) -> str | None:
        """What tells that template from another one (sha256); None where the header's holds."""
        import hashlib  # late: hooks, which need none, read models too

        return hashlib.sha256(self.user_template.encode()).hexdigest() if self.user_template else None

    def latest_check(self, kind: CheckKind) -> Check | None:
        """The newest fact of one kind."""
        return next((check for check in self.checks if check.kind == kind), None)

    @property
    def state(self) -> ModelState:
        """Ready, or why not: looks at the disk, not at the bytes."""
        looks = {file.compare_with_disk() for file in self.files}
        if "missing" in looks:
            return "missing"
        if "other size" in looks or self.has_digest_mismatch:
            return "changed"
        digest = self.latest_check("digest")
        proven = digest is not None and digest.result == "matches" and "touched" not in looks
        return "ready" if proven else "unverified"

    @property
    def has_digest_mismatch(self) -> bool:
        """Whether the newest look at its bytes found others than were recorded."""
        digest = self.latest_check("digest")
        return digest is not None and digest.result == "differs"


@dataclass(frozen=True)
class ModelDefault:
    """One option of a model where a prompt doesn't give it, and where that value comes from."""

    key: str
    value: Any
    source: str  # "llm hf set", "header", "generation_config.json", "setting", …


@dataclass(frozen=True)
class EndpointHealth:
    """Whether a server elsewhere answers now, as asked by its list of models."""

    model_id: str
    up: bool | None  # None: it was not asked, as its key was not found
    problem: str | None = None  # why it is down or was not asked, or what is odd about it


@dataclass(frozen=True)
class EngineRow:
    """A running (or once running) engine. Times in Unix seconds, memory in bytes."""

    fingerprint: str  # of files, context and offload: the same one is reused
    model_id: str
    pid: int
    pid_started: float  # the process's own start time: a reused pid is not our engine
    address: str  # a unix socket's path, or http://127.0.0.1:PORT
    key: str = field(repr=False, default="")
    context: int = 0
    started: float = 0.0
    last_used: float = 0.0
    keep_alive: float = 300
    memory: int = 0
    tokens_per_second: float | None = None
    layers: tuple[str, ...] = ()  # which confinement layers hold
    missing: Mapping[str, str] = field(default_factory=dict)  # which don't, each with the reason
    log: str | None = None


@dataclass(frozen=True)
class CachedMetadata:
    """An answer of the Hub that was kept. `fetched` in Unix seconds."""

    body: str
    etag: str | None
    fetched: float
