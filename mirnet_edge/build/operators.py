"""The graph that a build gives TensorRT where our plugins are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.graph.operators import groups_for, with_plugins

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class OwnGraph:
    """A graph with our operators, for precision flags.

    Attributes:
        proto: with our operators, where there are any.
        operators: how many of each it has.
        halves: convolutions that the rewrite made, which must compute in FP16.
    """

    proto: ModelProto
    operators: dict[str, int]
    halves: frozenset[str]


def own_graph(proto: ModelProto, library: Path | None, shared_bytes: int) -> OwnGraph:
    """Put our operators into a sized graph, where there is a library of them: those that run on a
    GPU with so much shared memory for a block of threads."""
    if library is None:
        return OwnGraph(proto, {}, frozenset())
    made, operators = with_plugins(proto, groups_for(shared_bytes))
    before = {node.name for node in proto.graph.node}
    new = {node.name for node in made.graph.node if node.op_type == "Conv"} - before
    return OwnGraph(made, operators, frozenset(new))
