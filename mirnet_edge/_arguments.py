"""Arguments of a wrong type, told as what they are: by name, with what was needed."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable
from functools import wraps
from numbers import Integral, Real
from typing import Any, Literal, ParamSpec, TypeVar, Union

from mirnet_edge.errors import MirnetEdgeError

P = ParamSpec("P")
T = TypeVar("T")


def explained(kind: type[MirnetEdgeError]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a function that fails raise ``kind`` where an argument is not what its annotation says.

    The arguments are looked at only then: what works is as quick as it was, and whatever behaves
    like what was asked for is taken.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*given: P.args, **named: P.kwargs) -> T:
            try:
                return function(*given, **named)
            except MirnetEdgeError:
                raise
            except Exception as error:
                if wrong := _wrong(function, given, named):
                    raise kind(wrong) from error
                raise

        return call

    return decorate


def _wrong(function: Callable[..., Any], given: Iterable[Any], named: dict[str, Any]) -> str:
    """Say which argument is not what its annotation says; "" where all are."""
    try:
        arguments = inspect.signature(function).bind(*given, **named).arguments
    except TypeError:  # too many of them, or one of no such name: Python says it best
        return ""
    hints = _hints(function)
    for name, value in arguments.items():
        if name in hints and not _fits(value, hints[name]):
            wanted = function.__annotations__[name]
            return f"{function.__qualname__}: {name}={_short(value)}; need {wanted}"
    return ""


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 60 else f"{text[:50]}… ({type(value).__name__})"


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations that can be evaluated: those for type checkers alone cannot."""
    found = {}
    names = getattr(function, "__globals__", {})
    for name, text in function.__annotations__.items():
        try:
            # The package's own source, as `typing.get_type_hints` does for all at once.
            found[name] = eval(text, names) if isinstance(text, str) else text
        except Exception:
            continue
    return found


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of an annotation, as far as can be told."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    wanted = origin or kind
    if wanted in (int, float):
        number = Integral if wanted is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    try:
        return isinstance(value, wanted)
    except TypeError:  # no class, or a protocol that cannot be asked
        return True
