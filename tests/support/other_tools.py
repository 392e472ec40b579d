"""Build the stores of other tools with their real layouts and tiny models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.ggufs import tiny_chat, tiny_embedding, tiny_mmproj

REGISTRY = "registry.ollama.ai/library"
GO_TEMPLATE = "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{ .Prompt }}"


def read_tree(*folders: Path) -> dict[str, tuple[int, int, bytes | str]]:
    """Return each entry of some folders: its mode, its modification time and its content."""
    found: dict[str, tuple[int, int, bytes | str]] = {}
    for path in (path for folder in folders for path in (folder, *sorted(folder.rglob("*")))):
        status = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
    return found


@dataclass(frozen=True)
class OllamaStore:
    """Ollama's folder with `manifests` and `blobs`."""

    folder: Path

    def add_blob(self, content: bytes) -> dict[str, Any]:
        """Store a layer; return its digest and size as a manifest has them."""
        digest = hashlib.sha256(content).hexdigest()
        path = self.folder / f"blobs/sha256-{digest}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    def get_blob(self, layer: Mapping[str, Any]) -> Path:
        return self.folder / "blobs" / str(layer["digest"]).replace(":", "-")

    def add(self, name: str, weights: bytes | None, **layers: bytes | list[bytes]) -> Path:
        """Store a model as `ollama pull` does; return its manifest.

        Args:
            name: The name below `manifests`, such as registry.ollama.ai/library/tiny/latest, or `tiny:latest`.
            weights: The GGUF file.
            layers: Other layers by the end of their media type: projector, params, system, template, license …
        """
        if ":" in name:
            name = f"{REGISTRY}/{name.replace(':', '/')}"
        listed = [("model", weights)] if weights is not None else []
        listed += [(kind, one) for kind, content in layers.items() for one in _as_list(content)]
        config = self.add_blob(json.dumps({"model_format": "gguf", "model_family": "llama"}).encode())
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **config},
            "layers": [
                {"mediaType": f"application/vnd.ollama.image.{kind}", **self.add_blob(content)}
                for kind, content in listed
            ],
        }
        path = self.folder / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest), "utf-8")
        return path


def _as_list(content: bytes | list[bytes]) -> list[bytes]:
    return content if isinstance(content, list) else [content]


def add_ollama_model(name: str, system: str) -> None:
    """Store a model in the Ollama store of the current home folder."""
    weights = make_weights(Path.home() / "made", seed=len(name))
    OllamaStore(Path.home() / ".ollama/models").add(name, weights, system=system.encode(), params=b'{"tfs_z": 1}')


def make_weights(folder: Path, *, seed: int = 0, **options: Any) -> bytes:
    """Return the bytes of a tiny chat model. Another seed gives another digest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = tiny_chat(folder / f"weights-{seed}.gguf", seed=seed, **options)
    content = path.read_bytes()
    path.unlink()
    return content


def make_projector(folder: Path) -> bytes:
    """Return the bytes of a projector that fits every tiny chat model."""
    path = tiny_mmproj(folder / "mmproj-made.gguf")
    content = path.read_bytes()
    path.unlink()
    return content


def make_lm_studio_store(models: Path) -> None:
    """Build LM Studio's folder: a model, a quantization of it with a projector, an MLX model and a download."""
    folder = models / "acme/Tiny-GGUF"
    folder.mkdir(parents=True)
    tiny_chat(folder / "Tiny-Q8_0.gguf")
    seeing = models / "acme/Seeing-GGUF"
    seeing.mkdir()
    tiny_chat(seeing / "Seeing-F16.gguf", seed=1, sees=True)
    tiny_mmproj(seeing / "mmproj-Seeing-F16.gguf")
    apple = models / "mlx-community/Tiny-4bit"
    apple.mkdir(parents=True)
    (apple / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (folder / "downloading_Tiny-F16.gguf.part").write_bytes(b"GGUF")


def make_llama_cpp_store(cache: Path) -> None:
    """Build llama.cpp's older cache: a model with a manifest and a projector, and one with the address beside it."""
    cache.mkdir(parents=True)
    tiny_chat(cache / "acme_Tiny-GGUF_Tiny-Q8_0.gguf")
    (cache / "acme_Tiny-GGUF_Tiny-Q8_0.gguf.etag").write_text('"abc"', "utf-8")
    (cache / "acme_Tiny-GGUF_mmproj-F16.gguf").write_bytes(make_projector(cache))
    manifest = {"ggufFile": {"rfilename": "Tiny-Q8_0.gguf"}, "mmprojFile": {"rfilename": "mmproj-F16.gguf"}}
    (cache / "manifest=acme=Tiny-GGUF=latest.json").write_text(json.dumps(manifest), "utf-8")
    tiny_chat(cache / "old-Q4_0.gguf", seed=1)
    url = "https://huggingface.co/acme/Old-GGUF/resolve/main/old-Q4_0.gguf"
    (cache / "old-Q4_0.gguf.json").write_text(json.dumps({"url": url, "etag": "x"}), "utf-8")
    gone = {"ggufFile": {"rfilename": "Gone-Q8_0.gguf"}}
    (cache / "manifest=acme=Gone-GGUF=Q8_0.json").write_text(json.dumps(gone), "utf-8")
    (cache / "acme_New-GGUF_New-Q8_0.gguf.downloadInProgress").write_bytes(b"GGUF")


def make_jan_store(data: Path, elsewhere: Path) -> None:
    """Build Jan's data folder: a downloaded model, and one that the user imported from `elsewhere`."""
    for name, path in (("acme/Tiny-Q8_0", None), ("mine", elsewhere)):
        folder = data / "llamacpp/models" / name
        folder.mkdir(parents=True)
        weights = path or tiny_chat(folder / "model.gguf")
        shown = weights if path else weights.relative_to(data)
        (folder / "model.yml").write_text(f"model_path: {shown}\nname: {name}\nsize_bytes: 1\n", "utf-8")
    (data / "llamacpp/models/half").mkdir()
    (data / "llamacpp/models/half/model.gguf").write_bytes(b"GGUF")


def make_gpt4all_store(folder: Path) -> None:
    """Build GPT4All's folder: a model, and a download that is not complete."""
    folder.mkdir(parents=True)
    tiny_chat(folder / "Tiny-Instruct.Q4_0.gguf")
    (folder / "incomplete-Other.Q4_0.gguf").write_bytes(b"GGUF")
    (folder / "gpt4all-gpt-4.rmodel").write_text('{"apiKey": "secret"}', "utf-8")


def make_llm_gguf_store(user_dir: Path) -> None:
    """Build llm-gguf's folder: a chat model, an embedding model, and one whose file was deleted."""
    models = user_dir / "gguf/models"
    models.mkdir(parents=True)
    chat, embedding = tiny_chat(models / "Tiny-Q8_0.gguf"), tiny_embedding(models / "emb.gguf")
    entries = {
        "Tiny-Q8_0": {"path": str(chat), "aliases": ["teeny"], "n_ctx": 512},
        "gone": {"path": str(models / "gone.gguf"), "aliases": []},
    }
    (user_dir / "gguf/models.json").write_text(json.dumps(entries), "utf-8")
    (user_dir / "gguf/embed-models.json").write_text(json.dumps({"emb": {"path": str(embedding)}}), "utf-8")
