"""The verbs about models that other tools have on this machine, and about Modelfiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_hf_models.context import Context
    from llm_hf_models.other_tools.types import ImportedModel, ModelfilePlan, ToolImport, ToolImportPlan, ToolModels
    from llm_hf_models.transfer.types import Event, Progress


def _ignore_event(event: Event) -> None:
    """Ignore a progress event."""


class OtherToolVerbs:
    """The verbs of `Library` about the models of other tools."""

    _context: Context

    def find_in_other_tools(self, tool: str, *, progress: Progress = _ignore_event) -> ToolModels:
        """Return the models in the store of another tool, with their settings and those that can't be imported.

        Args:
            tool: ollama, lmstudio, llamacpp, jan, gpt4all or llm-gguf.
            progress: Called with the progress of hashing the files that may be identical to those of a local model.
        """
        from llm_hf_models.other_tools import plan

        return plan.find_models(self._context, tool, progress)

    def plan_import_from(
        self, tool: str, names: Sequence[str] = (), *, identical: bool = False, progress: Progress = _ignore_event
    ) -> ToolImportPlan:
        """Return the models that `import_from` would register now, and those that it would leave out."""
        from llm_hf_models.other_tools import plan

        return plan.plan_import(self._context, tool, names, progress, identical=identical)

    def import_from(
        self,
        tool: str,
        names: Sequence[str] = (),
        *,
        identical: bool = False,
        aliases: Sequence[str] = (),
        progress: Progress = _ignore_event,
    ) -> ToolImport:
        """Register the models of another tool in place. Their files are never modified or removed.

        Args:
            tool: ollama, lmstudio, llamacpp, jan, gpt4all or llm-gguf.
            names: The tool's names for the models; empty for all.
            identical: Also register models whose files a local model has.
            aliases: The aliases of the model, if only one is registered.
            progress: Called with the progress of hashing.
        """
        from llm_hf_models.other_tools import register

        return register.import_models(self._context, tool, names, progress, identical=identical, aliases=aliases)

    @staticmethod
    def is_modelfile(path: Path | str) -> bool:
        """Return whether a file is a Modelfile, the format in which Ollama describes a model."""
        from llm_hf_models.other_tools import modelfile

        return modelfile.is_modelfile(Path(path))

    def plan_modelfile(self, path: Path | str, *, aliases: Sequence[str] = ()) -> ModelfilePlan:
        """Return the model that `import_modelfile` would register, and what it can't express."""
        from llm_hf_models.other_tools import import_modelfile

        return import_modelfile.plan_modelfile(self._context, Path(path), aliases)

    def import_modelfile(
        self, path: Path | str, *, aliases: Sequence[str] = (), progress: Progress = _ignore_event
    ) -> ImportedModel:
        """Register the model after a Modelfile's FROM, with the Modelfile's parameters and system prompt as options.

        Args:
            path: The Modelfile.
            aliases: The names of the model. The first is also part of its id. One is needed if FROM names a model.
            progress: Called with the progress of hashing.
        """
        from llm_hf_models.other_tools import import_modelfile

        return import_modelfile.import_modelfile(self._context, Path(path), aliases, progress)
