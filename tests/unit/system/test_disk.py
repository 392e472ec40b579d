"""What the disk of a folder accepts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llm_hf_models.errors import NotWritableError
from llm_hf_models.system.disk import refuse_names

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pathconf")


def test_name_or_path_that_is_too_long_for_the_disk_is_refused(tmp_path: Path) -> None:
    refuse_names([tmp_path / "none" / ("x" * 255)])
    for path in (tmp_path / "none" / ("x" * 256), tmp_path / ("ü" * 128), tmp_path.joinpath(*["y" * 250] * 17)):
        with pytest.raises(NotWritableError, match="too long"):
            refuse_names([path])
