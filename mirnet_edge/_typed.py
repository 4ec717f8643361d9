"""JSON that may be anyone's, made into the dataclasses that it says it is."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")
_PLAIN = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_LARGEST = 2**63
"""Of whole numbers: no count of bytes is larger, and larger ones are no floats."""


def parse_json(content: str | bytes) -> Any:
    """Parse JSON that may be anyone's; a `ValueError` says what is wrong, however wrong it is."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def dataclass_of(kind: type[T], fields: object, where: str = "") -> T:
    """A dataclass of what `dataclasses.asdict` made of it, on its way through JSON.

    Raises:
        ValueError: a field is missing, unknown, or not of the type that its annotation says; or
            what the dataclass itself raises.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where or kind.__name__} is {fields!r:.60}, no object")
    known = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := fields.keys() - known.keys():
        raise ValueError(f"{where} has {min(unknown)!r:.60}, which it cannot have".lstrip())
    for name, item in known.items():
        no_default = item.default is item.default_factory is dataclasses.MISSING
        if no_default and name not in fields:
            raise ValueError(f"{where}{name} is missing")
    hints = _hints(kind)  # type: ignore[arg-type]
    return kind(**{n: _value(hints[n], given, f"{where}{n}") for n, given in fields.items()})


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _value(kind: Any, given: Any, where: str) -> Any:
    """What ``given`` is as a value of an annotation."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return given
    if origin in (Union, types.UnionType):
        return _one_of(inner, given, where)
    if dataclasses.is_dataclass(kind):
        return dataclass_of(kind, given, f"{where}.")  # type: ignore[arg-type]
    if origin is tuple and isinstance(given, (list, tuple)):
        kinds = [inner[0]] * len(given) if inner[1:] == (...,) else list(inner)
        if len(kinds) == len(given):
            # JSON has no tuples, and a list would compare unequal to what was written.
            items = enumerate(zip(kinds, given))
            return tuple(_value(one, item, f"{where}[{i}]") for i, (one, item) in items)
    elif origin is dict and isinstance(given, Mapping):
        return {key: _value(inner[1], item, f"{where}[{key!r:.40}]") for key, item in given.items()}
    elif origin is Literal:
        if any(type(given) is type(one) and given == one for one in inner):
            return given
    elif kind is float and type(given) is int and abs(given) < _LARGEST:
        return given  # as it was written: 25 stays 25
    elif type(given) is kind and (kind is not int or abs(given) < _LARGEST):
        return given
    raise ValueError(f"{where} is {given!r:.60}, not {_PLAIN.get(kind, str(kind))}")


def _one_of(kinds: tuple[Any, ...], given: Any, where: str) -> Any:
    if given is None and type(None) in kinds:
        return None
    last = ValueError(f"{where} is {given!r:.60}")
    for kind in kinds:
        try:
            return _value(kind, given, where)
        except ValueError as error:
            last = error if kind is not type(None) else last
    raise last
