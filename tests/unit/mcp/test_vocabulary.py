"""Words of agents for licences and numbers of parameters."""

from __future__ import annotations

import pytest
from llm_hf_mcp.vocabulary import LICENSES, TASKS, understand_count, understand_license, understand_task

from llm_hf_models.errors import BadInputError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (8, 8e9), (8.0, 8e9), ("8", 8e9), ("8 billion", 8e9), ("8,000 million", 8e9), ("7 bn", 7e9), ("7.5b", 7.5e9),
        ("8e9", 8e9), (8e9, 8e9), ("1500", 1500), ("500M parameters", 5e8), (0.5, 5e8),
    ],
)  # fmt: skip
def test_count_in_many_spellings(text: str | float, count: float) -> None:
    assert understand_count(text) == count


@pytest.mark.parametrize("text", ["1.2.3", ".", "1e400", "1e99", "eight", "-1", "\u00b2", "8 8", "NaN", "inf"])
def test_other_text_is_not_a_count(text: str) -> None:
    with pytest.raises(BadInputError, match="is not a number of parameters"):
        understand_count(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Apache 2.0", "apache-2.0"), ("apache", "apache-2.0"), ("Apache License, Version 2.0", "apache-2.0"),
        ("APACHE-2", "apache-2.0"), ("apache2.0", "apache-2.0"), ("The MIT License (MIT)", "mit"),
        ("Llama 3.1", "llama3.1"), ("llama 3", "llama3"), ("CC BY-SA 4.0", "cc-by-sa-4.0"), ("gpl v3", "gpl-3.0"),
        ("bigscience-openrail-m", "bigscience-openrail-m"), ("", None), (" , ", None),
    ],
)  # fmt: skip
def test_license_in_many_spellings(text: str, name: str | None) -> None:
    assert understand_license(text) == name


def test_identifiers_of_the_hub_are_not_changed() -> None:
    assert [understand_license(name) for name in LICENSES] == list(LICENSES)
    assert [understand_task(name) for name in TASKS] == list(TASKS)
