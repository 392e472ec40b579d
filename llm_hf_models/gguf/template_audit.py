"""Check a chat template's syntax tree for dangerous or suspicious constructs. The template is never run.

The audit finds access to code and files outside the template, depth, loops and sizes that exhaust the engine, and
conditions that steer a model without the person's knowledge. The audit can't prove that a template is harmless,
so a person should also read it: `llm hf inspect --template` prints it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llm_hf_models.gguf.rules import Finding, make_finding
from llm_hf_models.gguf.template_ast import (
    TemplateTooComplexError,
    find_literal_text,
    find_names,
    find_numbers,
    find_targets,
    has_content_access,
    make_environment,
    walk_tree,
)

if TYPE_CHECKING:
    from jinja2 import nodes

MAX_TEMPLATE_CHARS = 128 * 1024  # the largest real templates have about 30,000
MAX_NESTING = 64  # of brackets and of blocks
MAX_WORK = 300_000  # node visits in total; nodes in nested conditions are visited several times
MAX_LOOP_STEPS = 100_000  # product of nested loops over constant ranges
MAX_CONSTANT = 1_000_000  # the largest plausible result of an operation on constants
MAX_FINDINGS = 50
MAX_PASSES = 8  # over the assignments, in order; only loops within loops could need more
MAX_EXPONENT = 16
MIN_STEERING_WORDS = 3

_GLOBALS = frozenset(
    {"range", "dict", "namespace", "cycler", "joiner", "raise_exception", "strftime_now", "loop", "caller"}
)

_DANGEROUS = frozenset(
    {"eval", "exec", "compile", "open", "system", "popen", "spawn", "subprocess", "import_module", "lipsum", "getattr"}
    | {"setattr", "globals", "locals", "vars", "config", "request", "url_for", "get_flashed_messages", "os", "self"}
)

_METHODS = frozenset(
    {"append", "capitalize", "count", "endswith", "extend", "find", "get", "index", "insert", "isdigit", "isalpha"}
    | {"isspace", "items", "join", "keys", "ljust", "lower", "lstrip", "pop", "removeprefix", "removesuffix", "replace"}
    | {"reverse", "rfind", "rjust", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "update"}
    | {"upper", "values", "isalnum", "isnumeric", "isupper", "islower", "zfill", "partition", "rpartition", "copy"}
)

# An unclosed quote matches to the end. If the pattern failed there, it would be tried again from each later quote.
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*\\?(?:'|\Z)|"(?:\\.|[^"\\])*\\?(?:"|\Z)""", re.DOTALL)
_TAGS = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{\{.*|\{%.*", re.DOTALL)
_BLOCK = re.compile(r"\{%[-+]?\s*(end)?(if|for|macro|call|filter|block|with|generation|autoescape)\b")

# Only Python's internals: other words between double underscores are tokens, such as media markers.
_INTERNALS = re.compile(
    r"__(class|mro|bases?|subclasses|globals|builtins|init|import|dict|getattr(ibute)?|reduce(_ex)?|code|closure|self"
    r"|module|new|call|func|wrapped|loader|spec|file)__"
)
_WORD_LIKE = re.compile(r"[^\W\d_][\w ,.'!?-]*")
_WORD = re.compile(r"[^\W\d_]{2,}")
_URL = re.compile(r"https?://[^\s\"'<>{}]+")


def audit_template(template: str, key: str) -> list[Finding]:
    """Return all findings about one template.

    Args:
        template: the template's text.
        key: the template's metadata key, for the findings' `where`.
    """
    if len(template) > MAX_TEMPLATE_CHARS:
        return [make_finding("template-too-large", "error", f"The template has {len(template)} characters.", key)]
    findings = list(_check_plain_text(template, key))
    depth = _measure_nesting(template)
    if depth > MAX_NESTING:
        return [*findings, make_finding("template-nesting", "error", f"It is nested {depth} levels deep.", key)]
    tree = _parse(template, key)
    if isinstance(tree, Finding):
        return [*findings, tree]
    auditor = _TreeAuditor(key)
    try:
        auditor.audit(tree)
    except TemplateTooComplexError as error:
        return [*findings, make_finding("template-nesting", "error", str(error), key)]
    unique = dict.fromkeys([*findings, *auditor.findings])
    return list(unique)[:MAX_FINDINGS]


def _check_plain_text(template: str, key: str) -> Iterator[Finding]:
    hidden = sorted({c for c in template if unicodedata.category(c) in ("Cf", "Co")})
    if hidden:
        names = ", ".join(f"U+{ord(c):04X}" for c in hidden[:5])
        yield make_finding("template-invisible-characters", "warning", f"It has invisible characters: {names}.", key)
    for url in sorted(set(_URL.findall(template)))[:3]:
        yield make_finding("template-url", "note", f"It contains the URL {url}.", key)


def _measure_nesting(template: str) -> int:
    """Return the deepest nesting of brackets in a tag, or of blocks.

    This is measured before parsing, since deep nesting may overflow a parser's stack.
    """
    deepest = 0
    for tag in _TAGS.finditer(template):
        depth = 0
        for char in _QUOTED.sub("", tag[0]):
            if char in "([{":
                depth += 1
                deepest = max(deepest, depth - 2)  # the tag's own braces
            elif char in ")]}":
                depth = max(0, depth - 1)
    depth = 0
    for block in _BLOCK.finditer(template):
        depth = max(0, depth - 1) if block[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest


def _parse(template: str, key: str) -> nodes.Template | Finding:
    from jinja2 import TemplateSyntaxError

    try:
        return make_environment().parse(template)
    except TemplateSyntaxError as error:
        message = f"Its tags were not checked, since Jinja can't parse them: {error.message}"
        return make_finding("template-syntax", "warning", message, f"{key}, line {error.lineno}")
    except RecursionError:
        return make_finding("template-nesting", "error", "It is nested too deeply to be parsed.", key)
    except (ValueError, OverflowError):  # an integer with more digits than Python converts
        return make_finding(
            "template-syntax", "warning", "It contains a number that is too long, so its tags were not checked.", key
        )


class _TreeAuditor:
    """Collect the findings about one tree. Walks keep their own stack, since a hostile tree could exhaust Python's."""

    def __init__(self, key: str) -> None:
        self._key = key
        self.findings: list[Finding] = []
        self._macros: set[str] = set()
        self._tainted: set[str] = set()  # variables with text from messages
        self._work = 0

    def audit(self, tree: nodes.Template) -> None:
        from jinja2 import nodes

        checks: dict[type[nodes.Node], Callable[[nodes.Node, int], None]] = {
            nodes.Getattr: self._check_attribute,
            nodes.Getitem: self._check_attribute,
            nodes.Const: self._check_constant,
            nodes.Name: self._check_name,
            nodes.Add: self._check_joined_text,
            nodes.Concat: self._check_joined_text,
            nodes.Call: self._check_call,
            nodes.Filter: self._check_filter,
            nodes.If: self._check_condition,
            nodes.CondExpr: self._check_condition,
            nodes.For: self._check_loop,
            nodes.Mul: self._check_arithmetic,
            nodes.Pow: self._check_arithmetic,
            nodes.Include: self._check_include,
            nodes.Import: self._check_include,
            nodes.FromImport: self._check_include,
            nodes.Extends: self._check_include,
        }
        visited = list(walk_tree(tree))
        self._macros = {node.name for node, _ in visited if isinstance(node, nodes.Macro)}
        self._find_tainted_names([node for node, _ in visited])
        for node, steps in visited:
            check = checks.get(type(node))
            if check is not None:
                check(node, steps)

    def _add_finding(self, code: str, severity: str, message: str, node: nodes.Node) -> None:
        if len(self.findings) < MAX_FINDINGS * 4:
            where = f"{self._key}, line {node.lineno}"
            self.findings.append(make_finding(code, severity, message, where))  # type: ignore[arg-type]

    def _find_tainted_names(self, visited: list[nodes.Node]) -> None:
        """Find the variables with text from messages by following assignments and loops."""
        from jinja2 import nodes

        flows: list[tuple[list[str], list[nodes.Node]]] = []
        for node in visited:
            if isinstance(node, nodes.Assign):
                flows.append((find_targets(node.target), [node.node]))
            elif isinstance(node, nodes.AssignBlock):
                flows.append((find_targets(node.target), list(node.body)))
            elif isinstance(node, nodes.For):
                flows.append((find_targets(node.target), [node.iter]))
        sources = [
            (names, find_names(parts), any(has_content_access(part) for part in parts)) for names, parts in flows
        ]
        for _ in range(MAX_PASSES):
            for names, read, direct in sources:
                if direct or not self._tainted.isdisjoint(read):
                    self._tainted.update(names)

    def _is_from_messages(self, node: nodes.Node) -> bool:
        return has_content_access(node) or not self._tainted.isdisjoint(find_names([node]))

    def _check_attribute(self, node: nodes.Node, _: int) -> None:
        from jinja2 import nodes

        name = node.attr if isinstance(node, nodes.Getattr) else getattr(getattr(node, "arg", None), "value", None)
        if isinstance(name, str) and name.startswith("__"):
            self._add_finding("template-dunder", "error", f"It reads the attribute {name!r}.", node)

    def _check_constant(self, node: nodes.Node, _: int) -> None:
        value = getattr(node, "value", None)
        if isinstance(value, str) and _INTERNALS.search(value):
            self._add_finding("template-dunder", "error", f"It contains the name {value[:60]!r}.", node)
        if max(find_numbers(node), default=0) > MAX_CONSTANT:
            self._add_finding("template-huge-constant", "warning", "It contains a huge number.", node)

    def _check_name(self, node: nodes.Node, _: int) -> None:
        name = getattr(node, "name", "")
        if name == "lipsum" or name.startswith("__"):
            self._add_finding(
                "template-dunder", "error", f"It uses {name!r}, which gives access to Python's internals.", node
            )

    def _check_joined_text(self, node: nodes.Node, _: int) -> None:
        """Find names of Python's internals that are joined from pieces which are harmless by themselves."""
        values = [getattr(part, "value", None) for part, _ in walk_tree(node)]
        self._work += len(values)
        if self._work > MAX_WORK:
            raise TemplateTooComplexError("Its expressions are nested too deeply to be checked.")
        pieces = [value for value in values if isinstance(value, str)]
        if _INTERNALS.search("".join(pieces)) and not any(_INTERNALS.search(piece) for piece in pieces):
            self._add_finding("template-dunder", "error", "It joins strings to a name with double underscores.", node)

    def _check_call(self, node: nodes.Node, _: int) -> None:
        from jinja2 import nodes

        callee = getattr(node, "node", None)
        if isinstance(callee, nodes.Name):
            name, known = callee.name, callee.name in _GLOBALS or callee.name in self._macros
        elif isinstance(callee, nodes.Getattr):
            name, known = callee.attr, callee.attr in _METHODS
        else:
            name, known = "the result of an expression", False
        if name in _DANGEROUS and name not in self._macros:
            self._add_finding("template-danger-call", "error", f"It calls {name!r}.", node)
        elif not known:
            self._add_finding("template-unknown-call", "note", f"It calls {name!r}.", node)
        if name == "replace" and isinstance(callee, nodes.Getattr) and self._is_from_messages(callee.node):
            self._check_replacement(node)

    def _check_filter(self, node: nodes.Node, _: int) -> None:
        name, target = getattr(node, "name", ""), getattr(node, "node", None)
        if name == "attr":
            self._add_finding("template-dunder", "error", "It reads attributes with the filter `attr`.", node)
        if name == "replace" and target is not None and self._is_from_messages(target):
            self._check_replacement(node)

    def _check_replacement(self, node: nodes.Node) -> None:
        from jinja2 import nodes

        values = [a.value for a in getattr(node, "args", ()) if isinstance(a, nodes.Const) and isinstance(a.value, str)]
        if values and _WORD_LIKE.fullmatch(values[0].strip()):
            self._add_finding(
                "template-rewrites-content", "warning", f"It replaces {values[0][:40]!r} in messages.", node
            )

    def _check_condition(self, node: nodes.Node, _: int) -> None:
        """Find an `if` that depends on a message's content or on the date, and whose branches add sentences."""
        from jinja2 import nodes

        test: nodes.Node = getattr(node, "test")  # noqa: B009 - If and CondExpr have no common class with this attribute
        branches = [child for child in node.iter_child_nodes() if child is not test]
        printed = [part for branch in branches for part, _ in walk_tree(branch)]
        condition = [part for part, _ in walk_tree(test)]
        self._work += len(printed) + len(condition)
        if self._work > MAX_WORK:
            raise TemplateTooComplexError("Its conditions are nested too deeply to be checked.")
        if len(_WORD.findall(" ".join(find_literal_text(printed)))) < MIN_STEERING_WORDS:
            return
        if any(isinstance(part, nodes.Name) and part.name in ("strftime_now", "now") for part in condition):
            self._add_finding("template-date-trigger", "warning", "It adds text depending on the date.", node)
        triggers = [
            part.value
            for part in condition
            if isinstance(part, nodes.Const)
            and isinstance(part.value, str)
            and _WORD_LIKE.fullmatch(part.value.strip())
        ]
        triggers = [text for text in triggers if text not in _STRUCTURAL]
        if triggers and any(self._is_content_comparison(part) for part in condition):
            self._add_finding(
                "template-content-trigger", "warning", f"It adds text if a message contains {triggers[0][:40]!r}.", node
            )

    def _is_content_comparison(self, node: nodes.Node) -> bool:
        from jinja2 import nodes

        if isinstance(node, nodes.Compare):
            return any(self._is_from_messages(part) for part in (node.expr, *(op.expr for op in node.ops)))
        return isinstance(node, (nodes.Call, nodes.Test, nodes.Filter)) and self._is_from_messages(node)

    def _check_loop(self, node: nodes.Node, steps: int) -> None:
        if steps > MAX_LOOP_STEPS:
            self._add_finding("template-loop-bounds", "error", f"It always loops {steps} times.", node)

    def _check_arithmetic(self, node: nodes.Node, _: int) -> None:
        from jinja2 import nodes

        sizes = find_numbers(node)
        power = isinstance(node, nodes.Pow)
        huge = max(sizes, default=0) > MAX_EXPONENT if power else math.prod(sizes) > MAX_CONSTANT
        if huge:
            self._add_finding("template-huge-constant", "error", "It computes a huge value from constants.", node)

    def _check_include(self, node: nodes.Node, _: int) -> None:
        self._add_finding("template-include", "error", "It loads another template.", node)


# Role names and types: templates compare these strings with fields of objects that also have content.
_STRUCTURAL = frozenset(
    {"system", "user", "assistant", "tool", "developer", "function", "ipython", "model", "human", "gpt", "critic"}
    | {"role", "content", "text", "image", "audio", "video", "image_url", "type", "name", "arguments", "parameters"}
    | {"tool_calls", "reasoning_content", "thinking", "string", "object", "array", "number", "boolean", "integer"}
)
