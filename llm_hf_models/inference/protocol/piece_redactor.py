"""Remove tokens and keys from a completion, because a remote endpoint may repeat the key that it received."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from llm_hf_models.inference.protocol.openai_protocol import Finish, Piece
from llm_hf_models.inference.protocol.tool_calls import ToolCall
from llm_hf_models.redaction import StreamRedactor, redact


class PieceRedactor:
    """Redacts one completion. A secret may be split between the pieces of its text or of its reasoning."""

    def __init__(self) -> None:
        self._redactor = StreamRedactor()
        self._last: Piece | None = None  # the previous piece of the text that is redacted now

    def clean_text(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Yield the pieces without secrets. Text that may be the start of a secret follows with a later piece."""
        for piece in pieces:
            if self._last is not None and piece.kind != self._last.kind:
                yield from self._flush()
            self._last = piece
            if text := self._redactor.feed(piece.text):
                yield replace(piece, text=text)

    def clean_end(self, items: Iterable[Piece | ToolCall | Finish]) -> Iterator[Piece | ToolCall | Finish]:
        """Yield the last items without secrets."""
        for item in items:
            if isinstance(item, Piece):
                yield from self.clean_text([item])
                continue
            yield from self._flush()
            if isinstance(item, Finish):
                yield replace(item, reason=_redact(item.reason), model=_redact(item.model))
            else:
                yield ToolCall(redact(item.name), redact(item.arguments), _redact(item.call_id))

    def _flush(self) -> Iterator[Piece]:
        if self._last is not None and (rest := self._redactor.end()):
            yield replace(self._last, text=rest)
        self._last = None


def _redact(text: str | None) -> str | None:
    return None if text is None else redact(text)
