"""Define `llm hf`, the group of all commands. The commands themselves are in `commands/`."""

from __future__ import annotations

import click

from llm_hf_models.cli import output
from llm_hf_models.cli.framework import HfGroup, format_examples


def _print_version(ctx: click.Context, _option: click.Parameter, is_given: bool) -> None:
    if is_given and not ctx.resilient_parsing:
        import llm_hf_models

        output.emit(f"llm-hf-models {llm_hf_models.__version__}")
        ctx.exit()


hf = HfGroup(
    name="hf",
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_print_version,
            help="Print the version and exit.",
        )
    ],
    sections={  # module:command; a module is imported when one of its commands is used
        "Find and pull": "find:search find:info find:inspect find:check pull:pull pull:test",
        "Download queue": ("queue:downloads queue:pause queue:resume queue:cancel queue:retry queue:limit"),
        "On this machine": (
            "this_machine:list_ this_machine:show this_machine:path this_machine:alias this_machine:verify "
            "this_machine:rm importing:import_ collections:collection disk_space:du disk_space:prune "
            "disk_space:dedupe this_machine:gc"
        ),
        "Versions": "updates:outdated updates:update updates:rollback updates:pin",
        "Lockfiles": "lockfile:lock lockfile:sync lockfile:export",
        "Signatures": "trust:trust signatures:sign",
        "Running": "running:set_ running:ps running:stop running:serve running:attach",
        "Account": "account:login account:logout account:whoami",
        "This installation": (
            "installation:status installation:settings installation:mirror installation:mcp installation:uninstall"
        ),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find, download and run open models from the Hugging Face Hub.",
    epilog='With --json, a command prints its result as JSON on stdout, or its error: {"error": {"code", "message", '
    '"cause", "hint"}}. The exit code is the same as without it.\n\n'
    + format_examples("llm hf pull unsloth/Qwen3-0.6B-GGUF", "llm -m Qwen3-0.6B 'five names for a walrus'"),
)
