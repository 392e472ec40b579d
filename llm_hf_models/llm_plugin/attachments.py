"""List the attachment types that a model accepts, and convert attachments to message parts without decoding them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import llm


# The types that llama.cpp decodes (tools/mtmd), under their registered names, each with its synonyms. llama.cpp passes
# WebP to ffmpeg, a program that a confined engine can't start. A remote server may support it.
_IMAGE_TYPES = {
    "image/png": ("image/x-png", "image/apng"),
    "image/jpeg": ("image/jpg", "image/pjpeg", "image/jfif", "image/x-jpeg", "image/x-jpg"),
    "image/gif": ("image/x-gif",),
    "image/bmp": ("image/x-bmp", "image/x-ms-bmp", "image/ms-bmp", "image/x-windows-bmp"),
}
_REMOTE_IMAGE_TYPES = {"image/webp": ("image/x-webp",)}
_AUDIO_TYPES = {
    "audio/wav": ("audio/x-wav", "audio/wave", "audio/vnd.wave", "audio/x-pn-wav"),
    "audio/mpeg": ("audio/mp3", "audio/x-mp3", "audio/mpeg3", "audio/x-mpeg", "audio/x-mpeg-3", "audio/mpg"),
}
_AUDIO_FORMATS = {"audio/wav": "wav", "audio/mpeg": "mp3"}  # their names in OpenAI's protocol
_REGISTERED_NAMES = {
    synonym: name
    for types in (_IMAGE_TYPES, _REMOTE_IMAGE_TYPES, _AUDIO_TYPES)
    for name, synonyms in types.items()
    for synonym in synonyms
}


def normalize_type(kind: str) -> str:
    """Return a MIME type in lower case, without parameters and under its registered name."""
    name = kind.partition(";")[0].strip().lower()
    return _REGISTERED_NAMES.get(name, name)


class AcceptedTypes(frozenset[str]):
    """MIME types. Each also contains its synonyms, in any case and with parameters."""

    __slots__ = ()

    def __contains__(self, kind: object) -> bool:
        """Return whether this type, or the one that it is a synonym of, is accepted."""
        return isinstance(kind, str) and super().__contains__(normalize_type(kind))


def list_accepted_types(modalities: Collection[str], *, remote: bool) -> AcceptedTypes:
    """Return the MIME types that a model accepts.

    Args:
        modalities: `image` and `audio`, as the model's mmproj or its server reports them.
        remote: Whether the model runs on a remote endpoint.
    """
    images = [*_IMAGE_TYPES, *(_REMOTE_IMAGE_TYPES if remote else ())] if "image" in modalities else []
    return AcceptedTypes([*images, *(_AUDIO_TYPES if "audio" in modalities else ())])


def build_message_part(attachment: llm.Attachment, types: Collection[str]) -> dict[str, Any]:
    """Return an attachment as a message part in OpenAI's format.

    The part contains the bytes, because the engine can't read other files or use the network.

    Raises:
        BadInputError: The attachment can't be read, or its type is not in `types`.
    """
    import base64

    import httpx2

    from llm_hf_models.errors import BadInputError
    from llm_hf_models.system.text import clean_text

    try:
        kind: str | None = attachment.resolve_type()  # type: ignore[no-untyped-call]
        if kind is None or kind not in types:
            raise BadInputError(
                f"This model does not accept attachments of type {clean_text(kind or 'unknown')}",
                cause=f"It accepts {', '.join(sorted(types))}." if types else "It accepts text only.",
            )
        content: bytes = attachment.content_bytes()  # type: ignore[no-untyped-call]
    except (OSError, httpx2.HTTPError) as error:
        name = clean_text(str(attachment.path or attachment.url or "given as bytes"))
        raise BadInputError(f"Can't read the attachment {name}", cause=clean_text(str(error))) from None
    kind = normalize_type(kind)
    data = base64.b64encode(content).decode("ascii")
    if kind in _AUDIO_FORMATS:
        return {"type": "input_audio", "input_audio": {"data": data, "format": _AUDIO_FORMATS[kind]}}
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
