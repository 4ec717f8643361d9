"""From an exported graph to the ones that TensorRT is given: sized, rewritten, typed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge.engines.card import Kind
from mirnet_edge.errors import GraphError, TilingError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.graph.file import (
    PAIR,
    attribute_of,
    dims_of,
    graph_sha256,
    has_qdq,
    load_graph,
    read_facts,
    with_shape,
)
from mirnet_edge.graph.pooling import apply_graph, gather_graph
from mirnet_edge.graph.precision import Precision, typed_graph
from mirnet_edge.graph.precision.islands import fp32_islands
from mirnet_edge.graph.precision.typing_pass import IoType
from mirnet_edge.graph.rewrite import rewritten_for_tensorrt
from mirnet_edge.quantize.qdq import CONVOLUTIONS, insert_qdq, keep_pairs
from mirnet_edge.quantize.ranges import Ranges

if TYPE_CHECKING:
    from onnx import ModelProto

HEAVY = {"Conv", "ConvTranspose", "MatMul", "Resize", "AveragePool"}
"""Operators on whole maps that read neighbours or mix channels. Element-wise ones follow them."""
ACTIVATIONS = {"LeakyRelu", "PRelu", "Relu", "Sigmoid"}
NAMED = 3
MAKERS: dict[Kind, Callable[[ModelProto], ModelProto]] = {
    "apply": apply_graph,
    "gather": gather_graph,
}
"""Of the graphs beside the plain one."""


@dataclass(frozen=True)
class SourceGraph:
    """An ONNX file at the size of an engine.

    Attributes:
        proto: as the file holds it, of which sha256 and facts are.
        reference: for one tile, as it came: what the engine is compared with.
        sized: for the batch, as it came.
        quantized: whether the file has Q/DQ pairs already.
        rewrites: whether graphs are rewritten for TensorRT.
    """

    path: Path
    tile: tuple[int, int]
    batch: int
    proto: ModelProto
    sha256: str
    facts: ModelFacts
    reference: ModelProto
    sized: ModelProto
    quantized: bool
    rewrites: bool

    @cached_property
    def rewritten(self) -> ModelProto:
        """The plain graph for the batch, as TensorRT is given it."""
        return self.fitted(self.proto, self.batch)

    def fitted(self, proto: ModelProto, batch: int) -> ModelProto:
        """Size a graph of this network, and rewrite it for TensorRT where that is wanted."""
        if self.rewrites:
            return rewritten_for_tensorrt(proto, batch, self.tile)
        return with_shape(proto, batch, *self.tile)


@dataclass(frozen=True)
class TypedGraph:
    """A graph that has types for one precision, and what a TensorRT is told that reads none.

    Attributes:
        islands, halves: nodes that compute in FP32, and that must in FP16.
        quantized: convolutions that read Q/DQ pairs.
    """

    strong: ModelProto
    islands: frozenset[str]
    halves: frozenset[str]
    quantized: frozenset[str]


def open_source(path: Path, tile: tuple[int, int], batch: int, rewrites: bool) -> SourceGraph:
    """Read a file, and give it the engine's size.

    Raises:
        GraphError: no valid ONNX, or a graph of another size.
        TilingError: the network does not take such a tile.
    """
    proto = load_graph(path)
    facts, quantized = read_facts(proto), has_qdq(proto)
    _check_tile(facts, tile)
    return SourceGraph(
        path=path,
        tile=tile,
        batch=batch,
        proto=proto,
        sha256=graph_sha256(proto),
        facts=facts,
        reference=with_shape(proto, 1, *tile),
        sized=with_shape(proto, batch, *tile),
        quantized=quantized,
        # What has pairs was rewritten before they were put in, by `quantize_onnx`.
        rewrites=rewrites and not quantized,
    )


def _check_tile(facts: ModelFacts, tile: tuple[int, int]) -> None:
    rule, takes = facts.size_rule, "tile {}x{}: this network takes".format(*tile)
    if any(side % rule.multiple for side in tile):
        near = "x".join(str(rule.up(side)) for side in tile)
        raise TilingError(f"{takes} multiples of {rule.multiple} pixels; the next is {near}")
    if min(tile) < rule.least:
        raise TilingError(f"{takes} {rule.least} pixels or more")


def typed_for_tensorrt(proto: ModelProto, precision: Precision, io: IoType) -> TypedGraph:
    """Type a sized graph, which has Q/DQ pairs for "int8" and only then.

    Raises:
        GraphError: it does not fit the precision.
    """
    islands = frozenset(fp32_islands(proto) if precision != "fp32" else ())
    quantized = quantized_convolutions(proto)
    heavy = {
        node.name
        for node in proto.graph.node
        # TensorRT 8.6 has no FP16 kernel for some convolutions of several groups with the
        # activation fused in, and then builds nothing (MIRNet-v2's, exported and not rewritten).
        if node.op_type in HEAVY and attribute_of(node, "group", 1) == 1
    }
    return TypedGraph(
        strong=typed_graph(proto, precision, strongly_typed=True, io=io),
        islands=islands,
        halves=frozenset(heavy - islands - quantized if precision != "fp32" else ()),
        quantized=quantized,
    )


def quantized_convolutions(proto: ModelProto) -> frozenset[str]:
    """Names of the convolutions whose input is a Q/DQ pair."""
    nodes = proto.graph.node
    dequantized = {node.output[0] for node in nodes if node.op_type == PAIR[1]}
    return frozenset(
        node.name for node in nodes if node.op_type in CONVOLUTIONS and node.input[0] in dequantized
    )


def fewer_pairs(proto: ModelProto) -> Iterator[tuple[ModelProto, str]]:
    """Yield a quantized graph, and the same with fewer and fewer of its convolutions in INT8: what
    to try in turn where TensorRT refuses Q/DQ pairs without naming them. With each, a note on what
    was left out, "" for the graph itself, which is all that is tried of one without pairs."""
    yield proto, ""
    writers = {name: node for node in proto.graph.node for name in node.output}
    readers: dict[str, list[str]] = defaultdict(list)
    for node in proto.graph.node:
        for name in set(node.input):
            readers[name].append(node.op_type)
    names = quantized_convolutions(proto)
    chosen = [node for node in proto.graph.node if node.name in names]
    # What is known of TensorRT 8.6.0, from edge-s: it refuses the convolutions that only add to
    # something else (``conv_out`` of an MRB, and the last of an RRG) among the others. It does not
    # refuse the others, nor those behind activation functions alone.
    unadded = [node.name for node in chosen if readers[node.output[0]] != ["Add"]]
    activated = []
    for node in chosen:
        quantize = writers[writers[node.input[0]].input[0]]
        source = writers.get(quantize.input[0])  # none writes the graph's own input
        if source is not None and source.op_type in ACTIVATIONS:
            activated.append(node.name)
    tried = len(chosen)
    for kept, which in (
        (unadded, "that only add to something else"),
        (activated, "not behind an activation"),
    ):
        if 0 < len(kept) < tried:
            tried = len(kept)
            yield (
                keep_pairs(proto, kept),
                f"TensorRT refused the Q/DQ pairs of all {len(chosen)} convolutions without naming "
                f"any; the {len(chosen) - tried} {which} are FP16",
            )


def pairs_put(
    proto: ModelProto, plain: ModelProto, ranges: Ranges, nodes: Sequence[str]
) -> tuple[ModelProto, tuple[str, ...]]:
    """Copy a sized graph with pairs before those of the convolutions that read the same tensor as
    in the plain graph; and notes on those that do not.

    Raises:
        GraphError: the pairs cannot be inserted.
    """
    here, there = ({n.name: n.input[0] for n in graph.graph.node} for graph in (proto, plain))
    same = [name for name in nodes if here.get(name) == there[name]]
    others = [name for name in nodes if name not in same]
    notes: tuple[str, ...] = ()
    if others:
        notes = (
            f"{len(others)} of the {len(nodes)} convolutions that are INT8 in the plain engine "
            f"read other tensors here, and are FP16: {', '.join(others[:NAMED])}",
        )
    # Rewrites count on the batch and the kind of graph, but name all they make alike: what was
    # measured on one tile of the plain graph holds for a tensor of the same name.
    fitted = replace(
        ranges,
        graph_sha256=graph_sha256(proto),
        tensors={there[name]: ranges.tensors[there[name]] for name in same},
    )
    batch, _, height, width = dims_of(proto.graph.input[0])
    return with_shape(insert_qdq(proto, fitted, same), batch, height, width), notes


def without_qdq(proto: ModelProto) -> ModelProto:
    """Copy a quantized graph without its Q/DQ pairs; where the weights are stored as integers, and
    those before are lost, a `GraphError` is raised."""
    written = {name for node in proto.graph.node for name in node.output}
    for node in proto.graph.node:
        if node.op_type == PAIR[1] and node.input[0] not in written:
            raise GraphError(
                f"the weights {node.input[0]!r} are stored as integers, so there is no float graph "
                "to compare INT8 with; quantize the float graph again with this mirnet-edge"
            )
    return keep_pairs(proto, ())
