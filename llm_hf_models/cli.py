"""`llm hf`: the group of all commands. The commands themselves stand in the cli_* modules."""

from __future__ import annotations

from llm_hf_models.cli_common import HfGroup, examples

hf = HfGroup(
    name="hf",
    sections={  # module:command, each imported when it is asked for
        "Find and fetch": "cli_hub:search cli_hub:info cli_gguf:inspect cli_gguf:check cli_hub:pull cli_gguf:test",
        "The queue": (
            "cli_downloads:downloads cli_downloads:pause cli_downloads:resume cli_downloads:cancel "
            "cli_downloads:retry cli_downloads:limit"
        ),
        "On this machine": (
            "cli_library:list_ cli_library:show cli_library:path cli_library:alias cli_library:verify "
            "cli_library:rm cli_library:import_ cli_cleanup:gc"
        ),
        "Running": "cli_runtime:set_ cli_library:ps cli_library:stop cli_runtime:serve cli_runtime:attach",
        "Account": "cli_account:login cli_account:logout cli_account:whoami",
        "This installation": "cli_account:status cli_account:settings cli_account:mirror cli_mcp:mcp",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Open models from the Hugging Face Hub, on this machine.",
    epilog=examples("llm hf pull unsloth/Qwen3-0.6B-GGUF", "llm -m Qwen3-0.6B 'five names for a walrus'"),
)
