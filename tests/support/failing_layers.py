"""Make layers of the sandbox fail in the processes that a test starts, as they could on a system we don't know.

Python imports `sitecustomize` from PYTHONPATH at the start of every process, so nothing of this is in the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

LAYERS = ("rlimits", "user-namespace", "network-namespace", "landlock", "seccomp")
# What each layer does instead: its own work with rules that are too strict, or with those of Landlock.
NO_FILES = "step(allowed, active); resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))"
NO_MODEL = "step(replace(allowed, read_paths=()), active)"
NO_MODEL_EITHER = "step(allowed, active); linux.restrict_files(replace(allowed, read_paths=()), active)"
NO_SOCKET = "step(replace(allowed, allow_unix_server=False), active)"
HANG = "threading.Event().wait()"
TOO_STRICT = {
    "rlimits": NO_FILES,
    "user-namespace": NO_MODEL_EITHER,
    "network-namespace": NO_MODEL_EITHER,
    "landlock": NO_MODEL,
    "seccomp": NO_SOCKET,
}
MACOS_TOO_STRICT = {"seatbelt": NO_MODEL_EITHER}
_CODE = """
import resource, sys, threading
from dataclasses import replace
if any(name in argument for argument in sys.orig_argv for name in ("engine_child", "load_test_child")):
    with open({starts!r}, "a") as starts:
        starts.write(sys.orig_argv[-1] + "\\n")
from llm_hf_models.inference.sandbox import confine, linux, macos, seccomp

def replace_step(step, code):
    def run(allowed, active):
        exec(code, {{**globals(), "step": step, "allowed": allowed, "active": active}})
    return run

steps = confine._get_steps()
if {macos}:
    steps = {{"rlimits": macos.limit_resources, "seatbelt": lambda allowed, active: None}}
for layer, code in {codes!r}.items():
    steps[layer] = replace_step(steps[layer], code)
confine._get_steps = lambda: steps
"""


class FailingLayers:
    """The layers that fail in new processes, and the starts of engines and load tests since the test began."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # two versions of a second could look the same
        self.set({})

    def set(self, codes: Mapping[str, str], *, macos: bool = False) -> None:
        """Replace each layer by some Python code. With `macos`, the layers are those of a Mac."""
        code = _CODE.format(starts=str(self.folder / "starts"), codes=dict(codes), macos=macos)
        (self.folder / "sitecustomize.py").write_text(code)

    def count_starts(self) -> int:
        starts = self.folder / "starts"
        return len(starts.read_text().splitlines()) if starts.exists() else 0


@pytest.fixture
def failing_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FailingLayers:
    folder = tmp_path / "site"
    folder.mkdir()
    return FailingLayers(folder, monkeypatch)
