"""llm's hooks in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_hf_models import paths, plugin
from tests.support.commands import run_llm
from tests.support.damaged_libraries import (
    drop_a_table,
    register_model,
    replace_with_a_folder,
    set_newer_version,
    store_invalid_json,
    write_garbage,
)


def test_help_names_the_group_without_importing_it() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from llm.cli import cli\n"
        "print(CliRunner().invoke(cli, ['--help']).output)\n"
        "print(sorted(name for name in sys.modules if name.startswith('llm_hf_models')))\n"
        "assert not {'huggingface_hub', 'keyring', 'rich', 'jinja2', 'psutil', 'xllamacpp'} & set(sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Open models from the Hugging Face Hub, on this machine." in output
    assert output.splitlines()[-1] == "['llm_hf_models', 'llm_hf_models.plugin']"


DAMAGES = [write_garbage, set_newer_version, store_invalid_json, drop_a_table, replace_with_a_folder]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_unreadable_library_is_reported_in_one_line_and_list_explains_it(
    damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "_reported", set())
    register_model("some/model:F16", aliases=("v",))
    damage(paths.library_path())
    prompted = run_llm("-m", "v", "hello")
    assert prompted.exit_code == 1
    assert "Unknown model: v" in prompted.stderr
    assert prompted.stderr.count("`llm hf list` says why") == 1
    why = run_llm("hf", "list")
    assert why.exit_code == 1
    assert str(paths.library_path()) in why.stderr
    assert "what is left of the disk" not in why.stderr
