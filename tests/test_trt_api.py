"""Every name of TensorRT that the package uses, held against the public names of five releases.

A name must be in all of them, or stand behind ``hasattr`` in the same function; that of a class
stands for its members in the releases without it. A line marked ``# api: before NAME`` is for the
releases that lack NAME. The class of an object is known by the name of its variable: see `CLASSES`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import mirnet_edge

PACKAGE = Path(mirnet_edge.__file__).parent
NAMES: dict[str, dict[str, list[str]]] = json.loads(
    (Path(__file__).parent / "tensorrt_names.json").read_text("utf-8")
)
"""Members by class by release, read from the real bindings."""
FILES = ("network", "timing_cache", "plan", "batches", "engine", "log", "plugins")
"""Of the package ``trt``: where TensorRT's objects are used. Others use ``__version__`` alone."""
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "refusal": "ParserError",
    "layer": "ILayer",
    "tensor": "ITensor",
    "cache": "ITimingCache",
    "other": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "context": "IExecutionContext",
    "registry": "IPluginRegistry",
}
"""Of variables and attributes; underscores before a name do not count."""
VALUES = {"plan", "serialized", "name", "dtype", "layers", "queued", "is_input", "linear", "flag"}
"""Variables that hold what TensorRT returned but whose members are not used, or are an enum's."""
OURS = {("cache", "notes"), ("cache", "save"), ("layer", "name"), ("plan", "notes")}
"""Members of our own classes whose variables are named alike."""
EVERYWHERE = {"__init__", "__version__", "name"}
GATE = re.compile(r"# api: before (\w+)")


@dataclass(frozen=True)
class Use:
    """A member of a class of TensorRT ("" for the module itself) on a line."""

    line: int
    owner: str
    member: str
    gates: frozenset[str]
    before: str | None

    def missing(self) -> list[str]:
        """Releases that this line would fail on."""
        if self.member in EVERYWHERE or self.member in self.gates:
            return []
        return [
            release
            for release, classes in NAMES.items()
            if not (self.owner in self.gates and self.owner not in classes)
            and self.member not in _members(classes, self.owner)
            and not (self.before in self.gates and self.before in _members(classes, self.owner))
        ]


def _members(classes: dict[str, list[str]], owner: str) -> set[str]:
    return set(classes) if owner == "" else set(classes.get(owner, ()))


def uses(source: str) -> Iterator[Use]:
    """Every use of TensorRT in the text of a module."""
    lines = source.splitlines()
    tree = ast.parse(source)
    for function, gates in _functions(tree, frozenset()):
        aliases = dict(_aliases(function))
        for node in _own_nodes(function):
            if not isinstance(node, ast.Attribute) or (_last(node.value), node.attr) in OURS:
                continue
            owner = _class_of(node.value, aliases)
            if owner is not None:
                marked = GATE.search(lines[node.lineno - 1])
                before = marked[1] if marked else None
                yield Use(node.lineno, owner, node.attr, gates, before)


def _functions(
    function: ast.AST, gates: frozenset[str]
) -> Iterator[tuple[ast.AST, frozenset[str]]]:
    """The module and all functions in it, with what they and the functions around them ask
    ``hasattr`` for; what the module itself asks for holds for no function."""
    own = frozenset(_gates(function))
    yield function, gates | own
    inherited = frozenset() if isinstance(function, ast.Module) else gates | own
    for node in _own_nodes(function):
        if isinstance(node, ast.FunctionDef):
            yield from _functions(node, inherited)


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Below a function, but not in functions below it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, ast.FunctionDef):
            yield from _own_nodes(child)


def _gates(function: ast.AST) -> Iterator[str]:
    """Names that the function asks ``hasattr`` for."""
    for node in _own_nodes(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr":
            name = node.args[1]
            if isinstance(name, ast.Constant):
                yield str(name.value)


def _aliases(function: ast.AST) -> Iterator[tuple[str, str]]:
    """Variables that hold a class of TensorRT: ``flag = trt.BuilderFlag``."""
    for node in _own_nodes(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute):
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Name) and _last(value.value) == "trt":
                yield target.id, value.attr


def _class_of(value: ast.expr, aliases: dict[str, str]) -> str | None:
    last = _last(value)
    if last == "trt":
        return ""
    if isinstance(value, ast.Attribute) and _last(value.value) == "trt":
        return value.attr
    if isinstance(value, ast.Name) and value.id in aliases:
        return aliases[value.id]
    return CLASSES.get(last)


def _last(value: ast.expr) -> str:
    """The last name of ``self._plan.trt``."""
    if isinstance(value, ast.Attribute):
        return value.attr.lstrip("_")
    return value.id.lstrip("_") if isinstance(value, ast.Name) else ""


def offences(source: str) -> list[str]:
    return [
        f"line {use.line}: {use.owner or 'tensorrt'}.{use.member} is not in {', '.join(missing)}"
        for use in uses(source)
        if (missing := use.missing())
    ]


def unknown_objects(source: str) -> list[str]:
    """Variables that hold what a call of TensorRT returned, and whose class nobody told."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        called = node.value.func
        if isinstance(called, ast.Attribute) and _class_of(called.value, {}) is not None:
            last = _last(node.targets[0])
            if last not in CLASSES and last not in VALUES:
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def _source(module: str) -> str:
    return (PACKAGE / "trt" / f"{module}.py").read_text("utf-8")


@pytest.mark.parametrize("module", FILES)
def test_every_name_is_in_every_release_or_gated(module: str) -> None:
    source = _source(module)
    assert list(uses(source)), "nothing of TensorRT was found: the walk is blind"
    assert offences(source) == []
    assert unknown_objects(source) == []


def test_the_walk_sees_what_is_used() -> None:
    seen = {(use.owner, use.member) for module in FILES for use in uses(_source(module))}
    assert seen >= {
        ("", "Builder"),
        ("", "OnnxParser"),
        ("BuilderFlag", "FP16"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("IBuilderConfig", "set_timing_cache"),
        ("IBuilderConfig", "progress_monitor"),
        ("ITimingCache", "combine"),
        ("ILayer", "precision"),
        ("ICudaEngine", "device_memory_size_v2"),
        ("ICudaEngine", "create_execution_context_without_device_memory"),
        ("ExecutionContextAllocationStrategy", "USER_MANAGED"),
        ("IExecutionContext", "set_device_memory"),
        ("IExecutionContext", "device_memory"),
        ("IExecutionContext", "execute_async_v3"),
        ("Runtime", "deserialize_cuda_engine"),
    }


def test_no_other_module_uses_tensorrt() -> None:
    imported = re.compile(r"(?<!: )(?<!\.)(?<!')\btrt\.[A-Za-z]")  # nor in the name of our package
    elsewhere = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "trt" and imported.search(_code(path.read_text("utf-8")))
    ]
    assert elsewhere == []


def _code(source: str) -> str:
    """Without docstrings and comments."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    return ast.unparse(tree)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("config.max_workspace_size = 1", "IBuilderConfig.max_workspace_size"),
        ("def f(trt, config):\n  config.set_flag(trt.BuilderFlag.FP16)", "not in 11.4.0"),
        ("def f(trt):\n  flag = trt.BuilderFlag\n  flag.INT8", "BuilderFlag.INT8 is not in 11.4.0"),
        ("self._engine.num_bindings", "ICudaEngine.num_bindings"),
        ("trt.IProgressMonitor()", "tensorrt.IProgressMonitor is not in 8.6.1"),
        ("engine.device_memory_size", "not in 11.4.0"),
        ("engine.device_memory_size  # api: before device_memory_size_v2", "not in 11.4.0"),
        ("layer.precision = 1", "ILayer.precision is not in 11.4.0"),
        ("hasattr(trt, 'BuilderFlag')\ntrt.BuilderFlag.FP16", "BuilderFlag.FP16 is not in 11.4.0"),
        ("context.set_device_memory(1, 2)", "IExecutionContext.set_device_memory is not in 8.6.1"),
        ("config.made_up()", "IBuilderConfig.made_up"),
    ],
)
def test_an_offence_is_found(code: str, said: str) -> None:
    (found,) = offences(code)
    assert said in found


@pytest.mark.parametrize(
    "code",
    [
        "def f(trt):\n  flag = trt.BuilderFlag\n  if hasattr(flag, 'INT8'):\n    flag.INT8",
        "if hasattr(layer, 'precision'):\n  layer.precision = 1",
        "if hasattr(engine, 'device_memory_size_v2'):\n  engine.device_memory_size_v2\n"
        "engine.device_memory_size  # api: before device_memory_size_v2",
        "hasattr(trt, 'ExecutionContextAllocationStrategy')\n"
        "trt.ExecutionContextAllocationStrategy.STATIC",
        "config.builder_optimization_level = 3",
    ],
)
def test_gated_names_are_no_offence(code: str) -> None:
    assert offences(code) == []


def test_a_gate_holds_for_its_own_function_alone() -> None:
    gated = "def f(layer):\n  hasattr(layer, 'precision')\ndef g(layer):\n  layer.precision"
    assert len(offences(gated)) == 1


def test_an_object_of_unknown_class_is_found() -> None:
    assert unknown_objects("thing = builder.create_network(0)")
    assert not unknown_objects("network = builder.create_network(0)")
