"""Which graph a build gives TensorRT where our plugins are wanted, and what its card says of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.build.settings import Settings
from mirnet_edge.build.target import Target
from mirnet_edge.graph.operators import DEFAULT_GROUPS, with_plugins
from mirnet_edge.trt.plugins import HOW, find_library

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class WeakGraph:
    """A graph for precision flags.

    Attributes:
        proto: with our operators or without.
        operators: how many of each it has.
        halves: convolutions that the rewrite made, which must compute in FP16.
    """

    proto: ModelProto
    operators: dict[str, int]
    halves: frozenset[str]


def usable_library(settings: Settings, target: Target) -> Path | None:
    """Find the library where an engine may use it: in FP16, of a rewritten graph.

    Raises:
        EngineError: the variable that names it names no file.
    """
    if not settings.plugins or settings.precision != "fp16" or not settings.rewrite:
        return None
    return find_library(target.versions["tensorrt"])


def weak_graph(proto: ModelProto, library: Path | None) -> WeakGraph:
    """Put our operators into a sized graph, where there is a library of them."""
    if library is None:
        return WeakGraph(proto, {}, frozenset())
    made, operators = with_plugins(proto, DEFAULT_GROUPS)
    before = {node.name for node in proto.graph.node}
    new = {node.name for node in made.graph.node if node.op_type == "Conv"} - before
    return WeakGraph(made, operators, frozenset(new))


def note_on(settings: Settings, library: Path | None, graph: WeakGraph, used: bool) -> list[str]:
    """Say what a card must where plugins were wanted and are not used."""
    if not settings.plugins or used:
        return []
    if graph.operators:
        return ["built without plugins: this TensorRT takes precision from types, they from flags"]
    if settings.precision != "fp16":
        return [f"built without plugins: they are for FP16, not {settings.precision}"]
    if library is None:
        return [f"built without plugins, which costs time: there is no library of them; {HOW}"]
    return ["built without plugins: the graph has nothing that they replace"]
