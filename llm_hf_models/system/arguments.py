"""Check the types of the arguments of public methods, so that a mistake gives one clear error at the border.

The annotations are read as text: their types are imported only when they are used, and most checks need only builtins.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cache, lru_cache, wraps
from typing import Any, Literal, TypeVar, get_args, get_origin

from llm_hf_models.errors import BadInputError

C = TypeVar("C", bound=type)
MAX_SHOWN_CHARS = 60


def _is_list_of_texts(value: object) -> bool:
    is_list = isinstance(value, Sequence | AbstractSet) and not isinstance(value, str)
    return is_list and all(isinstance(member, str) for member in value)  # type: ignore[attr-defined]


_NAMES = (_is_list_of_texts, "a list of texts")
# Each annotation, with the function that accepts a value and the words for an error.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (lambda value: isinstance(value, str), "a text"),
    "bool": (lambda value: isinstance(value, bool), "True or False"),
    "int": (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
    "float": (lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number"),
    "None": (lambda value: value is None, "None"),
    "Path": (lambda value: isinstance(value, os.PathLike), "a path"),
    "Mapping[str, Any]": (lambda value: isinstance(value, Mapping), "a dictionary"),
    "Mapping[str, str]": (lambda value: isinstance(value, Mapping), "a dictionary"),
    "Sequence[str]": _NAMES,
    "Collection[str]": _NAMES,
    "tuple[str, ...]": _NAMES,
}


def check_arguments(kind: C) -> C:
    """Decorate a class: its public methods, inherited ones too, and its constructor check the types of their arguments.

    Python's own errors about a call then have the name of this class, not of the one that a method is inherited from.

    Raises:
        BadInputError: (by the methods) an argument has a type or value that its annotation does not allow.
    """
    for base in reversed(kind.__mro__[:-1]):
        for name, member in list(vars(base).items()):
            if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_")):
                member.__qualname__ = f"{kind.__qualname__}.{name}"
                setattr(kind, name, _check_calls(member))
    return kind


def _check_calls(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the method
        signature = _read_signature(method)  # at the first call: a command calls few methods
        try:
            bound = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return method(*args, **kwargs)  # Python's own message names the method
        for name, value in bound.items():
            parameter = signature.parameters[name]
            if parameter.annotation is not parameter.empty:
                for each in value if parameter.kind is parameter.VAR_POSITIONAL else [value]:
                    check_value(name, each, str(parameter.annotation), method.__module__)
        return method(*args, **kwargs)

    return call


@cache
def _read_signature(method: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(method)


def check_fields(value: object) -> None:
    """Check the fields of a dataclass against their annotations, for its `__post_init__`.

    Raises:
        BadInputError: a field has a type or value that its annotation does not allow.
    """
    for name, annotation in inspect.get_annotations(type(value)).items():
        check_value(name, getattr(value, name), annotation, type(value).__module__)


def check_value(name: str, value: object, annotation: str, module: str) -> None:
    """Check a value against the text of an annotation in a module.

    Raises:
        BadInputError: the annotation does not allow the value.
    """
    checks = [_find_check(part, module) for part in _split_union(annotation)]
    if not any(accepts(value) for accepts, _ in checks):
        shown = repr(value)
        shown = shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[: MAX_SHOWN_CHARS - 1]}…"
        raise BadInputError(f"{name} must be {' or '.join(words for _, words in checks)}, not {shown}")


@lru_cache
def _split_union(annotation: str) -> list[str]:
    """Split at each `|` that is outside of brackets."""
    parts, depth = [""], 0
    for char in annotation:
        depth += (char in "[(") - (char in "])")
        if char == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _find_check(part: str, module: str) -> tuple[Callable[[Any], bool], str]:
    if part in _CHECKS:
        return _CHECKS[part]
    defined = getattr(sys.modules.get(module), part, None)
    if get_origin(defined) is Literal or part.startswith("Literal["):
        allowed = get_args(defined) or tuple(re.findall(r"['\"]([^'\"]*)['\"]", part))
        return (lambda value: isinstance(value, str) and value in allowed), f"one of {', '.join(allowed)}"
    if part.startswith("Callable[") or part == "Progress":
        return callable, "a function"
    # A class of this package or of the standard library, known by its name only.
    name = part.partition("[")[0].rpartition(".")[2]
    return (lambda value: any(base.__name__ == name for base in type(value).__mro__)), f"a {name}"
