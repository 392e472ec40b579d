"""Remove tokens and keys from a completion, because a remote endpoint may repeat the key that it received."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from llm_hf_models.inference.openai_protocol import Finish, Piece
from llm_hf_models.redaction import StreamRedactor, redact


class PieceRedactor:
    """Redacts the pieces of one completion. A secret may be split between the pieces of one text."""

    def __init__(self) -> None:
        self._redactor = StreamRedactor()
        self._last: Piece | None = None  # the previous piece of the text that is redacted now

    def clean(self, items: Iterable[Piece | Finish]) -> Iterator[Piece | Finish]:
        """Yield the items without secrets. Text that may be the start of a secret follows with a later item."""
        for item in items:
            if isinstance(item, Finish):
                yield from self._flush()
                yield replace(item, reason=_redact(item.reason), model=_redact(item.model))
                continue
            if self._last is not None and (item.kind, item.index) != (self._last.kind, self._last.index):
                yield from self._flush()
            self._last = replace(item, call_id=_redact(item.call_id))
            if text := self._redactor.feed(item.text):
                yield replace(self._last, text=text)

    def _flush(self) -> Iterator[Piece]:
        if self._last is not None and (rest := self._redactor.end()):
            yield replace(self._last, text=rest)
        self._last = None


def _redact(text: str | None) -> str | None:
    return None if text is None else redact(text)
