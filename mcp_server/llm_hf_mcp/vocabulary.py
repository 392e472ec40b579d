"""Understand agents' words for licences, tasks and numbers of parameters, or name the nearest valid value."""

from __future__ import annotations

import re

from llm_hf_models.errors import BadInputError
from llm_hf_models.system.text import suggest_word
from llm_hf_models.system.units import parse_count

LARGEST_PLAIN_COUNT = 1000  # a smaller number without a unit means billions, as in the names of models
TASKS = (
    "text-generation", "feature-extraction", "image-text-to-text", "text-ranking", "automatic-speech-recognition",
    "sentence-similarity", "text-classification", "translation", "summarization", "question-answering", "text-to-image",
    "text-to-speech", "image-to-text", "any-to-any", "audio-text-to-text", "video-text-to-text", "text2text-generation",
)  # fmt: skip
LICENSES = (
    "apache-2.0", "mit", "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "bsd-3-clause",
    "bsd-2-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc0-1.0", "openrail", "gpl-3.0",
    "agpl-3.0", "lgpl-3.0", "mpl-2.0", "unlicense", "other",
)  # fmt: skip
_TASK_WORDS = {
    "text-generation": "chat conversation conversational chatbot assistant instruct llm completion coding code writing",
    "feature-extraction": "embedding embeddings embed retrieval",
    "image-text-to-text": "vision multimodal vlm image-understanding",
    "text-ranking": "rerank reranker reranking ranking",
    "automatic-speech-recognition": "speech transcription asr speech-to-text",
    "summarization": "summary summarisation summarize",
    "text-to-speech": "tts",
}
_TASK_FOR = {word: task for task, words in _TASK_WORDS.items() for word in words.split()}
_UNITS = {"thousand": "K", "million": "M", "billion": "B", "bn": "B", "trillion": "T"}
_PLAIN_NUMBER = re.compile(r"\d{1,20}(?:\.\d{1,20})?(?:e\d{1,2})?", re.ASCII)
_PUNCTUATION = re.compile(r"[^a-z0-9]")
_LICENSE_FOR = {
    "apache": "apache-2.0",
    **{_PUNCTUATION.sub("", form): name for name in LICENSES for form in (name.removesuffix(".0"), name)},
}
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def understand_count(value: str | float | None) -> int | None:
    """Return a number of parameters: `8`, `8B`, `"8 billion"`, `500M` or 8000000000.

    Raises:
        BadInputError: The value is not a number of parameters.
    """
    if value is None or value == "":
        return None
    text = f"{value:f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    text = re.sub(r"\s*(?:parameters|params)$", "", text.strip().lower().replace(",", ""))
    for word, unit in _UNITS.items():
        text = re.sub(rf"\s*{word}s?$", unit, text)
    if _PLAIN_NUMBER.fullmatch(text):
        number = float(text)
        text = f"{text}B" if 0 < number < LARGEST_PLAIN_COUNT else f"{number:.0f}"
    return parse_count(text)


def understand_license(text: str | None) -> str | None:
    """Return the Hub's identifier of a licence: `apache-2.0` for `Apache 2.0`.

    Raises:
        BadInputError: The text is not an identifier. The hint names the nearest one.
    """
    plain = re.sub(r"[,;()\"']", " ", (text or "").lower())
    plain = re.sub(r"\b(?:licen[cs]ed?|version|the|v(?=\d))\b|(?<=\s)v(?=\d)", " ", plain)
    return _understand("licence", _LICENSE_FOR, LICENSES, " ".join(dict.fromkeys(plain.split())))


def understand_task(text: str | None) -> str | None:
    """Return the Hub's identifier of a task: `text-generation` for `chat`.

    Raises:
        BadInputError: The Hub has no such task. The hint names the nearest one.
    """
    task = _understand("task", _TASK_FOR, TASKS, (text or "").lower())
    if task is not None and task not in TASKS:
        raise BadInputError(
            f"{task[:40]!r} is not a task", hint=f"{suggest_word(task, TASKS)}Known: {', '.join(TASKS)}."
        )
    return task


def _understand(kind: str, meanings: dict[str, str], known: tuple[str, ...], text: str) -> str | None:
    word = "-".join(re.split(r"[\s_-]+", text.strip(" -_")))
    if not word:
        return None
    word = meanings.get(word) or meanings.get(_PUNCTUATION.sub("", word), word)
    if not _IDENTIFIER.fullmatch(word):
        near = suggest_word(word, known) or f"Known: {', '.join(known)}. "
        raise BadInputError(f"{text.strip()[:40]!r} is not a {kind}", hint=near.strip())
    return word
