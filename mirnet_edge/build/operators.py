"""Which graph a build gives TensorRT where our plugins are wanted, and what its card says of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.graph.operators import with_plugins
from mirnet_edge.trt.plugins import HOW

if TYPE_CHECKING:
    from onnx import ModelProto

NO_LIBRARY = f"built without plugins, which costs time: there is no library of them; {HOW}"


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


def weak_graph(proto: ModelProto, library: Path | None) -> WeakGraph:
    """Put our operators into a sized graph, where there is a library of them."""
    if library is None:
        return WeakGraph(proto, {}, frozenset())
    made, operators = with_plugins(proto)
    before = {node.name for node in proto.graph.node}
    new = {node.name for node in made.graph.node if node.op_type == "Conv"} - before
    return WeakGraph(made, operators, frozenset(new))
