"""The house as DESIGN.md draws it: floors, and what must never be. A breach says which rule, and which import."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "llm_hf_models"
MCP = ROOT / "mcp_server" / "llm_hf_mcp"
# A module imports from its own floor, without cycles, or from a lower one. A new module needs a place here.
FLOORS = {
    "ground": """
        errors text units jsonable paths settings refs records download_records model_options
        gguf_names gguf_types gguf_facts gguf_header gguf_rules quants fit machine
        digests journal space weather transfer_terms processes
    """,
    "first floor: the outside world": """
        tokens hub hub_errors hub_nouns hub_questions hub_replies remote_file
        http_reply http_ranges carrier source owner partial_file segments fetching transfer
        cached_files shards library library_file library_models library_downloads registered
        validate gguf_meaning gguf_tensors template_audit template_tree
        sandbox sandbox_filter sandbox_linux sandbox_macos sandbox_terms
    """,
    "second floor: what is made of them": """
        cache_layout download handover chat chat_wire model_engine
        engine engine_rows engine_dirs engine_process engine_child engine_binary engine_confine
        load_test load_child
    """,
    "third floor: the application": """
        __init__ service context metadata_cache account catalogue importing inspection local local_files search trial
        free_names runtime relay relay_whole pull pull_plan pull_rows scans
        policy prompting downloads download_row shares worker handed_tokens cleanup
        mirror mirror_answers mirror_http served
    """,
    "faces": """
        output wording progress keys host_config
        cli cli_common cli_account cli_cleanup cli_downloads cli_gguf cli_hub cli_library cli_mcp cli_runtime
        views_downloads views_gguf views_hub views_local views_runtime
        plugin llm_names chat_model model_run prompt_turn attachments
    """,
}
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS.values()) for module in modules.split()}
FACES = len(FLOORS) - 1
PROMPTING = {
    "plugin",
    "chat_model",
    "model_run",
    "prompt_turn",
    "attachments",
}  # these go to the engine, not to service
# What a face may import beside other faces.
FOR_FACES = {"service", "download_records", "errors", "units", "text", "jsonable"}
MOVERS = ("transfer", "download")
TERMINALS = {"click", "rich", "output", "progress", "wording"}
NETWORK = {"httpx2", "huggingface_hub", "hub", "socket", "http", "urllib", "requests", "ssl"}


@dataclass(frozen=True)
class Import:
    """One import: `target` is a module of ours by its bare name, or the name of a foreign package."""

    source: str
    target: str
    line: int
    ours: bool
    for_types: bool  # under TYPE_CHECKING: never carried out

    def __str__(self) -> str:
        return f"{self.source}.py:{self.line} imports {self.target}"


def modules() -> list[str]:
    return sorted(path.stem for path in PACKAGE.glob("*.py"))


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typed = {id(inner) for node in ast.walk(tree) if _is_type_checking(node) for inner in ast.walk(node)}
    return tuple(
        Import(path.stem, target, node.lineno, ours, id(node) in typed)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for target, ours in _targets(node)
    )


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _targets(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, bool]]:
    known = set(modules())
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute in this house"
        module = node.module or ""
        names = [f"{module}.{name}" for name in names] if module == PACKAGE.name else [module]
    for name in names:
        package, _, rest = name.partition(".")
        inner = rest.partition(".")[0]
        if package == PACKAGE.name:
            yield (inner if inner in known else "__init__"), True
        else:
            yield package, False


def all_imports() -> list[Import]:
    return [found for module in modules() for found in imports_of(PACKAGE / f"{module}.py")]


def floor(module: str) -> int:
    assert module in FLOOR_OF, f"Give {module}.py a floor in tests/test_architecture.py"
    return FLOOR_OF[module]


def reached_from(*starts: str) -> dict[str, Import | None]:
    """Everything that these modules import at run time, at once or late, ours and foreign; each with who did."""
    reached: dict[str, Import | None] = dict.fromkeys(starts)
    waiting = list(starts)
    while waiting:
        for found in imports_of(PACKAGE / f"{waiting.pop()}.py"):
            if not found.for_types and found.target not in reached:
                reached[found.target] = found
                if found.ours:
                    waiting.append(found.target)
    return reached


def refuse(rule: str, breaches: Iterable[object]) -> None:
    told = "\n  ".join(str(breach) for breach in breaches)
    assert not told, f"{rule}\n  {told}"


def test_every_module_has_its_floor_and_no_floor_a_ghost() -> None:
    refuse("Give each module a floor in tests/test_architecture.py", set(modules()) - FLOOR_OF.keys())
    refuse("These are on a floor and do not exist", FLOOR_OF.keys() - set(modules()))


def test_no_module_imports_from_a_floor_above_its_own() -> None:
    refuse(
        "A module imports from its own floor or from a lower one",
        (
            f"{found} ({list(FLOORS)[floor(found.source)]} -> {list(FLOORS)[floor(found.target)]})"
            for found in all_imports()
            if found.ours and found.source != "__init__" and floor(found.target) > floor(found.source)
        ),
    )


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        module: {found.target for found in imports_of(PACKAGE / f"{module}.py") if found.ours and not found.for_types}
        for module in modules()
    }
    done: set[str] = set()

    def circle(module: str, path: tuple[str, ...]) -> tuple[str, ...] | None:
        if module in path:
            return (*path[path.index(module) :], module)
        if module in done:
            return None
        found = next((c for target in sorted(graph[module]) if (c := circle(target, (*path, module)))), None)
        done.add(module)
        return found

    circles = [found for module in sorted(graph) if (found := circle(module, ()))]
    refuse("Imports have no cycles", (" -> ".join(found) for found in circles))


def test_nothing_below_the_faces_knows_llm_mcp_or_click() -> None:
    refuse(
        "Only faces import llm, mcp or click",
        (found for found in all_imports() if found.target in ("llm", "mcp", "click") and floor(found.source) < FACES),
    )


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("huggingface_hub", {"hub"}),
        ("xllamacpp", {"engine_child", "load_child"}),
        ("sqlite3", {"library_file", "registered"}),
        ("keyring", {"tokens"}),
        ("cryptography", {"tokens"}),
        ("gguf", set()),
        ("numpy", set()),
        ("httpx", set()),
        ("requests", set()),
    ],
)
def test_what_has_one_home_is_imported_nowhere_else(package: str, homes: set[str]) -> None:
    refuse(
        f"{package} belongs to {' and '.join(sorted(homes)) or 'no module of ours'}",
        (
            found
            for found in all_imports()
            if found.target == package and found.source not in homes and not found.for_types
        ),
    )


@pytest.mark.parametrize("module", MOVERS)
def test_who_moves_bytes_knows_neither_sqlite_nor_terminals(module: str) -> None:
    reached = reached_from(module)
    refuse(
        f"{module} and what it imports know neither SQLite nor terminals",
        (reached[name] for name in sorted({"sqlite3", "library", "library_file", *TERMINALS} & reached.keys())),
    )


def test_the_library_talks_to_no_network() -> None:
    reached = reached_from("library")
    refuse("library talks to no network", (reached[name] for name in sorted(NETWORK & reached.keys())))


def test_the_engine_child_needs_confinement_and_serving_and_nothing_else_of_ours() -> None:
    reached = reached_from("engine_child")
    refuse(
        "engine_child stands apart",
        (
            reached[name]
            for name in reached
            if name in FLOOR_OF and not name.startswith(("engine_child", "engine_binary", "engine_confine", "sandbox"))
        ),
    )


def test_a_prompt_never_imports_the_hub() -> None:
    reached = reached_from(*PROMPTING)
    refuse(
        "A prompt imports neither the Hub nor the service",
        (reached[name] for name in ("hub", "huggingface_hub", "service", "pull", "mcp", "rich") if name in reached),
    )


def test_the_faces_go_through_the_service() -> None:
    refuse(
        "A face imports the service, other faces, and of the ground only words and errors",
        (
            found
            for found in all_imports()
            if found.ours
            and not found.for_types
            and floor(found.source) == FACES
            and found.source not in PROMPTING
            and floor(found.target) < FACES
            and found.target not in FOR_FACES
        ),
    )


def test_the_two_faces_do_not_know_each_other() -> None:
    refuse("The package does not import the MCP server", (f for f in all_imports() if f.target == "llm_hf_mcp"))
    served = [found for path in sorted(MCP.rglob("*.py")) for found in imports_of(path)]
    refuse(
        "The MCP server imports only the service and errors, and neither click nor llm",
        (
            found
            for found in served
            if (found.ours and not found.for_types and found.target not in FOR_FACES | {"__init__"})
            or found.target in ("click", "llm")
        ),
    )
