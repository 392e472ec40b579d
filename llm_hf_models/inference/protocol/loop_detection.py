"""Detect that a model repeats the same text without end, as small models do until their context is full."""

from __future__ import annotations

from collections import deque

MIN_REPEATS = 4
_PIECES_BETWEEN_CHECKS = 64


class LoopDetector:
    """Watches the pieces of a response, each about one token.

    A response loops if its last pieces are one passage, at least MIN_REPEATS times in a row. Both short and long
    passages are found: up to a quarter of the pieces that are kept.

    Attributes:
        count: The number of pieces so far.
    """

    def __init__(self, limit: int) -> None:
        """Start without pieces.

        Args:
            limit: The number of repeated pieces from which the response counts as a loop; 0 detects no loops.
        """
        self._limit = limit
        self._last: deque[str] = deque(maxlen=2 * limit)
        self.count = 0

    def is_loop(self, piece: str) -> bool:
        """Add a piece, and return whether the response loops. Only some calls check this."""
        if not self._limit:
            return False
        self._last.append(piece)
        self.count += 1
        return self.count % _PIECES_BETWEEN_CHECKS == 0 and self._has_repeated_end()

    def _has_repeated_end(self) -> bool:
        """Return whether the last pieces repeat a passage.

        The prefix function (Knuth, Morris, Pratt) of the reversed pieces gives the length of the passage for each
        number of last pieces, in one pass.
        """
        if len(self._last) < self._limit:
            return False
        pieces = list(reversed(self._last))
        borders = [0] * len(pieces)
        for at in range(1, len(pieces)):
            border = borders[at - 1]
            while border and pieces[at] != pieces[border]:
                border = borders[border - 1]
            borders[at] = border + (pieces[at] == pieces[border])
            length = at + 1
            if length >= self._limit and length >= MIN_REPEATS * (length - borders[at]):
                return True
        return False
