"""`llm hf` in this process, as the tests of the commands call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from llm_hf_models.cli import hf


def run(*words: str | Path, code: int = 0, **more: Any) -> Result:
    """What a command line said, having ended with that code."""
    done = CliRunner().invoke(hf, [str(word) for word in words], **more)
    assert done.exit_code == code, done.output
    return done


def json_of(*words: str | Path, code: int = 0) -> Any:
    """The value that it printed as JSON."""
    return json.loads(run(*words, "--json", code=code).stdout)
