"""Read the header of a GGUF file, on this machine or on the Hub, and validate it. No model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from llm_hf_models.context import Context
from llm_hf_models.errors import (
    BadRefError,
    HfModelsError,
    InvalidGgufError,
    MissingFileError,
    UnknownModelError,
    VerificationError,
)
from llm_hf_models.gguf.header import GgufHeader, name_file_in_errors, read_header
from llm_hf_models.gguf.shards import describe_shard, describe_shard_figures, find_shards, make_not_a_file_error
from llm_hf_models.gguf.template_audit import audit_template
from llm_hf_models.gguf.types import TENSOR_TYPES, TensorInfo
from llm_hf_models.gguf.validate import ValidationReport, check_shards, merge_headers
from llm_hf_models.hub.client import Hub
from llm_hf_models.hub.refs import ModelRef
from llm_hf_models.hub.session import get_package_version
from llm_hf_models.hub.types import RepoDetails
from llm_hf_models.library.records import LocalModel
from llm_hf_models.models import metadata_cache
from llm_hf_models.models.collections.reading import find_named_ref
from llm_hf_models.models.repos import info as repo_info
from llm_hf_models.models.repos import variant_choice
from llm_hf_models.models.repos.remote_headers import read_remote_headers
from llm_hf_models.models.repos.types import CheckReport, Inspection, TensorView
from llm_hf_models.paths import expand_home, make_absolute
from llm_hf_models.system.text import clean_text

MAX_VALUE_CHARS = 2000
OWN_TEMPLATE_SOURCE = "llm hf set template"  # the source of findings in the user's own template
MAX_TEMPLATE_CHARS = 200_000


@dataclass(frozen=True)
class GgufSource:
    """A GGUF that the user named: files on this machine (all shards), or one on the Hub."""

    name: str
    paths: tuple[Path, ...] = ()
    ref: ModelRef | None = None
    model: LocalModel | None = None  # the local model with these files

    @property
    def mmproj(self) -> Path | None:
        """The projector of the local model, if it has one."""
        files = self.model.files if self.model else ()
        return next((Path(file.location) for file in files if file.role == "mmproj"), None)


_INSPECTION: TypeAdapter[Inspection] = TypeAdapter(Inspection)


def resolve_source(context: Context, text: str, *, allow_part: bool = False) -> GgufSource:
    """Find the GGUF that `text` names: a file on disk, a local model, or a model ref on the Hub, in that order.

    With `allow_part`, a file may be a shard without the other shards.

    Raises:
        UnknownModelError: The model does not exist.
        BadRefError: The text is not a valid model ref.
        MissingFileError: The file does not exist.
        AmbiguousNameError: Several local models have that name.
        BadInputError: It is a remote model, or not a regular file.
    """
    path = Path(expand_home(text)) if text and not context.is_agent else None
    if path and _is_file(path):
        try:
            return GgufSource(text, tuple(find_shards(path)))
        except InvalidGgufError:
            if not allow_part:
                raise
            return GgufSource(text, (make_absolute(path),))
    with context.open_database() as db:
        try:
            model = db.find_model(text)
        except UnknownModelError as error:
            return _resolve_ref(context, text, path, error)
    model.refuse_if_remote()
    weights = tuple(Path(file.location) for file in model.files if file.role == "weights")
    missing = [str(weight) for weight in weights if not weight.exists()]
    if missing:
        raise MissingFileError(
            f"{missing[0]} no longer exists", hint=f"llm hf pull {model.model_id.removeprefix('hf/')}"
        )
    return GgufSource(model.model_id, weights, model=model)


def _resolve_ref(context: Context, text: str, path: Path | None, unknown: UnknownModelError) -> GgufSource:
    """Parse `text` as a model ref. If that fails, raise the error that fits the form of the text."""
    if path and text.endswith(".gguf") and ":" not in path.name and path.parent != Path() and _is_present(path.parent):
        raise MissingFileError(f"There is no file {clean_text(text, 200)}", hint="To name a repo: hf://owner/name")
    try:
        return GgufSource(text, ref=ModelRef.parse(find_named_ref(context, text) or text))
    except BadRefError:
        if path and _is_present(path):
            raise make_not_a_file_error(path, text) from None
        if text.endswith(".gguf") or "\\" in text or text.startswith((".", "~", "/")):
            raise MissingFileError(f"There is no file {clean_text(text, 200)}") from None
        if text and "/" not in text:  # it can't be the name of a repo either
            unknown.hint = " ".join(hint for hint in (unknown.hint, repo_info.suggest_search(text)) if hint)
            raise unknown from None
        raise


def _is_file(path: Path) -> bool:
    with suppress(OSError):  # an invalid file name, or a folder without read permission
        return path.is_file()
    return False


def _is_present(path: Path) -> bool:
    with suppress(OSError):
        return path.exists()
    return False


def inspect(context: Context, text: str, *, metadata: bool, tensors: bool, template: bool) -> Inspection:
    """Read the header of a GGUF: those of all shards of a split model, if they are there."""
    source = resolve_source(context, text, allow_part=True)
    full = _inspect_local(context, source) if source.ref is None else _inspect_remote(context, source.ref)
    return replace(
        full,
        metadata=full.metadata if metadata else None,
        tensors=full.tensors if tensors else None,
        chat_template=full.chat_template if template else None,
    )


@contextmanager
def _translate_read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MissingFileError(f"Can't read {error.filename or path}", cause=error.strerror) from None


def _inspect_local(context: Context, source: GgufSource) -> Inspection:
    named = make_absolute(Path(expand_home(source.name))) if source.model is None else source.paths[0]
    first = _read_local_header(context, source.paths[0])
    try:
        others, problem = [_read_local_header(context, path) for path in source.paths[1:]], None
    except VerificationError as error:
        others, problem = [], error.message
    part = describe_shard_figures(named.name, first.facts, len(source.paths), problem)
    return replace(_build_inspection(source.name, str(named), merge_headers([first, *others]), 0), part=part)


def _read_local_header(context: Context, path: Path) -> GgufHeader:
    with _translate_read_errors(path), path.open("rb") as opened, name_file_in_errors(str(path)):
        size, seconds = path.stat().st_size, context.settings().header_seconds
        return read_header(opened, file_bytes=size, seconds=seconds)


def _build_inspection(source: str, file: str, header: GgufHeader, fetched: int) -> Inspection:
    return Inspection(
        source=source,
        file=file,
        version=header.version,
        byte_order=header.byte_order,
        header_bytes=header.header_bytes,
        fetched_bytes=fetched,
        alignment=header.alignment,
        tensor_count=len(header.tensors),
        facts=header.facts,
        metadata={clean_text(key, 200): _clean_value(value) for key, value in header.metadata.items()},
        tensors=tuple(_make_tensor_view(tensor) for tensor in header.tensors),
        chat_template=clean_text(header.chat_template, MAX_TEMPLATE_CHARS, keep_lines=True)
        if header.chat_template
        else None,
    )


def _inspect_remote(context: Context, ref: ModelRef) -> Inspection:
    ref, details, hub, paths = _find_remote_files(context, ref)
    named = ref.file.path if ref.file else paths[0]
    problems: list[HfModelsError] = []

    def read() -> Inspection:
        headers = read_remote_headers(context, hub, ref.repo, details, paths)
        problems.extend([headers.problem] if headers.problem else [])
        return _build_inspection(str(ref), named, headers.merge(), headers.fetched_bytes)

    inspection = metadata_cache.cache_by_digest(
        context,
        variant_choice.make_digest_key(f"inspection:{get_package_version()}", details, paths),
        read,
        lambda inspection: _INSPECTION.dump_json(inspection).decode(),
        _INSPECTION.validate_json,
        should_keep=lambda _: not problems,
    )
    part = describe_shard_figures(named, inspection.facts, len(paths), problems[0].message if problems else None)
    return replace(inspection, source=str(ref), file=named, part=part)


def check(context: Context, text: str) -> CheckReport:
    """Validate complete files on this machine, or the headers of files on the Hub: all shards of a split model."""
    source = resolve_source(context, text, allow_part=True)
    if source.ref is None:
        part = describe_shard(Path(text).name, len(source.paths)) if source.model is None else None
        with _translate_read_errors(source.paths[0]):
            report, complete = check_shards(source.paths, seconds=context.settings().header_seconds), True
    else:
        report, part, complete = *_check_remote(context, source.ref), False
    own_template = source.model.user_template if source.model else None
    if own_template is not None:
        report = replace(report, findings=(*report.findings, *audit_template(own_template, OWN_TEMPLATE_SOURCE)))
    found = build_report(source.name, report, complete=complete)
    return replace(found, part=part, own_template=own_template is not None)


def _check_remote(context: Context, ref: ModelRef) -> tuple[ValidationReport, str | None]:
    """Validate the headers of a model on the Hub. If the ref names a shard, also describe it."""
    ref, details, hub, paths = _find_remote_files(context, ref)
    headers = read_remote_headers(context, hub, ref.repo, details, paths)
    if headers.problem is not None:
        raise headers.problem
    return headers.check(), describe_shard(ref.file.path, len(paths)) if ref.file else None


def build_report(name: str, report: ValidationReport, *, complete: bool) -> CheckReport:
    """Build the report that the CLI and the MCP server show."""
    return CheckReport(name, len(report.errors), len(report.warnings), report.findings, complete)


def _find_remote_files(context: Context, ref: ModelRef) -> tuple[ModelRef, RepoDetails, Hub, tuple[str, ...]]:
    """Find the GGUF that a model ref names on the Hub.

    Returns:
        The model ref with the repo's name on the Hub, the details, the Hub, and the paths of the GGUF: all shards of a
        complete model, even if the ref names one of them.
    """
    ref, details, _, note = repo_info.fetch_repo(context, ref)
    repo_info.notify_of_name(context, note)
    ref, hub = variant_choice.settle_ref(ref, details), context.hub()
    variant, _ = variant_choice.pick_variant(context, hub, ref, details)
    if variant is not None:
        return ref, details, hub, variant.files
    if ref.file is None:
        raise variant_choice.make_no_gguf_error(hub, details)
    return ref, details, hub, (ref.file.path,)


def _make_tensor_view(tensor: TensorInfo) -> TensorView:
    kind = TENSOR_TYPES.get(tensor.type_id)
    name = kind.name if kind else f"type {tensor.type_id}"
    return TensorView(clean_text(tensor.name, 200), tensor.shape, name, tensor.offset)


def _clean_value(value: object) -> Any:  # noqa: ANN401 - any JSON value
    """Prepare a metadata value for JSON and display: shorten long texts, and describe skipped arrays and texts."""
    if isinstance(value, str):
        return clean_text(value, MAX_VALUE_CHARS, keep_lines=True)
    if isinstance(value, tuple):
        return [_clean_value(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value
