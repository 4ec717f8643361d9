"""The layout of the package: every module has a place, places stand in rows, imports run down.

An import inside a function counts as much as one at the top, and so does one for type checkers:
what a reader must know to understand a place is the same either way.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import mirnet_edge

PACKAGE = Path(mirnet_edge.__file__).parent
ROWS = (
    ("__main__", "", "cli"),
    ("workstation",),
    ("build", "quantize"),
    ("live", "serve", "ray", "files"),
    ("restore", "engine_choice", "bench"),
    ("device", "host"),
    ("stream",),
    ("trt", "engines"),
    ("graph",),
    ("pooling",),
    ("model",),
    ("frames", "tiling"),
    ("cuda", "doctor"),
    (
        *(
            "errors",
            "facts",
            "frame_path",
            "metrics",
            "bundled",
            "interrupts",
            "system",
            "limits",
            "deadline",
            "access",
        ),
        *("_arguments", "_caches", "_files", "_imports", "_typed", "_version"),
    ),
)
"""Places from the door to the ground; "" is the package's own ``__init__``."""
MOST_PLACES, MOST_FLOORS, LONGEST_FILE = 40, 12, 400
Modules = dict[str, Path]


@cache
def modules() -> Modules:
    """Every module by its name below the package."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        .removesuffix("__init__")
        .rstrip("."): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = {name for name in below if name.removeprefix("mirnet_edge.") in modules()}
            # "from package import submodule" reads the submodule alone.
            found |= (
                submodules if len(submodules) == len(node.names) else {*submodules, node.module}
            )
    inside = {name for name in found if name.partition(".")[0] == "mirnet_edge"}
    return {name.removeprefix("mirnet_edge").removeprefix(".") for name in inside}


@cache
def file_imports() -> dict[str, set[str]]:
    """What each module imports, but for the public names, which the package loads lazily."""
    return {name: imported(path) - {name} for name, path in modules().items() if name}


def place(module: str) -> str:
    return module.partition(".")[0]


@cache
def place_imports() -> dict[str, set[str]]:
    """What each place imports of others."""
    found: dict[str, set[str]] = {}
    for module, targets in file_imports().items():
        here = found.setdefault(place(module), set())
        here |= {place(target) for target in targets} - {place(module)}
    return found


def circle_of(graph: dict[str, set[str]]) -> list[str]:
    """A circle in a graph of imports; empty where there is none."""
    done: set[str] = set()

    def visit(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for target in sorted(graph.get(node, ())):
            if circle := visit(target, [*way, node]):
                return circle
        done.add(node)
        return []

    return next((circle for node in sorted(graph) if (circle := visit(node, []))), [])


def test_the_search_for_circles_finds_one() -> None:
    assert circle_of({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle_of({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_every_module_has_a_place_and_every_place_a_module() -> None:
    assert {place(name) for name in modules()} == {name for row in ROWS for name in row}


def test_imports_are_seen() -> None:
    assert "engines.protocol" in file_imports()["engines.fake"]
    assert "engines.onnx_engine" in file_imports()["engine_choice"], "inside a function"
    assert "errors" in file_imports()["build.process"], "from the package itself"


def test_no_file_is_in_a_circle() -> None:
    assert circle_of(file_imports()) == []


def test_no_two_places_import_each_other() -> None:
    assert circle_of(place_imports()) == []


def test_no_import_runs_upwards() -> None:
    row_of = {name: number for number, row in enumerate(ROWS) for name in row}
    upwards = [
        f"{module} imports {target}"
        for module, targets in file_imports().items()
        for target in sorted(targets)
        if target and row_of[place(target)] < row_of[place(module)]
    ]
    assert upwards == []


def test_the_house_can_be_held_in_the_head() -> None:
    graph = place_imports()

    @cache
    def floor(name: str) -> int:
        return 1 + max((floor(target) for target in graph.get(name, ()) if target), default=0)

    assert len(graph) <= MOST_PLACES
    assert max(floor(name) for name in graph) <= MOST_FLOORS, {n: floor(n) for n in graph}


@pytest.mark.parametrize("folder", ["mirnet_edge", "tests", "benchmarks", "examples", "docs"])
def test_no_file_is_longer_than_a_reader_holds(folder: str) -> None:
    long = {
        str(path.relative_to(PACKAGE.parent)): lines
        for path in sorted((PACKAGE.parent / folder).rglob("*.py"))
        if (lines := path.read_text("utf-8").count("\n")) > LONGEST_FILE
    }
    assert long == {}
