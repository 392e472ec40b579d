"""List the attachment types that a model accepts, and convert attachments to message parts without decoding them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import llm


# The types that llama.cpp decodes (tools/mtmd), under llm's names. llama.cpp passes WebP to ffmpeg, a program that a
# confined engine can't start. A remote server may support it.
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
    """Return the MIME types that a model accepts.

    Args:
        modalities: `image` and `audio`, as the model's mmproj or its server reports them.
        remote: Whether the model runs on a remote endpoint.
    """
    images = _IMAGE_TYPES if "image" in modalities else frozenset()
    images |= _REMOTE_IMAGE_TYPES if images and remote else frozenset()
    return images | (frozenset(_AUDIO_FORMATS) if "audio" in modalities else frozenset())


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
    data = base64.b64encode(content).decode("ascii")
    if kind in _AUDIO_FORMATS:
        return {"type": "input_audio", "input_audio": {"data": data, "format": _AUDIO_FORMATS[kind]}}
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
