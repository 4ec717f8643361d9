"""The graph that a build gives TensorRT where our plugins are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.graph.operators import groups_for, with_plugins

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class OwnGraph:
    """A graph with our operators, for precision flags.

    Attributes:
        operators: how many of each it has.
        halves: convolutions that the rewrite made, which must compute in FP16.
    """

    proto: ModelProto
    operators: dict[str, int]
    halves: frozenset[str]


def own_graph(proto: ModelProto, shared_bytes: int) -> OwnGraph | None:
    """Put into a sized graph what runs on a GPU with so much shared memory for a block of threads;
    None where the graph has nothing that our operators replace."""
    made, operators = with_plugins(proto, groups_for(shared_bytes))
    if not operators:
        return None
    before = {node.name for node in proto.graph.node}
    new = {node.name for node in made.graph.node if node.op_type == "Conv"} - before
    return OwnGraph(made, operators, frozenset(new))
