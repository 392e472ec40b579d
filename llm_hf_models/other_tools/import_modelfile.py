"""Import a Modelfile: register the model after FROM under a name of its own, with the settings as options."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_hf_models.context import Context
from llm_hf_models.errors import BadInputError, HfModelsError, MissingFileError, UnknownModelError
from llm_hf_models.gguf.quant_types import find_type
from llm_hf_models.gguf.shards import list_models
from llm_hf_models.hub.refs import ModelRef, parse_alias
from llm_hf_models.library.records import MODELFILE, SYSTEM, TEMPLATE, LocalModel
from llm_hf_models.models.local_files import MATCHES
from llm_hf_models.models.local_models import make_view
from llm_hf_models.other_tools import ollama
from llm_hf_models.other_tools.modelfile import Instruction, read_modelfile
from llm_hf_models.other_tools.ollama_options import convert_parameters
from llm_hf_models.other_tools.plan import read_header, select
from llm_hf_models.other_tools.register import TakenNames, import_found
from llm_hf_models.other_tools.registry import get_tool, search_tool
from llm_hf_models.other_tools.types import FoundModel, ImportedModel, ModelfilePlan
from llm_hf_models.paths import make_absolute
from llm_hf_models.system.text import clean_text
from llm_hf_models.transfer.types import Progress

MAX_BASES = 2  # a model and its projector
_PATH_STARTS = ("/", "./", "../", "~", "\\", ".\\", "..\\")
_HUB_STARTS = ("hf.co/", "huggingface.co/", "hf://", "https://")
_INEXPRESSIBLE = {
    "adapter": "ADAPTER: adapters (LoRA) are not supported yet",
    "draft": "DRAFT: draft models are not supported",
    "message": "MESSAGE: a model has no stored conversation here; `llm -t` templates can have one",
    "renderer": "RENDERER: the chat template of the model applies",
    "parser": "PARSER: the engine parses responses by the chat template",
    "requires": "REQUIRES: it names a version of Ollama",
}


def plan_modelfile(context: Context, path: Path, aliases: Sequence[str]) -> ModelfilePlan:
    """Return the model that a Modelfile describes: its files, its options, and what can't be expressed.

    Raises:
        MissingFileError: The Modelfile or a file that it names can't be read.
        BadInputError: The Modelfile is invalid, or it needs a name for the model.
        UnknownModelError: The model after FROM is not on this machine.
        InvalidGgufError: The file after FROM is not a model.
    """
    instructions = read_modelfile(make_absolute(path))
    bases = [one.value for one in instructions if one.name == "from"]
    base = _find_base(context, bases, make_absolute(path).parent, aliases)
    if base.problem:
        raise BadInputError(f"The model after FROM can't be used: {bases[0]}", cause=base.problem)
    return ModelfilePlan(bases[0], _add_settings(base, instructions))


def import_modelfile(context: Context, path: Path, aliases: Sequence[str], progress: Progress) -> ImportedModel:
    """Register the model that a Modelfile describes, where its files are.

    Raises:
        HfModelsError: As `plan_modelfile` and `import_file` do.
    """
    found = plan_modelfile(context, path, [parse_alias(alias) for alias in aliases]).model
    done = import_found(context, found, progress, TakenNames(), aliases=aliases)
    return _keep_proof(context, found, done) if found.tool == MODELFILE and found.sha256 else done


def _keep_proof(context: Context, found: FoundModel, done: ImportedModel) -> ImportedModel:
    """Record for the new model that its digest was compared with the Hub, if that is so for the model after FROM."""
    with context.open_database() as db:
        check = db.get_model(found.name).latest_check("digest")
        if check is None or check.result != MATCHES:
            return done
        db.add_check(done.result.model.id, check)
        view = make_view(db.get_model(done.result.model.id))
    return replace(done, result=replace(done.result, model=view, digest=f"matches, as that of {found.name}"))


# The model after FROM


def _find_base(context: Context, bases: Sequence[str], folder: Path, aliases: Sequence[str]) -> FoundModel:
    seconds = context.settings().header_seconds
    if len(bases) > MAX_BASES:
        raise BadInputError(
            f"The Modelfile has {len(bases)} FROM lines", cause="A model has one, and its projector one."
        )
    files = [_find_local_file(base, folder) for base in bases]
    if files[0] is None:
        if len(bases) > 1:
            raise BadInputError("The second FROM line must be the projector of a file in the first")
        return _find_named_base(context, bases[0], aliases, seconds)
    read = [read_header(FoundModel(MODELFILE, clean_text(str(file)), (str(file),)), seconds) for file in files if file]
    if len(read) == MAX_BASES:
        model, projector = sorted(read, key=lambda one: one.kind == "mmproj")
        if projector.kind != "mmproj" or model.kind == "mmproj":
            raise BadInputError("Of two FROM lines, one must be a model and the other one its projector")
        named = replace(model, projector=projector.files[0], size_bytes=0)
        read = [read_header(named, seconds)]
    return replace(read[0], stem=aliases[0] if aliases else None)


def _find_local_file(base: str, folder: Path) -> Path | None:
    """Return the file that FROM names; None if it names a model.

    Raises:
        MissingFileError: It is a path, and there is no such file or model.
        BadInputError: It is a folder with several models.
    """
    path = Path(os.path.normpath(make_absolute(folder / Path(base).expanduser()) if base else folder / "."))
    if base and path.is_dir():
        models = list_models([path])
        if len(models) > 1:
            raise BadInputError(f"{clean_text(base)} has {len(models)} models", hint="Name the file after FROM.")
        return models[0]
    if base and path.is_file():
        return path
    if not base or base.startswith(_PATH_STARTS) or base.lower().endswith(".gguf"):
        raise MissingFileError(f"The Modelfile names a file that does not exist: {clean_text(base) or '(empty)'}")
    return None


def _find_named_base(context: Context, base: str, aliases: Sequence[str], seconds: float) -> FoundModel:
    """Return a model of Ollama's store or of the library, under a new name.

    Raises:
        BadInputError: There is no name for the new model, which must not change the one after FROM.
        UnknownModelError: There is no such model.
    """
    if not aliases:
        raise BadInputError(
            "The Modelfile changes another model, so the new one needs a name",
            cause=f"FROM is {clean_text(base, 80)}, which keeps its own options.",
            hint="Add -a NAME.",
        )
    if base.lower().startswith(_HUB_STARTS):
        return _copy_local_model(_find_pulled_model(context, base), aliases[0])
    tool = get_tool(ollama.TOOL)
    try:
        found = select(search_tool(tool)[1], base, tool)
    except UnknownModelError as error:
        return _copy_local_model(_find_local_model(context, base, error), aliases[0])
    return replace(found if found.problem else read_header(found, seconds), stem=aliases[0], aliases=())


def _find_pulled_model(context: Context, base: str) -> LocalModel:
    ref = ModelRef.parse(base)
    with context.open_database() as db:
        try:
            return db.find_model(str(ref))
        except UnknownModelError:
            raise UnknownModelError(
                f"{ref} is not on this machine",
                cause="The Modelfile is based on it.",
                hint=f"llm hf pull {ref}, then import the Modelfile again.",
            ) from None


def _find_local_model(context: Context, base: str, error: HfModelsError) -> LocalModel:
    with context.open_database() as db:
        try:
            return db.find_model(base)
        except (BadInputError, UnknownModelError):
            error.hint = f"Download it with `ollama pull {clean_text(base, 80)}`, or name a file or hf.co/owner/name."
            raise error from None


def _copy_local_model(model: LocalModel, stem: str) -> FoundModel:
    model.refuse_if_remote()
    weights = tuple(file.location for file in model.files if file.role == "weights")
    projector = next((file.location for file in model.files if file.role == "mmproj"), None)
    return FoundModel(
        MODELFILE,
        model.model_id,
        weights,
        projector,
        f"{stem}-{model.quant}" if find_type(model.quant).name else stem,
        sha256=next((file.sha256 for file in model.files if file.role == "weights"), None),
        options=model.user_options,
        size_bytes=model.size,
        kind=model.facts.kind,
        quant=model.quant,
    )


# The other instructions


def _add_settings(base: FoundModel, instructions: Iterable[Instruction]) -> FoundModel:
    """Return the base with the options of a Modelfile, and with notes about what can't be expressed."""
    parameters: dict[str, Any] = {}
    options: dict[str, Any] = {}
    notes: dict[str, None] = {}
    base_template, first_license = base.has_foreign_template, base.license
    for one in instructions:
        if one.name == "parameter":
            known = parameters.setdefault("stop", []) if one.key == "stop" else None
            if known is None:
                parameters[one.key] = one.value
            else:
                known.append(one.value)
        elif one.name == "system":
            options[SYSTEM] = one.value
        elif one.name == "template":
            base_template = not _is_jinja(one.value)
            options.pop(TEMPLATE, None)
            if not base_template:
                options[TEMPLATE] = one.value
        elif one.name == "license":
            first_license = first_license or clean_text(next(iter(one.value.strip().splitlines()), ""), 200) or None
        elif one.name in _INEXPRESSIBLE:
            notes[_INEXPRESSIBLE[one.name]] = None
    converted, more = convert_parameters(parameters)
    return replace(
        base,
        options={**base.options, **converted, **options},
        notes=(*base.notes, *more, *notes),
        has_foreign_template=base_template,
        license=first_license,
    )


def _is_jinja(template: str) -> bool:
    """Return whether a template is in Jinja, the language of GGUF files. Ollama's are in Go's."""
    return "{%" in template
