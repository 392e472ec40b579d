"""llm's plugin hooks. They are lazy (heavy modules are imported on first use), and they never raise.

Every `llm` command imports this module, so it imports only modules that llm has already imported. If the library is
broken, `llm` keeps working with its other models, and `llm hf list` explains the problem.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
import llm

if TYPE_CHECKING:
    from llm_hf_models.library.registered_models import RegisteredModel

HELP = "Find, download and run open models from the Hugging Face Hub."


class LazyGroup(click.Group):
    """The `llm hf` command group, which loads its subcommands on first use."""

    def _load(self) -> click.Group:
        gc.freeze()  # llm's objects live to the end: searching them for cycles takes longer than a command's own work
        try:
            group = importlib.import_module("llm_hf_models.cli.main").hf
        except ImportError as error:
            raise click.ClickException(
                f"llm-hf-models could not be loaded: {error}\n"
                "Reinstall it: llm install -U --force-reinstall llm-hf-models"
            ) from error
        if not isinstance(group, click.Group):
            raise TypeError(group)
        return group

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401 - click's own
    ) -> click.Context:
        """Return the context of the loaded group, which runs the command."""
        return self._load().make_context(info_name, args, parent=parent, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands, for tools that list commands without running them."""
        return self._load().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one subcommand, for tools that inspect commands without running them."""
        return self._load().get_command(ctx, cmd_name)


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    """Add `llm hf`."""
    cli.add_command(LazyGroup("hf", help=HELP), "hf")
    if os.environ.get("_LLM_COMPLETE", "").startswith("bash"):  # bash runs `llm` to complete a word
        with suppress(ImportError):  # of a broken installation, which the command reports
            importlib.import_module("llm_hf_models.cli.bash_completion").register()


@llm.hookimpl(trylast=True)  # after other plugins, which keep the aliases that they claim
def register_models(register: Callable[..., None], model_aliases: list[Any]) -> None:
    """Register the library's chat and base models."""
    try:
        found = _list_models(("chat", "base"))
        if found:
            from llm_hf_models.llm_plugin.models import create_models
            from llm_hf_models.llm_plugin.names import find_other_plugins_names, find_requested_models

            taken = find_other_plugins_names(model_aliases)
            requested = find_requested_models({*taken, *_list_names(found)}, _report_once)
            for model in found:
                names = _list_aliases(model, requested)
                register(*create_models(model), aliases=[name for name in names if name not in taken])
    except Exception as error:  # noqa: BLE001 - `llm models` must work even if this fails
        _report_error(error)


@llm.hookimpl(tryfirst=True)  # before other plugins: if two claim an alias, llm gives it to the last one
def register_embedding_models(register: Callable[..., None]) -> None:
    """Register the library's embedding models."""
    try:
        found = _list_models(("embedding",))
        if found:
            from llm_hf_models.llm_plugin.models import HfEmbeddingModel
            from llm_hf_models.llm_plugin.names import find_requested_models

            requested = find_requested_models(_list_names(found), _report_once)
            for model in found:
                register(HfEmbeddingModel(model), aliases=_list_aliases(model, requested))
    except Exception as error:  # noqa: BLE001 - `llm embed-models` must work even if this fails
        _report_error(error)


def _list_models(kinds: tuple[str, ...]) -> list[RegisteredModel]:
    from llm_hf_models.library.registered_models import read_registered_models
    from llm_hf_models.paths import library_path

    return [
        model for model in read_registered_models(library_path(), _report_unreadable_library) if model.kind in kinds
    ]


def _list_names(models: Iterable[RegisteredModel]) -> set[str]:
    return {name for model in models for name in (model.model_id, *_list_own_names(model))}


def _list_own_names(model: RegisteredModel) -> tuple[str, ...]:
    """Return the aliases of a model, the names of its repo, and its roles in collections."""
    return (*model.aliases, *model.repo_names, *model.role_names)


def _list_aliases(model: RegisteredModel, requested: Mapping[str, str]) -> list[str]:
    """Return the model's own names, and the names that this command requested it by."""
    names = (name for name, model_id in requested.items() if model_id == model.model_id)
    return [*_list_own_names(model), *names]


def _report_unreadable_library() -> None:
    _report_once(
        "llm-hf-models: the library can't be read, so its models are not listed. Run `llm hf list` for details."
    )


_reported: set[str] = set()


def _report_error(error: Exception) -> None:
    """Report a broken installation once. Stderr keeps the report out of a command's output."""
    _report_once(f"llm-hf-models: the models could not be registered: {type(error).__name__}: {error}")


def _report_once(text: str) -> None:
    if text not in _reported:
        _reported.add(text)
        sys.stderr.write(text + "\n")
