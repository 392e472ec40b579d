"""Run the command that the user gave for the end of a download (`--on-done`)."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from llm_hf_models.context import Context
from llm_hf_models.errors import HfModelsError
from llm_hf_models.library.download_records import Download
from llm_hf_models.system.private_files import append_to_private_file
from llm_hf_models.system.processes import wait_in_background

if TYPE_CHECKING:
    from llm_hf_models.library.downloads import DownloadTables
    from llm_hf_models.library.records import LocalModel


def run_command(context: Context, db: DownloadTables, command: str, row: Download, model: LocalModel | None) -> None:
    """Start the command that the user gave for a finished download. Its failure does not concern the download."""
    variables = {
        "LLM_HF_DOWNLOAD": str(row.id),
        "LLM_HF_REF": row.ref,
        "LLM_HF_MODEL": model.model_id if model else "",
    }
    log = context.command_log()
    try:
        with append_to_private_file(log) if log else nullcontext(_find_stderr()) as output:
            process = subprocess.Popen(  # noqa: S602 - the user's own command line, as they would type it
                command, shell=True, env={**os.environ, **variables}, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        wait_in_background(process)
    except (OSError, ValueError) as error:  # for example, the command is longer than the system accepts
        with suppress(HfModelsError):
            db.add_note(row.id, "command", f"could not be run: {error}")


def _find_stderr() -> int:
    """Return the file descriptor of standard error, or DEVNULL if the program has none."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError):
        return subprocess.DEVNULL
