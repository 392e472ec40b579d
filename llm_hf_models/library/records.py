"""Types for local models and their checks, engines and cached metadata. Their SQL is in `models` and `database`.

Downloads have their own module, `download_records`. Listing downloads must not import the
modules that model facts need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llm_hf_models.errors import BadInputError
from llm_hf_models.gguf.facts import ModelFacts
from llm_hf_models.library.file_states import FileState, ModelState, compare_with_disk, find_model_state
from llm_hf_models.system.json_values import UnixTime, json_name

FileRole = Literal["weights", "mmproj", "file"]

# Location of the files: the Hugging Face cache, a folder to which a pull or an import wrote them, or the user's own
# folder, from which they were imported without a copy.
Place = Literal["cache", "folder", "in place"]

# `kept`: with its files. `replaced`: its files are removed unless another model uses them. `untested`: its download or
# its load test has not ended. `refused`: it failed that test. The last two were never in force.
VersionState = Literal["kept", "replaced", "untested", "refused"]
STATES_WITH_FILES = frozenset({"kept", "untested"})
CheckKind = Literal["digest", "scan", "structure", "template", "load_test", "signature"]

# Settings of a remote endpoint. They are stored with a model's options.
ENDPOINT_MODEL, ENDPOINT_KEY_ENV, ENDPOINT_KEY_NAME = "endpoint_model", "endpoint_key_env", "endpoint_key_name"

# Options that are not part of a prompt's options: the default system prompt, and the engine's chat template.
SYSTEM, TEMPLATE = "system", "template"
# In a model's `hub`: the tool that it was imported from, and the tool's name for it. A Modelfile is such a tool.
IMPORTED_FROM, MODELFILE = "imported_from", "modelfile"
KIND = "kind"  # replaces the kind that the header tells


@dataclass(frozen=True)
class LocalFile:
    """One recorded file of a local model. `location` is an absolute path."""

    path: str
    role: FileRole
    size: int = field(metadata=json_name("size_bytes"))
    location: str
    sha256: str | None = None
    git_sha1: str | None = None
    mtime_ns: int | None = None  # at the last verification: a cheap way to detect a change
    ctime_ns: int | None = None  # likewise; None if an earlier version verified the file

    def compare_with_disk(self) -> FileState:
        """Compare the record with the file on disk, at the cost of one stat call if nothing has changed."""
        digest = self.sha256 or self.git_sha1
        return compare_with_disk(self.location, self.size, self.mtime_ns, self.ctime_ns, digest)


@dataclass(frozen=True)
class Check:
    """One fact about a model and its date. Facts are never combined into one verdict."""

    kind: CheckKind
    result: str  # "matches", "differs", "valid", "errors", "safe as reported", …
    at: UnixTime
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalModel:
    """One entry of the library."""

    model_id: str  # hf/owner/name:QUANT, hf/owner/name@rev:QUANT or hf/local/STEM:QUANT
    repo: str | None
    revision: str | None  # as requested; None means the default branch
    commit: str | None
    quant: str
    files: tuple[LocalFile, ...]
    facts: ModelFacts
    aliases: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)  # set by the user: sampling, context, system …
    checks: tuple[Check, ...] = ()
    added: UnixTime = 0.0
    last_used: UnixTime | None = None
    endpoint: str | None = None  # base URL of the remote endpoint that serves it
    place: Place = "cache"
    hub: Mapping[str, Any] = field(default_factory=dict)  # the Hub's metadata of the repo at the pull
    pinned: bool = False  # `llm hf update` leaves it at its commit

    @property
    def size(self) -> int:
        """Return the size of all files, in bytes."""
        return sum(file.size for file in self.files)

    def refuse_if_remote(self) -> None:
        """Raise if a remote endpoint serves the model, so that it has no local files.

        Raises:
            BadInputError: a remote endpoint serves the model.
        """
        if self.endpoint is not None:
            raise BadInputError(f"{self.model_id} is served by a remote endpoint", cause="It has no local files.")

    @property
    def user_options(self) -> dict[str, Any]:
        """Return the options that the user set (`llm hf set`), as stored."""
        endpoint_keys = (ENDPOINT_MODEL, ENDPOINT_KEY_ENV, ENDPOINT_KEY_NAME)
        return {key: value for key, value in self.options.items() if key not in endpoint_keys}

    @property
    def user_template(self) -> str | None:
        """Return the chat template that the user set to replace the header's."""
        return self.options.get(TEMPLATE)

    @property
    def template_digest(self) -> str | None:
        """Return the sha256 of the user's chat template, or None if the header's template is used."""
        import hashlib  # imported late: llm's hooks load this module and don't need it

        return hashlib.sha256(self.user_template.encode()).hexdigest() if self.user_template else None

    def latest_check(self, kind: CheckKind) -> Check | None:
        """Return the newest check of one kind."""
        return next((check for check in self.checks if check.kind == kind), None)

    @property
    def state(self) -> ModelState:
        """Return the model's state. This compares files with their records, but reads no content."""
        digest = self.latest_check("digest")
        return find_model_state({file.compare_with_disk() for file in self.files}, digest.result if digest else None)

    @property
    def has_digest_mismatch(self) -> bool:
        """Return whether the newest digest check found a mismatch."""
        digest = self.latest_check("digest")
        return digest is not None and digest.result == "differs"


@dataclass(frozen=True)
class ModelVersion:
    """Another version of a local model: one that was replaced, or a new one that failed its load test."""

    repo: str | None
    commit: str | None
    facts: ModelFacts
    hub: Mapping[str, Any]
    files: tuple[LocalFile, ...]
    checks: tuple[Check, ...]  # newest first
    replaced: UnixTime  # or refused
    state: VersionState

    @property
    def size(self) -> int:
        """Return the size of all files, in bytes."""
        return sum(file.size for file in self.files)

    @property
    def is_complete(self) -> bool:
        """Return whether all its files are on this machine."""
        return all(file.compare_with_disk() not in ("missing", "other size") for file in self.files)


@dataclass(frozen=True)
class ModelDefault:
    """The value of an option if a prompt doesn't set it, and the source of that value."""

    key: str
    value: Any
    source: str  # "llm hf set", "header", "generation_config.json", "setting", …


@dataclass(frozen=True)
class EndpointHealth:
    """Whether a remote endpoint responds to a request for its list of models."""

    model_id: str = field(metadata=json_name("id"))
    up: bool | None  # None: no request was sent, because its key was not found
    problem: str | None = None  # the reason if `up` is not True, or an oddity in the response


@dataclass(frozen=True)
class EngineRow:
    """An engine that is running or has ended. Times are in Unix seconds, memory in bytes."""

    fingerprint: str  # of files, context and offload; an engine with the same one is reused
    model_id: str
    pid: int
    pid_started: float  # start time of the process, to detect a reused pid
    address: str  # a unix socket's path, or http://127.0.0.1:PORT
    key: str = field(repr=False, default="")
    context: int = 0
    started: UnixTime = 0.0
    last_used: UnixTime = 0.0
    keep_alive: float = 300
    memory: int = 0
    tokens_per_second: float | None = None
    layers: tuple[str, ...] = ()  # active confinement layers
    missing: Mapping[str, str] = field(default_factory=dict)  # inactive confinement layers, each with the reason
    log: str | None = None


@dataclass(frozen=True)
class CachedMetadata:
    """A cached response of the Hub. `fetched` is in Unix seconds."""

    body: str
    etag: str | None
    fetched: UnixTime
