"""Result types of the load test. Holds no logic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llm_hf_models.system.json_values import json_name

Verdict = Literal["loads", "answers nonsense", "fails", "aborts", "times out", "exhausts memory"]


@dataclass(frozen=True)
class LoadResult:
    """The result of a load test. None if the child did not report it."""

    verdict: Verdict
    reason: str = ""  # one sentence; empty when it loads
    load_seconds: float | None = None
    peak_memory: int | None = field(
        default=None, metadata=json_name("peak_memory_bytes")
    )  # resident, including mapped weights
    tokens_per_second: float | None = None
    output: str = ""  # generated text, cleaned and cut; empty for embeddings
    layers: tuple[str, ...] = ()  # active layers, reported by the child before it opened the file
    missing: tuple[tuple[str, str], ...] = ()  # each inactive layer, with the reason
    engine_log: str = ""  # llama.cpp's errors, cleaned

    @property
    def passed(self) -> bool:
        return self.verdict == "loads"
