"""Whether a model fits this machine's memory: weights + KV cache + overhead. Loads nothing."""

from __future__ import annotations

from dataclasses import dataclass

from llm_hf_models.gguf_header import ModelFacts


@dataclass(frozen=True)
class Machine:
    """Memory of this machine, in bytes; container limits are honoured."""

    total_memory: int
    free_memory: int


@dataclass(frozen=True)
class Fit:
    """The verdict, and the figures it rests on (bytes)."""

    fits: bool
    needed: int
    available: int
    context: int  # tokens that were asked for, or the largest that fits where those did not
    reason: str  # "needs 5.2 GB of 7.1 GB free at 8192 tokens"


def machine() -> Machine:
    """This machine's memory now."""
    raise NotImplementedError


def assess(weights_bytes: int, facts: ModelFacts | None, *, context: int, available: int, mmproj_bytes: int = 0) -> Fit:
    """Weighs one model against `available` bytes.

    Args:
        weights_bytes: size of all its weight files.
        facts: from its header; None estimates the KV cache from the size.
        context: tokens asked for; 0 is the model's own.
        available: bytes that it may take.
        mmproj_bytes: size of its projector, if any.
    """
    raise NotImplementedError
