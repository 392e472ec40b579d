"""llm's hooks, lazy: nothing heavy is imported until it is used, and no hook ever raises.

Every `llm` command imports this module, so it imports nothing that llm hasn't. What is wrong with the library is for
`llm hf list` to explain: `llm` goes on working with its other models.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import llm

if TYPE_CHECKING:
    from llm_hf_models.library.registered_models import RegisteredModel

HELP = "Pull models from the Hugging Face Hub and run them on this machine."


class LazyGroup(click.Group):
    """`llm hf`, which knows only its name and its one line of help until it is called."""

    def _load(self) -> click.Group:
        try:
            group = importlib.import_module("llm_hf_models.cli.main").hf
        except ImportError as error:
            raise click.ClickException(
                f"llm-hf-models could not be loaded: {error}\nllm install -U --force-reinstall llm-hf-models"
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
        """Hands over to the real group: from here on the context's command is that one."""
        return self._load().make_context(info_name, args, parent=parent, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """For those who walk the commands without calling them."""
        return self._load().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The same for one of them."""
        return self._load().get_command(ctx, cmd_name)


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    """Adds `llm hf`."""
    cli.add_command(LazyGroup("hf", help=HELP), "hf")


@llm.hookimpl(trylast=True)  # after the others: an alias that one of them has is theirs
def register_models(register: Callable[..., None], model_aliases: list[Any]) -> None:
    """Registers the library's chat and base models."""
    try:
        found = _list_models(("chat", "base"))
        if found:
            from llm_hf_models.llm_plugin.models import create_models
            from llm_hf_models.llm_plugin.names import find_other_plugins_names

            taken = find_other_plugins_names(model_aliases)
            for model in found:
                free = [alias for alias in model.aliases if alias not in taken]
                register(*create_models(model), aliases=free)
    except Exception as error:  # noqa: BLE001 - whatever it is, `llm models` goes on
        _report_error(error)


@llm.hookimpl(tryfirst=True)  # before the others: llm lets the last one have an alias that two claim
def register_embedding_models(register: Callable[..., None]) -> None:
    """Registers the library's embedding models."""
    try:
        found = _list_models(("embedding",))
        if found:
            from llm_hf_models.llm_plugin.models import HfEmbeddingModel

            for model in found:
                register(HfEmbeddingModel(model), aliases=model.aliases)
    except Exception as error:  # noqa: BLE001 - whatever it is, `llm embed-models` goes on
        _report_error(error)


def _list_models(kinds: tuple[str, ...]) -> list[RegisteredModel]:
    from llm_hf_models.library.registered_models import read_registered_models
    from llm_hf_models.paths import library_path

    return [
        model for model in read_registered_models(library_path(), _report_unreadable_library) if model.kind in kinds
    ]


def _report_unreadable_library() -> None:
    _report_once("llm-hf-models: its library can't be read, so its models are missing here: `llm hf list` says why")


_reported: set[str] = set()


def _report_error(error: Exception) -> None:
    """A broken installation is said, once, where it spoils no output."""
    _report_once(f"llm-hf-models: its models can't be offered: {type(error).__name__}: {error}")


def _report_once(text: str) -> None:
    if text not in _reported:
        _reported.add(text)
        sys.stderr.write(text + "\n")
