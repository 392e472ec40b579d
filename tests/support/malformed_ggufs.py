"""Rules that are stricter than llama.cpp's reader."""

from __future__ import annotations

import io

import pytest

from llm_hf_models.errors import InvalidGgufError
from llm_hf_models.gguf.header import GgufHeader, read_header
from llm_hf_models.gguf.rules import DOCUMENTED_RULES
from llm_hf_models.gguf.validate import check_header

# Rules that llama.cpp's reader does not have; a file of the tests that it accepts breaks each. README gives their
# number.
STRICTER = {"bool-value", "key-text", "tensor-name-length", "tensor-name-text", "tensor-past-end", "tensor-shape"}
# Numbers at the edges of types, and small ones that every header has.
EDGES = [0, 1, 2, 7, 8, 9, 10, 12, 13, 31, 32, 64, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**33, 2**61]
EDGES += [2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1]


def judge_header(content: bytes) -> GgufHeader | InvalidGgufError:
    """Return the reader's result; the validator's findings must be documented."""
    try:
        header = read_header(io.BytesIO(content), file_bytes=len(content))
    except InvalidGgufError as error:
        if error.code not in DOCUMENTED_RULES:
            pytest.fail(f"undocumented: {error.code}")
        return error
    report = check_header(header, file_bytes=len(content))
    assert {finding.code for finding in report.findings} <= set(DOCUMENTED_RULES)
    return header
