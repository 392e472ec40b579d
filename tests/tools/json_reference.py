"""The reference of `--json`, docs/json.md: the type that each command prints, and the fields of each type.

`--write` updates the file. A test compares it with this, and another one compares the types with real output.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass, make_dataclass
from datetime import datetime
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from llm_hf_models.cli.commands.account import LoggedOut
from llm_hf_models.cli.commands.importing import ImportableFiles
from llm_hf_models.cli.commands.installation import InstalledEntry
from llm_hf_models.cli.commands.queue import ClearedDownloads
from llm_hf_models.cli.commands.running import StoppedEngines
from llm_hf_models.cli.commands.this_machine import AliasList, ModelPaths
from llm_hf_models.cli.output import ErrorReport
from llm_hf_models.cli.several import NamedError, Results
from llm_hf_models.disk_space.types import Deduplication, DiskUsage, Pruning
from llm_hf_models.downloads.plan_types import PullPlan, PullResult
from llm_hf_models.downloads.types import DownloadList, DownloadLog, DownloadView
from llm_hf_models.lockfiles.types import ExportResult, LockDiff, LockResult, SyncPlan, SyncResult
from llm_hf_models.models.collection_types import CollectionDeletion, CollectionImport, CollectionList, CollectionView
from llm_hf_models.models.repo_types import CheckReport, Inspection, ModelInfo, SearchPage
from llm_hf_models.models.signature_types import TrustChange, TrustedSigners
from llm_hf_models.models.types import (
    ImportResult,
    LoadTestReport,
    LocalModelList,
    LocalModelView,
    Removal,
    Verification,
)
from llm_hf_models.other_tools.types import ImportedModel, ModelfilePlan, ToolImport, ToolImportPlan
from llm_hf_models.signatures.types import SigningResult
from llm_hf_models.system.json_values import UnixTime, get_json_names, get_member_types
from llm_hf_models.types import (
    Cleanup,
    EngineList,
    SettingList,
    SettingView,
    Status,
    StoredItemList,
    TokenStatus,
    Uninstallation,
)
from llm_hf_models.updates.types import OutdatedModels, UpdatedModel, UpdatedModels, UpdatePlan

DOCUMENT = Path(__file__).parents[2] / "docs/json.md"


def make_results_type(kind: type) -> type:
    """Return the type of the output of a command that takes several names, each with a result of this type."""
    members = [("results", tuple[kind, ...]), ("errors", tuple[NamedError, ...])]  # type: ignore[valid-type]
    return make_dataclass(Results.__name__, members, frozen=True)


# The type of the output by command, and by the option that changes it. `mcp` prints the configuration of a host.
OUTPUTS: dict[str, Any] = {
    "search": SearchPage,
    "info": make_results_type(ModelInfo),
    "inspect": make_results_type(Inspection),
    "check": make_results_type(CheckReport),
    "pull": make_results_type(PullResult),
    "pull --dry-run": make_results_type(PullPlan),
    "pull --background": make_results_type(DownloadView),
    "test": make_results_type(LoadTestReport),
    "downloads": DownloadList,
    "downloads --watch": DownloadView,
    "downloads clear": ClearedDownloads,
    "downloads log": DownloadLog,
    **dict.fromkeys(("pause", "resume", "cancel", "retry"), make_results_type(DownloadView)),
    "limit": SettingView,
    "list": LocalModelList,
    "show": make_results_type(LocalModelView),
    "path": make_results_type(ModelPaths),
    "alias": AliasList,
    "verify": make_results_type(Verification),
    "rm": make_results_type(Removal),
    "import": make_results_type(ImportResult),
    "import --dry-run": ImportableFiles,
    "import --from": ToolImport,
    "import --from --dry-run": ToolImportPlan,
    "import Modelfile": ImportedModel,
    "import Modelfile --dry-run": ModelfilePlan,
    "collection": CollectionList,
    "collection create": CollectionView,
    "collection add": CollectionView,
    "collection remove": CollectionView,
    "collection list": CollectionList,
    "collection show": make_results_type(CollectionView),
    "collection rename": CollectionView,
    "collection import": CollectionImport,
    "collection delete": make_results_type(CollectionDeletion),
    "trust": TrustedSigners,
    "trust add": TrustChange,
    "trust list": TrustedSigners,
    "trust remove": TrustChange,
    "gc": Cleanup,
    "du": DiskUsage,
    "prune": Pruning,
    "dedupe": Deduplication,
    "outdated": OutdatedModels,
    "update": UpdatedModels,
    "update --dry-run": UpdatePlan,
    "rollback": UpdatedModel,
    "rollback --dry-run": PullPlan,
    "pin": LocalModelView,
    "sign": SigningResult,
    "lock": LockResult,
    "lock --diff": LockDiff,
    "export": ExportResult,
    "sync": SyncResult,
    "sync --dry-run": SyncPlan,
    "set": LocalModelView,
    "ps": EngineList,
    "stop": StoppedEngines,
    "attach": LocalModelView,
    "login": TokenStatus,
    "logout": LoggedOut,
    "whoami": TokenStatus,
    "status": Status,
    "status --files": StoredItemList,
    "settings": SettingList,
    "mcp": Mapping[str, Any],
    "mcp --install": InstalledEntry,
    "uninstall": Uninstallation,
}
_NOTES = {
    "downloads --watch": "one line for each change",
    "mcp": "the entry in the host's own format",
}
_NAMES: dict[Any, str] = {
    str: "text", Path: "text", int: "integer", float: "number", bool: "true or false", type(None): "null", Any: "any",
    UnixTime: "time", datetime: "time",
}  # fmt: skip
_JSON_WORDS = {"None": "null", "True": "true", "False": "false"}
_PIPE = r"\|"  # in a cell of a table

INTRODUCTION = """\
# JSON output

<!-- Generated by tests/tools/json_reference.py: `make docs`. -->

Each command with `--json` prints one JSON document on stdout. It is the value that the method of
`Library` returns, and `to_dict()` of that value. Progress and notes go to stderr.

- The output is always an object, and each command has one shape.
- A command that takes several names prints an object with two lists, even for a single name:
  `results`, in the order of the names, and `errors`, with a [NamedError](#namederror) for each name that
  failed. The exit code is then that of the first error.
- The id of a local model is `id`. Other names for it say what they refer to, such as `local_model`.
- A **time** is a text in UTC and in the form of ISO 8601, such as `2026-11-30T01:34:00Z`.
- Names of sizes and of memory end in `_bytes`, and names of durations in `_seconds`.
- Numbers that JSON can't represent are the texts `nan`, `inf` and `-inf`.
- Every field is always present. A field without a value is `null`. New versions may add fields.
- `mirror` and `serve` have no `--json`.

## Errors

An error is one line, and the exit code is the same as without `--json`:

```json
{"error": {"code": "repo_not_found", "message": "…", "cause": null, "hint": "…"}}
```

`error` is an [ErrorReport](#errorreport). The codes are the names of the exceptions in
`llm_hf_models.errors`; `usage` is an error in the words of the command. If one of several names fails,
its error is in `errors`, beside the results of the others. If a command stops before it uses any
name, or if its only name fails, it prints the error alone.
"""


def is_results_type(kind: Any) -> bool:
    """Return whether a type is one of `make_results_type`."""
    return isinstance(kind, type) and kind.__name__ == Results.__name__


def name_type(kind: Any) -> str:
    """Return a type as text for a table in Markdown."""
    if kind in _NAMES:
        return _NAMES[kind]
    if is_results_type(kind):
        return f"`results`: {name_type(get_member_types(kind)['results'])}"
    if is_dataclass(kind) and isinstance(kind, type):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(name_type(member) for member in arguments)
    if origin is Literal:
        return ", ".join("true" if one is True else "false" if one is False else f"`{one}`" for one in arguments)
    return _name_container(origin, arguments)


def _name_container(origin: type, arguments: tuple[Any, ...]) -> str:
    if issubclass(origin, Mapping):
        return "object" if arguments[1] is Any else f"object with values: {name_type(arguments[1])}"
    if origin is tuple and arguments[1:] != (Ellipsis,):
        return f"list of {len(arguments)}: {', '.join(map(name_type, arguments))}"
    return f"list of {name_type(arguments[0])}"


def list_dataclasses(kind: Any) -> Iterator[type]:
    """Yield the dataclasses in a type and in their fields, with repetitions."""
    if is_dataclass(kind) and isinstance(kind, type):
        yield kind
        for member in get_member_types(kind).values():
            yield from list_dataclasses(member)
    for argument in get_args(kind):
        yield from list_dataclasses(argument)


def read_comments(kind: type) -> dict[str, str]:
    """Return the descriptions of a dataclass's members: comments of fields and docstrings of properties."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        above = ""
        for line in inspect.getsource(base).splitlines():
            if comment := re.fullmatch(r"    # (.*)", line):
                above = f"{above} {comment[1]}".strip()
            elif field := re.match(r"    (\w+): [^#]*(?:#(?! noqa| type) (.*))?$", line):
                found[field[1]] = field[2] or above
                above = ""
            else:
                above = ""
        for name, member in vars(base).items():
            if isinstance(member, property):
                found[name] = (inspect.getdoc(member) or "").partition("\n")[0].removeprefix("Return ").rstrip(".")
    return found


def use_json_words(text: str) -> str:
    """Return a description with the names of values as in JSON."""
    return re.sub(r"\b(None|True|False)\b", lambda found: _JSON_WORDS[found[0]], text)


def render_type(kind: type) -> str:
    """Return the section of one dataclass."""
    comments, names = read_comments(kind), get_json_names(kind)
    rows = [
        f"| `{names[name]}` | {name_type(member)} | {use_json_words(comments.get(name, '')).replace('|', _PIPE)} |"
        for name, member in get_member_types(kind).items()
    ]
    table = "\n".join(["| field | value | meaning |", "|---|---|---|", *rows])
    return f"### {kind.__name__}\n\n{use_json_words(inspect.getdoc(kind) or '')}\n\n{table}\n"


def make_document() -> str:
    """Return the whole reference."""
    rows = []
    for command, kind in OUTPUTS.items():
        note = f": {_NOTES[command]}" if command in _NOTES else ""
        rows.append(f"| `llm hf {command}` | {name_type(kind)}{note} |")
    commands = "\n".join(["## Commands", "", "| command | output |", "|---|---|", *rows, ""])
    found = (one for kind in (ErrorReport, *OUTPUTS.values()) for one in list_dataclasses(kind))
    kinds = dict.fromkeys(kind for kind in found if not is_results_type(kind))
    types = "\n".join(render_type(kind) for kind in sorted(kinds, key=lambda kind: kind.__name__))
    return f"{INTRODUCTION}\n{commands}\n## Types\n\n{types}"


def main() -> int:
    """Update the file with `--write`; without it return 1 if it is outdated."""
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(make_document(), encoding="utf-8")
        return 0
    return 0 if DOCUMENT.read_text(encoding="utf-8") == make_document() else 1


if __name__ == "__main__":
    sys.exit(main())
