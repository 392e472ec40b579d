"""Run the load test of a local model in a sandboxed child, and record the result with the model."""

from __future__ import annotations

import time
from dataclasses import asdict

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
    header = check_shards(source.paths, seconds=context.settings().header_seconds).header
    if header is None:
        result = LoadResult("fails", "It is not a readable GGUF file: `llm hf check` explains why.")
    else:
        template = source.model.user_template if source.model else None
        facts = apply_template(header.facts, template)
        result = load_test.run_load_test(source.paths, facts, template=template, mmproj=source.mmproj)
    doubt = _find_doubt(source.model) if source.model else None
    if source.model:
        names = get_json_names(LoadResult)
        detail = {names[name]: value for name, value in asdict(result).items() if name != "verdict"}
        detail |= {"doubt": doubt, "template": source.model.template_digest}
        with context.open_database() as db:
            db.add_check(source.model.model_id, Check("load_test", result.verdict, time.time(), detail))
    return LoadTestReport(source.name, result, recorded=source.model is not None, ran=header is not None, doubt=doubt)


def _find_doubt(model: LocalModel) -> str | None:
    if model.state == "changed":
        return f"files differ from the recorded ones: llm hf verify {model.model_id}"
    if any(file.compare_with_disk() in UNPROVEN_STATES for file in model.files):
        return f"files modified after verification: llm hf verify {model.model_id}"
    return None
