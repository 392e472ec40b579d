"""Real models: their header, their structure, and that they load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llm_hf_models.gguf.header import GgufHeader, read_header
from llm_hf_models.gguf.validate import check_file
from llm_hf_models.inference import load_test
from tests.support import real_weights


def read(path: Path) -> GgufHeader:
    with path.open("rb") as file:
        return read_header(file, file_bytes=path.stat().st_size)


@pytest.mark.weights
def test_header_of_a_real_model_is_read(tmp_path: Path) -> None:
    facts = read(real_weights.smollm2(tmp_path)).facts
    assert (facts.kind, facts.quantization, facts.vocabulary_size) == ("chat", "Q4_1", 49152)
    assert facts.parameters == 134_515_008


@pytest.mark.weights
@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", [real_weights.smollm2, real_weights.gemma3])
def test_real_model_has_no_findings_loads_and_generates_text(tmp_path: Path, model: Callable[[Path], Path]) -> None:
    path = model(tmp_path)
    report = check_file(path)
    assert report.findings == ()
    assert report.header is not None
    result = load_test.run_load_test(path, report.header.facts)
    assert (result.verdict, result.reason) == ("loads", "")
    assert len(result.output.split()) > 1
