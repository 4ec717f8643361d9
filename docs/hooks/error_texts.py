"""The texts of all errors that the package raises, read off its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OMITTED = "…"
"""Stands for a value."""
COMMAND_LINE = ("UsageError", "BadParameter")
"""Of click: what was typed cannot be meant."""


@dataclass(frozen=True, order=True)
class ErrorText:
    """An error's class, what it says with its values left out, and the file that raises it."""

    kind: str
    text: str
    file: str

    def says(self, quoted: str) -> bool:
        """Tell whether ``quoted``, with "…" where values stand, is this text or a part of it."""
        return _plain(quoted) in _plain(self.text)


def error_texts(package: Path = ROOT / "mirnet_edge") -> list[ErrorText]:
    """Every text, once a file."""
    kinds = error_kinds(package)
    found = set()
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        file = path.relative_to(package.parent).as_posix()
        found |= {
            ErrorText(kind, _plain(text), file)
            for kind, text in _raised(tree, kinds)
            if len(re.findall(r"\w{2,}", text)) > 1  # others are put together of values
        }
    return sorted(found)


def error_kinds(package: Path) -> dict[str, str]:
    """The classes of errors.py, and what each is."""
    tree = ast.parse((package / "errors.py").read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {node.name: (ast.get_docstring(node) or "").partition("\n")[0] for node in classes}


def _raised(tree: ast.Module, kinds: dict[str, str]) -> Iterator[tuple[str, str]]:
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    # Not only "raise": some are made by one function and raised by another.
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in kinds or name in COMMAND_LINE:
                for text in _texts(node.args[0], constants):
                    yield name, text


def _texts(node: ast.expr, constants: dict[str, ast.expr]) -> Iterator[str]:
    """What an argument can say, with "…" for each value."""
    if isinstance(node, ast.IfExp):
        yield from _texts(node.body, constants)
        yield from _texts(node.orelse, constants)
    elif isinstance(node, ast.Name) and node.id in constants:
        yield from _texts(constants[node.id], {})
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield _spoken(node.left) + _spoken(node.right)
    elif isinstance(node, ast.Constant | ast.JoinedStr):
        yield _spoken(node)


def _spoken(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_spoken, node.values))
    return OMITTED


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
