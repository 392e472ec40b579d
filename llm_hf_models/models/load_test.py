"""Run the load test of a local model, or of files that may become one, in a sandboxed child."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from llm_hf_models.context import Context
from llm_hf_models.errors import UnknownModelError
from llm_hf_models.gguf.facts import apply_template
from llm_hf_models.gguf.validate import check_shards
from llm_hf_models.inference import load_test
from llm_hf_models.inference.types import LoadResult
from llm_hf_models.library.file_states import UNPROVEN_STATES
from llm_hf_models.library.records import Check, LocalModel
from llm_hf_models.models.inspect import resolve_source
from llm_hf_models.models.types import LoadTestReport
from llm_hf_models.system.json_values import get_json_names

UNREADABLE = LoadResult("fails", "It is not a readable GGUF file: `llm hf check` explains why.")


def run_load_test(context: Context, text: str) -> LoadTestReport:
    """Load a local model or a GGUF file in a confined child, and record the result.

    Raises:
        UnknownModelError: The model is not on this machine.
        BadInputError: The model is not a file on this machine.
        MissingFileError: A file no longer exists.
        EngineStartError: The child could not be started.
        NotWritableError: A folder for the child could not be created.
    """
    source = resolve_source(context, text)
    if source.ref is not None:
        raise UnknownModelError(
            f"{source.ref} is not on this machine, so it can't be loaded",
            hint=f"llm hf pull {source.ref} --test",
        )
    result = _load(context, source.paths, source.mmproj, source.model.user_template if source.model else None)
    doubt = _find_doubt(source.model) if source.model else None
    if source.model:
        with context.open_database() as db:
            db.add_check(source.model.model_id, _make_check(result or UNREADABLE, source.model, doubt))
    return LoadTestReport(
        source.name, result or UNREADABLE, recorded=source.model is not None, ran=result is not None, doubt=doubt
    )


def load_files(context: Context, model: LocalModel, stop: threading.Event) -> Check:
    """Load the files of a model that is not registered yet, with its options, and return the result.

    Raises:
        EngineStartError: The child could not be started.
        NotWritableError: A folder for the child could not be created.
        InterruptedByUserError: The stop event was set.
    """
    paths = [Path(file.location) for file in model.files if file.role == "weights"]
    mmproj = next((Path(file.location) for file in model.files if file.role == "mmproj"), None)
    return _make_check(_load(context, paths, mmproj, model.user_template, stop) or UNREADABLE, model, None)


def _load(
    context: Context,
    paths: Sequence[Path],
    mmproj: Path | None,
    template: str | None,
    stop: threading.Event | None = None,
) -> LoadResult | None:
    """Return the result of loading the files, or None if the header can't be read."""
    header = check_shards(paths, seconds=context.settings().header_seconds).header
    if header is None:
        return None
    facts = apply_template(header.facts, template)
    return load_test.run_load_test(paths, facts, template=template, mmproj=mmproj, stop=stop)


def _make_check(result: LoadResult, model: LocalModel, doubt: str | None) -> Check:
    names = get_json_names(LoadResult)
    detail = {names[name]: value for name, value in asdict(result).items() if name != "verdict"}
    detail |= {"doubt": doubt, "template": model.template_digest}
    return Check("load_test", result.verdict, time.time(), detail)


def _find_doubt(model: LocalModel) -> str | None:
    if model.state == "changed":
        return f"files differ from the recorded ones: llm hf verify {model.model_id}"
    if any(file.compare_with_disk() in UNPROVEN_STATES for file in model.files):
        return f"files modified after verification: llm hf verify {model.model_id}"
    return None
