"""The maximum time of a chat template's audit."""

from __future__ import annotations

import time

import pytest

from llm_hf_models.gguf.template_audit import MAX_TEMPLATE_CHARS, audit_template

KEY = "tokenizer.chat_template"


SIZE = MAX_TEMPLATE_CHARS - 10
UNITS = [
    "{{",
    "{%",
    "{#",
    "{% raw %}",
    "'\\",
    "\"'",
    "{% -",
    " ",
    "\n",
    "1",
    "1.",
    "1_",
    "_",
    "a",
    "{",
    "-",
    "#}",
    "\\",
]
UNITS += ["{{ a }}", "{% if a %}x{% endif %}", "{% set a = b %}", "{% set b = a.content %}", "(" * 60 + ")" * 60, "~1"]


@pytest.mark.parametrize("unit", UNITS)
def test_largest_templates_are_audited_in_a_few_seconds(unit: str) -> None:
    started = time.thread_time()
    for start in ("", "{{ ", "{{ '", "{% if a "):
        audit_template((start + unit * (SIZE // len(unit)))[:SIZE], KEY)
    assert time.thread_time() - started < 15  # four runs; a slow machine needs a quarter of this
