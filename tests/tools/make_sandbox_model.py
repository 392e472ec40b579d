"""Write the model with which an installation tests its sandbox: `python -m tests.tools.make_sandbox_model`."""

from __future__ import annotations

from pathlib import Path

from llm_hf_models.inference.engine import PROBE_MODEL
from tests.support import ggufs

ANSWER = "It works."


def write_model(path: Path) -> Path:
    """Write a chat model of one block, about 125 kB, that llama.cpp loads and that answers any prompt with ANSWER."""
    return ggufs.tiny_chat(path, answer=ANSWER, tool_answer=ANSWER, name="Sandbox Test", blocks=1)


if __name__ == "__main__":
    print(write_model(PROBE_MODEL))
