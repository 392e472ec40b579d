"""The table of tensors that model families need."""

from __future__ import annotations

import sys

import pytest

from llm_hf_models.gguf import required_tensors

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the oracle forks")


def test_unknown_family_requires_no_tensors() -> None:
    assert list(required_tensors.find_missing_tensors("walrus", {}, frozenset(), 3)) == []
