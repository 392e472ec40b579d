"""Attachments: which types a model takes, and one of them as a part of a message. Decodes none of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import llm


# What llama.cpp decodes (tools/mtmd), by the names that llm gives to types. WebP it leaves to ffmpeg, a program that a
# confined engine can't start; servers elsewhere may know better.
_IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/bmp"})
_REMOTE_IMAGE_TYPES = frozenset({"image/webp"})

_AUDIO_FORMATS = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
}


def list_accepted_types(modalities: Collection[str], *, remote: bool) -> frozenset[str]:
    """The types that a model takes.

    Args:
        modalities: of its mmproj, or as its server says: `image`, `audio`.
        remote: it is served by somebody else.
    """
    images = _IMAGE_TYPES if "image" in modalities else frozenset()
    images |= _REMOTE_IMAGE_TYPES if images and remote else frozenset()
    return images | (frozenset(_AUDIO_FORMATS) if "audio" in modalities else frozenset())


def build_message_part(attachment: llm.Attachment, types: Collection[str]) -> dict[str, Any]:
    """A part of a message in OpenAI's form, with the bytes in it: the engine reaches no network and no other file.

    Raises:
        BadInputError: it can't be read, or is of a type that isn't among `types`.
    """
    import base64

    import httpx2

    from llm_hf_models.errors import BadInputError
    from llm_hf_models.system.text import clean_text

    try:
        kind: str | None = attachment.resolve_type()  # type: ignore[no-untyped-call]
        if kind is None or kind not in types:
            raise BadInputError(
                f"This model takes no attachments of type {clean_text(kind or 'unknown')}",
                cause=f"It takes {', '.join(sorted(types))}." if types else "It takes text alone.",
            )
        content: bytes = attachment.content_bytes()  # type: ignore[no-untyped-call]
    except (OSError, httpx2.HTTPError) as error:
        where = clean_text(str(attachment.path or attachment.url or "given as bytes"))
        raise BadInputError(f"Can't read the attachment {where}", cause=clean_text(str(error))) from None
    data = base64.b64encode(content).decode("ascii")
    if kind in _AUDIO_FORMATS:
        return {"type": "input_audio", "input_audio": {"data": data, "format": _AUDIO_FORMATS[kind]}}
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
