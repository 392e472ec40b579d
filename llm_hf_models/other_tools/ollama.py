"""Find the models in Ollama's store, with their parameters, system prompts and licences.

The layout is that of Ollama's source: `envconfig/config.go` (OLLAMA_MODELS, otherwise ~/.ollama/models),
`docs/faq.mdx` (/usr/share/ollama/.ollama/models for the system service on Linux), `manifest/paths.go` and
`types/model/name.go` (manifests/HOST/NAMESPACE/MODEL/TAG), `server/images.go` (the media types of layers). A manifest
is JSON with the digests of its layers, and the layer with the digest sha256:X is the file blobs/sha256-X. Files named
blobs/sha256-X-partial… are downloads that are not complete (`server/download.go`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from llm_hf_models.other_tools.ollama_options import convert_parameters
from llm_hf_models.other_tools.store_files import (
    GGUF_MAGIC,
    INCOMPLETE,
    MAX_NAME_CHARS,
    MAX_TEXT_BYTES,
    StoreError,
    System,
    clean_name,
    find_file,
    make_repo,
    parse_json,
    read_json,
    read_text,
    walk,
)
from llm_hf_models.other_tools.types import FoundModel
from llm_hf_models.system.text import clean_text

TOOL = "ollama"
DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"
SERVICE_FOLDER = "/usr/share/ollama/.ollama/models"
SERVICE_HINT = "It belongs to Ollama's system service: add yourself to its group, `ollama`, and log in again."
HUB_HOSTS = ("hf.co", "huggingface.co")
GO_TEMPLATE = "its prompt template is in Go's template language, which the engine does not have"
_MANIFEST_DEPTH = 4  # host, namespace, model, tag
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_MEDIA_TYPE = "application/vnd.ollama.image."


class _Layer(BaseModel):
    model_config = ConfigDict(strict=True)

    mediaType: str = ""  # noqa: N815 - the name in the file
    digest: str
    size: int = 0


class _Manifest(BaseModel):
    model_config = ConfigDict(strict=True)

    config: _Layer | None = None
    layers: list[_Layer] = []


@dataclass(frozen=True)
class _Store:
    """One folder with `manifests` and `blobs`."""

    folder: Path

    @property
    def manifests(self) -> Path:
        return self.folder / "manifests"

    @property
    def blobs(self) -> Path:
        return self.folder / "blobs"

    def get_blob(self, digest: str) -> Path:
        """Return the file of a layer.

        Raises:
            StoreError: The digest has another form, such as a path.
        """
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise StoreError(f"Its manifest has the invalid digest {clean_text(digest, 40)!r}.")
        return self.blobs / f"sha256-{match[1]}"


@dataclass
class _Settings:
    """What the layers of a model say beside its weights."""

    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    license: str | None = None
    has_template: bool = False


def list_folders(system: System) -> list[Path]:
    """Return the folders in which Ollama keeps its models."""
    if value := (system.get_variable("OLLAMA_MODELS") or "").strip("\"'"):
        return [system.expand(value)]
    folders = [system.home / ".ollama/models"]
    return [*folders, Path(SERVICE_FOLDER)] if system.platform == "linux" else folders


def read_store(folder: Path) -> Iterator[FoundModel]:
    """Yield the models in one of Ollama's stores."""
    store = _Store(folder)
    used: set[str] = set()
    problem: StoreError | None = None
    try:
        for parent, files in walk(store.manifests):
            if len(parent.relative_to(store.manifests).parts) == _MANIFEST_DEPTH - 1:
                yield from (_read_model(store, path, used) for path in files)
    except StoreError as error:
        problem = error if store.manifests.exists() else None  # a new installation has no manifests
    yield from _find_loose_blobs(store, used)
    if problem:
        raise problem


def _read_model(store: _Store, path: Path, used: set[str]) -> FoundModel:
    """Return the model of one manifest. Add the names of its blobs to `used`."""
    host, namespace, model, tag = path.relative_to(store.manifests).parts
    name = _make_display_name(host, namespace, model, tag)
    if not all(map(_PART.fullmatch, (host, namespace, model, tag))):
        return FoundModel(TOOL, name, problem="Its manifest is in a folder with a name that Ollama does not use.")
    try:
        manifest = _parse_manifest(read_json(path, store.manifests))
        used |= {f"sha256-{match[1]}" for layer in manifest.layers if (match := _DIGEST.fullmatch(layer.digest))}
        found = FoundModel(
            TOOL,
            name,
            stem=f"{model}:{tag}".removesuffix(f":{DEFAULT_TAG}"),
            repo=make_repo(namespace, model) if host.lower() in HUB_HOSTS else None,
            aliases=() if host.lower() in HUB_HOSTS else (name, *([name[: -len(":latest")]] * (tag == DEFAULT_TAG))),
        )
        return _add_layers(store, manifest, found)
    except StoreError as error:
        return FoundModel(TOOL, name, problem=str(error))


def _make_display_name(host: str, namespace: str, model: str, tag: str) -> str:
    """Return the name that `ollama list` shows."""
    parts = [host, namespace] if host != DEFAULT_HOST else [namespace] if namespace != DEFAULT_NAMESPACE else []
    return clean_name("/".join([*parts, f"{model}:{tag}"]))


def _parse_manifest(value: object) -> _Manifest:
    try:
        return _Manifest.model_validate(value)
    except ValidationError:
        raise StoreError("Its manifest has not the form of Ollama's manifests.") from None


def _add_layers(store: _Store, manifest: _Manifest, found: FoundModel) -> FoundModel:
    """Return the model with its files and settings.

    Raises:
        StoreError: It has no weights that can be used, or one of its files can't be read.
    """
    layers: dict[str, list[_Layer]] = {}
    for layer in manifest.layers:
        layers.setdefault(layer.mediaType.removeprefix(_MEDIA_TYPE), []).append(layer)
    weights = layers.get("model", [])
    _refuse_unsupported(store, manifest, layers)
    path = _find_blob(store, weights[0].digest, "weights")
    projectors = layers.get("projector", [])
    projector = _find_blob(store, projectors[0].digest, "projector") if projectors else None
    settings = _read_settings(store, layers)
    if len(projectors) > 1:
        settings.notes.append(f"{len(projectors) - 1} of its {len(projectors)} projectors")
    digest = _DIGEST.fullmatch(weights[0].digest)
    return replace(
        found,
        files=(str(path),),
        projector=str(projector) if projector else None,
        sha256=digest[1].lower() if digest else None,
        license=settings.license,
        options=settings.options,
        notes=tuple(settings.notes),
        has_foreign_template=settings.has_template,
    )


def _refuse_unsupported(store: _Store, manifest: _Manifest, layers: Mapping[str, list[_Layer]]) -> None:
    weights = layers.get("model", [])
    if "adapter" in layers:
        raise StoreError("It has an adapter (LoRA), and adapters are not supported yet.")
    if "tensor" in layers:
        raise StoreError("Its weights are safetensors, and llama.cpp loads only GGUF.")
    if not weights:
        config = _read_config(store, manifest)
        if config.get("remote_host"):
            raise StoreError("It runs on a server, and has no weights on this machine.")
        raise StoreError("Its manifest names no weights.")
    if len(weights) > 1:
        raise StoreError(f"Its weights are in {len(weights)} files, which llama.cpp can't load under these names.")


def _read_config(store: _Store, manifest: _Manifest) -> Mapping[str, object]:
    if manifest.config is None:
        return {}
    return read_json(store.get_blob(manifest.config.digest), store.blobs)


def _find_blob(store: _Store, digest: str, what: str) -> Path:
    try:
        return find_file(store.get_blob(digest), store.blobs)
    except StoreError as error:
        text = str(error)
        raise StoreError(text if text.startswith("Its ") else f"The file of its {what}: {text}") from None


def _read_settings(store: _Store, layers: Mapping[str, list[_Layer]]) -> _Settings:
    """Return what the other layers say. A layer that can't be read is a note."""
    settings = _Settings()
    for kind in ("params", "system", "license"):
        for layer in layers.get(kind, []):
            try:
                _add_setting(settings, kind, read_text(store.get_blob(layer.digest), store.blobs, MAX_TEXT_BYTES))
            except StoreError as error:
                settings.notes.append(f"its {kind}: {error}")
    settings.has_template = "template" in layers or "prompt" in layers
    settings.notes += [f"its {kind}" for kind in ("messages", "draft", "embed") if kind in layers]
    return settings


def _add_setting(settings: _Settings, kind: str, text: str) -> None:
    if kind == "system":
        if text.strip():
            settings.options["system"] = text
    elif kind == "license":
        first = next(filter(None, map(str.strip, text.splitlines())), "")
        settings.license = settings.license or clean_text(first, MAX_NAME_CHARS) or None
    else:
        options, notes = convert_parameters(parse_json(text))
        settings.options |= options
        settings.notes += notes


def _find_loose_blobs(store: _Store, used: set[str]) -> Iterator[FoundModel]:
    """Yield the models and downloads among the blobs that no manifest names."""
    try:
        files = [file for _, files in walk(store.blobs) for file in files]
    except StoreError:
        return
    partial = {file.name.partition("-partial")[0] for file in files if "-partial" in file.name}
    for name in sorted(partial - used):
        yield FoundModel(TOOL, clean_name(name), problem=INCOMPLETE)
    for file in files:
        if file.name not in used and _DIGEST.fullmatch(file.name) and _is_gguf(file, store.blobs):
            problem = "No manifest of Ollama names it. To use it anyway, import the file by its path."
            yield FoundModel(TOOL, clean_name(file.name), (str(file),), problem=problem)


def _is_gguf(path: Path, root: Path) -> bool:
    try:
        with find_file(path, root).open("rb") as file:
            return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC
    except (OSError, StoreError):
        return False
