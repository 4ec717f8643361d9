"""Mutants as values: what can be wrong in a source, and the exchange of a live function's code."""

from __future__ import annotations

import ast
import gc
import inspect
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from mutants_known import NAMED, NOT_DRAWN, TESTS

ROOT = Path(__file__).resolve().parents[1]
Change = Callable[[], None]
Place = tuple[tuple[str, int], ...]

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult},
}
TWINS = {"any": "all", "min": "max", "ceil": "floor", "up": "down"}
TWINS |= {twin: name for name, twin in TWINS.items()} | {"BaseException": "Exception"}


@dataclass(frozen=True)
class Mutant:
    """A module with one thing wrong: on which lines, what is said of it, and all of it."""

    module: str
    lines: tuple[int, ...]
    said: str
    source: str
    code: CodeType


# What can be wrong


def mutations(tree: ast.AST) -> Iterator[tuple[ast.AST, Change]]:
    """Nodes of a tree that can be changed in place, each with its change. Messages of errors,
    annotations and decorators stay."""
    for node in _executed(tree):
        yield from ((node, change) for change in _changes(node))


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, (ast.Raise, ast.JoinedStr, ast.Assert)):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.AST):
                yield child
                yield from _executed(child)


def _changes(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield lambda: node.ops.__setitem__(0, _swapped(node.ops[0]))
    elif isinstance(node, (ast.BoolOp, ast.BinOp)) and type(node.op) in SWAPS:
        yield lambda: setattr(node, "op", _swapped(node.op))
        if isinstance(node, ast.BoolOp):
            neutral = ast.Constant(isinstance(node.op, ast.And))
            for index in range(len(node.values)):
                yield lambda index=index: node.values.__setitem__(index, neutral)  # type: ignore[misc]
    elif isinstance(node, (ast.If, ast.IfExp)):
        yield lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield lambda: setattr(node, "operand", ast.UnaryOp(ast.Not(), node.operand))
    elif isinstance(node, ast.Constant) and type(node.value) in (int, bool):
        yield lambda: setattr(node, "value", _other(node.value))
    elif isinstance(node, ast.Return) and not _is_nothing(node.value):
        yield lambda: setattr(node, "value", ast.Constant(None))
    elif isinstance(node, (ast.Name, ast.Attribute)):
        field = "id" if isinstance(node, ast.Name) else "attr"
        if (twin := TWINS.get(getattr(node, field))) is not None:
            yield lambda: setattr(node, field, twin)
    elif _is_effect(node):
        yield lambda: _empty(node)


def _swapped(operator: ast.AST) -> Any:
    return SWAPS[type(operator)]()


def _other(value: object) -> object:
    return not value if isinstance(value, bool) else value + 1  # type: ignore[operator]


def _is_nothing(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _is_effect(node: ast.AST) -> bool:
    """Whether it is a statement that can be left out without an unbound name."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    targets = node.targets if isinstance(node, ast.Assign) else []
    kept = (ast.Attribute, ast.Subscript)
    return isinstance(node, ast.AugAssign) or any(isinstance(target, kept) for target in targets)


def _empty(node: ast.AST) -> None:
    """Make a statement one that does nothing."""
    for name in node._fields:
        delattr(node, name)
    node.__class__, node.value = ast.Expr, ast.Constant(...)  # type: ignore[attr-defined]


def mutant_of(module: str, source: str, number: int) -> Mutant | None:
    """The mutant of this number; None where it differs in what runs at import."""
    tree = ast.parse(source)
    node, change = list(mutations(tree))[number]
    shown = _statement_around(tree, node)
    where = _function_at(tree, node.lineno)  # type: ignore[attr-defined]
    before = ast.unparse(shown).partition("\n")[0]
    change()
    ast.fix_missing_locations(tree)
    after = ast.unparse(shown).partition("\n")[0]
    said = f"{where}: {before} -> {after}"
    path = ROOT / "mirnet_edge" / module
    code = compile(tree, str(path), "exec", dont_inherit=True)
    if at_import(code) != at_import(compile(source, str(path), "exec", dont_inherit=True)):
        return None
    return Mutant(module, _lines_of(shown), said, ast.unparse(tree), code)


def _function_at(tree: ast.AST, line: int) -> str:
    inner = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return ".".join(node.name for node in sorted(inner, key=lambda node: node.lineno)) or "module"


def _statement_around(tree: ast.AST, node: ast.AST) -> Any:
    """The smallest statement that a node is part of."""
    found, inner = tree, tree
    while inner is not node:
        inner = next(
            child
            for child in ast.iter_child_nodes(inner)
            if any(below is node for below in ast.walk(child))
        )
        if isinstance(inner, (ast.stmt, ast.ExceptHandler)):
            found = inner
    return found


def _lines_of(statement: ast.stmt) -> tuple[int, ...]:
    """All of a statement's, or of its head where it has a body."""
    body = getattr(statement, "body", None)
    end = body[0].lineno - 1 if body else statement.end_lineno or statement.lineno
    return tuple(range(statement.lineno, max(end, statement.lineno) + 1))


def named_mutants() -> list[Mutant]:
    """Those that lived once."""
    found = []
    for module, name, old, new in NAMED:
        path = ROOT / "mirnet_edge" / module
        source = path.read_text("utf-8")
        if source.count(old) != 1:
            raise LookupError(f"{module}: {name}: {old!r} is there {source.count(old)} times")
        line = source[: source.index(old)].count("\n") + 1
        changed = source.replace(old, new)
        code = compile(changed, str(path), "exec", dont_inherit=True)
        lines = tuple(range(line, line + old.count("\n") + 1))
        found.append(Mutant(module, lines, f"named: {name}", changed, code))
    return found


def drawn_mutants(modules: Collection[str], count: int, seed: int) -> Iterator[Mutant]:
    """So many of all modules, as many of each as of the others, or all that it has: those of some
    modules."""
    chosen = [module for module in TESTS if module not in NOT_DRAWN]
    for index, module in enumerate(chosen):
        if module not in modules:
            continue
        source = (ROOT / "mirnet_edge" / module).read_text("utf-8")
        share = (count * (index + 1)) // len(chosen) - (count * index) // len(chosen)
        numbers = list(range(sum(1 for _ in mutations(ast.parse(source)))))
        random.Random(f"{seed} {module}").shuffle(numbers)
        found = (mutant_of(module, source, number) for number in numbers)
        yield from islice((mutant for mutant in found if mutant is not None), share)


# Exchanging code


def parts_of(code: CodeType, path: Place = ()) -> Iterator[tuple[Place, CodeType]]:
    """All code inside of some, each with its place: names, and which of that name."""
    counts: Counter[str] = Counter()
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            place = (*path, (inner.co_name, counts[inner.co_name]))
            counts[inner.co_name] += 1
            yield place, inner
            yield from parts_of(inner, place)


def at_import(code: CodeType) -> list[object]:
    """What runs when a module is imported: its own code and that of its classes."""
    found: list[object] = []
    for part in (code, *(inner for _, inner in parts_of(code))):
        if part is code or not part.co_flags & inspect.CO_OPTIMIZED:
            constants = [item for item in part.co_consts if not isinstance(item, CodeType)]
            found += [part.co_code, part.co_names, constants]
    return found


def exchange(mutant: Mutant) -> int:
    """Let the live functions of a module have a mutant's code; how many changed."""
    path = ROOT / "mirnet_edge" / mutant.module
    whole = compile(path.read_text("utf-8"), str(path), "exec", dont_inherit=True)
    places = {_key(code): place for place, code in parts_of(whole)}
    new, changed = dict(parts_of(mutant.code)), 0
    for function in gc.get_objects():
        # Not `isinstance`, which wakes lazy modules up.
        if type(function) is FunctionType and function.__code__.co_filename == str(path):
            place = places.get(_key(function.__code__))
            if place in new and new[place] != function.__code__:
                function.__code__ = new[place]
                changed += 1
    return changed


def _key(code: CodeType) -> tuple[str, int]:
    return code.co_name, code.co_firstlineno
