"""A name of another plugin's model, requested through the Python API."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_hf_models.errors import NameTakenError
from llm_hf_models.service import Library
from tests.support import taken_names
from tests.support.taken_names import THEIRS

pytestmark = pytest.mark.new_machine
gguf = taken_names.gguf


def test_python_api_refuses_names_of_other_plugins(gguf: Path) -> None:
    library = Library()
    library.import_file(gguf)
    with pytest.raises(NameTakenError, match=THEIRS):
        library.add_alias("walrus", THEIRS)
    assert library.add_alias("walrus", "seal").id == "hf/local/walrus:Q8_0"
