"""Parse a chat template into Jinja's syntax tree, and search the tree without running it.

The module template_audit.py uses these functions to check templates. A hostile tree must not overflow the stack
or take too long, so every walk keeps its own stack and stops at a limit of depth and size.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment, nodes

MAX_TREE_DEPTH = 300  # levels; long chains of operators count too
MAX_TREE_NODES = 50_000  # real templates have about 5,000

_TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)


class TemplateTooComplexError(Exception):
    """The template's tree is too deep or too large to give to an engine."""


def make_environment() -> Environment:
    """Return a Jinja environment with the extensions that chat templates use. Only its parser is used."""
    from jinja2 import Environment, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        """The tag `{% generation %}` of transformers, which marks the assistant's text."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 requires a class attribute

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    # Only the parser is used. No template is compiled, so none can run or write unescaped HTML.
    return Environment(  # noqa: S701
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", Generation]
    )


def find_numbers(tree: nodes.Node) -> list[float]:
    """Return the absolute values of all constant numbers in an expression, limited to 1e18."""
    values = [getattr(part, "value", None) for part, _ in walk_tree(tree)]
    return [min(abs(v), 1e18) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]


def walk_tree(tree: nodes.Node, *, values_first: bool = False) -> Iterator[tuple[nodes.Node, int]]:
    """Yield every node, and how often the constant loops around it repeat it (including the node's own loop).

    Args:
        tree: the tree.
        values_first: True to yield the value of an assignment before its target, in the order of their evaluation.

    Raises:
        TemplateTooComplexError: the tree is deeper or larger than the limits.
    """
    from jinja2 import nodes

    stack: list[tuple[nodes.Node, int, int]] = [(tree, 0, 1)]
    seen = 0
    while stack:
        node, depth, steps = stack.pop()
        seen += 1
        if depth > MAX_TREE_DEPTH or seen > MAX_TREE_NODES:
            raise TemplateTooComplexError(
                f"Its syntax tree has over {MAX_TREE_DEPTH} levels or {MAX_TREE_NODES} nodes."
            )
        if isinstance(node, nodes.For):
            steps *= _count_loop_steps(node.iter)
        yield node, steps
        children = list(node.iter_child_nodes())
        if not (values_first and isinstance(node, nodes.Assign)):
            children.reverse()
        stack.extend((child, depth + 1, steps) for child in children)


def _count_loop_steps(iterated: nodes.Node) -> int:
    """Return how often a loop over `range(constants)` runs; 1 for other loops, which the messages limit."""
    from jinja2 import nodes

    if not (
        isinstance(iterated, nodes.Call) and isinstance(iterated.node, nodes.Name) and iterated.node.name == "range"
    ):
        return 1
    return max(1, int(max(find_numbers(iterated), default=1)))


def find_names(parts: list[nodes.Node]) -> set[str]:
    """Return the variables that are read: `name`, and `name.attribute` for attributes of namespaces."""
    from jinja2 import nodes

    found = set()
    for part in parts:
        for node, _ in walk_tree(part):
            if isinstance(node, nodes.Name):
                found.add(node.name)
            elif isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
                found.add(f"{node.node.name}.{node.attr}")
    return found


def find_template_inputs(template: str, names: Collection[str]) -> set[str]:
    """Return which of these variables a template reads from the request: it reads them before it sets them.

    If the template can't be parsed, each name counts that occurs in one of its tags as a word.
    """
    from jinja2 import TemplateSyntaxError, nodes

    read: set[str] = set()
    own: set[str] = set()
    try:
        for node, _ in walk_tree(make_environment().parse(template), values_first=True):
            if isinstance(node, nodes.Name) and node.name in names and node.name not in own:
                (read if node.ctx == "load" else own).add(node.name)
    except (TemplateSyntaxError, TemplateTooComplexError, RecursionError, ValueError, OverflowError):
        tags = " ".join(_TAG.findall(template))
        return {name for name in names if re.search(rf"(?<![\w.'\"]){re.escape(name)}\b", tags)}
    return read


def find_targets(target: nodes.Node) -> list[str]:
    """Return the variables that an assignment or a loop sets, as `name` or `name.attribute`."""
    from jinja2 import nodes

    names = [node.name for node, _ in walk_tree(target) if isinstance(node, nodes.Name)]
    return names + [f"{node.name}.{node.attr}" for node, _ in walk_tree(target) if isinstance(node, nodes.NSRef)]


def has_content_access(node: nodes.Node) -> bool:
    """Return whether an expression reads the content of a message."""
    from jinja2 import nodes

    for part, _ in walk_tree(node):
        if isinstance(part, nodes.Getattr) and part.attr == "content":
            return True
        if isinstance(part, nodes.Getitem) and isinstance(part.arg, nodes.Const) and part.arg.value == "content":
            return True
    return False


def find_literal_text(printed: list[nodes.Node]) -> Iterator[str]:
    """Yield the literal text that branches print: template data, and string constants of more than one word."""
    from jinja2 import nodes

    for node in printed:
        if isinstance(node, nodes.TemplateData):
            yield node.data
        elif isinstance(node, nodes.Const) and isinstance(node.value, str) and " " in node.value:
            yield node.value
