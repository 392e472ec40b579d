"""A chat template's parsed tree, and ways to look at it without running it. Judges nothing (gguf/template_audit.py
does).

A hostile tree must not exhaust us: every walk has a stack of its own, and ends at a depth and a size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment, nodes

MAX_TREE_DEPTH = 300  # of the parsed tree, long chains of operators included
MAX_TREE_NODES = 50_000  # real ones have some 5,000


class TemplateTooComplexError(Exception):
    """The tree is deeper or larger than any engine should be given."""


def make_environment() -> Environment:
    """Jinja as chat templates know it; for its parser alone."""
    from jinja2 import Environment, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        """`{% generation %}` marks the assistant's text, as transformers has it."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own way to declare it

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    # Only its parser is used: no template is compiled, so nothing in one can escape into HTML or run.
    return Environment(  # noqa: S701
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", Generation]
    )


def find_numbers(tree: nodes.Node) -> list[float]:
    """The sizes of all constant numbers in an expression, infinity brought down to something that can be counted."""
    values = [getattr(part, "value", None) for part, _ in walk_tree(tree)]
    return [min(abs(v), 1e18) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]


def walk_tree(tree: nodes.Node) -> Iterator[tuple[nodes.Node, int]]:
    """Every node with the number of times that constant loops around it (its own included) repeat it.

    Raises:
        TooDeepError: it goes on for too long.
    """
    from jinja2 import nodes

    stack: list[tuple[nodes.Node, int, int]] = [(tree, 0, 1)]
    seen = 0
    while stack:
        node, depth, steps = stack.pop()
        seen += 1
        if depth > MAX_TREE_DEPTH or seen > MAX_TREE_NODES:
            raise TemplateTooComplexError(
                f"Its parsed tree is over {MAX_TREE_DEPTH} levels deep or {MAX_TREE_NODES} nodes large."
            )
        if isinstance(node, nodes.For):
            steps *= _count_loop_steps(node.iter)
        yield node, steps
        stack.extend((child, depth + 1, steps) for child in reversed(list(node.iter_child_nodes())))


def _count_loop_steps(iterated: nodes.Node) -> int:
    """How often a loop over `range(constants)` runs; 1 for a loop over anything else, which messages bound."""
    from jinja2 import nodes

    if not (
        isinstance(iterated, nodes.Call) and isinstance(iterated.node, nodes.Name) and iterated.node.name == "range"
    ):
        return 1
    return max(1, int(max(find_numbers(iterated), default=1)))


def find_names(parts: list[nodes.Node]) -> set[str]:
    """The variables that are read: `name`, and `name.attribute`, as namespaces have it."""
    from jinja2 import nodes

    found = set()
    for part in parts:
        for node, _ in walk_tree(part):
            if isinstance(node, nodes.Name):
                found.add(node.name)
            elif isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
                found.add(f"{node.node.name}.{node.attr}")
    return found


def find_targets(target: nodes.Node) -> list[str]:
    """The variables that an assignment or a loop sets, written the same way."""
    from jinja2 import nodes

    names = [node.name for node, _ in walk_tree(target) if isinstance(node, nodes.Name)]
    return names + [f"{node.name}.{node.attr}" for node, _ in walk_tree(target) if isinstance(node, nodes.NSRef)]


def has_content_access(node: nodes.Node) -> bool:
    """Whether an expression reads the text of a message."""
    from jinja2 import nodes

    for part, _ in walk_tree(node):
        if isinstance(part, nodes.Getattr) and part.attr == "content":
            return True
        if isinstance(part, nodes.Getitem) and isinstance(part.arg, nodes.Const) and part.arg.value == "content":
            return True
    return False


def find_literal_text(printed: list[nodes.Node]) -> Iterator[str]:
    """The text that branches print of their own: template data, and string constants that hold more than one word."""
    from jinja2 import nodes

    for node in printed:
        if isinstance(node, nodes.TemplateData):
            yield node.data
        elif isinstance(node, nodes.Const) and isinstance(node.value, str) and " " in node.value:
            yield node.value
