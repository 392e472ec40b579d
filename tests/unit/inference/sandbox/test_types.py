"""The condition for `sandboxed`."""

from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has layers that a test can try")
if sys.platform == "linux":
    from llm_hf_models.inference.sandbox.confine import ConfinementReport
    from llm_hf_models.inference.sandbox.types import Layer
ALL = ("rlimits", "user-namespace", "network-namespace", "landlock", "seccomp")


@pytest.mark.parametrize(
    ("layers", "sandboxed"),
    [
        (ALL, True),
        (("landlock", "seccomp"), True),
        (("seatbelt",), True),
        (("rlimits", "user-namespace", "network-namespace", "seccomp"), False),
        (("rlimits", "user-namespace", "network-namespace", "landlock"), False),
        ((), False),
    ],
)
def test_sandboxed_requires_files_and_every_kind_of_socket(layers: tuple[Layer, ...], sandboxed: bool) -> None:
    assert ConfinementReport(layers).is_sandboxed is sandboxed
