"""From an exported graph to the ones that TensorRT is given: sized, rewritten, typed."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirnet_edge.build.process import STRONG, WEAK
from mirnet_edge.errors import GraphError, TilingError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.graph.file import (
    attribute_of,
    graph_sha256,
    has_qdq,
    load_graph,
    read_facts,
    with_shape,
)
from mirnet_edge.graph.precision import Precision, typed_graph
from mirnet_edge.graph.precision.islands import fp32_islands
from mirnet_edge.graph.precision.typing_pass import IoType
from mirnet_edge.graph.rewrite import rewritten_for_tensorrt
from mirnet_edge.quantize.qdq import CONVOLUTIONS, keep_pairs

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

HEAVY = {"Conv", "ConvTranspose", "MatMul", "Resize", "AveragePool"}
"""Operators on whole maps that read neighbours or mix channels. Element-wise ones follow them."""
ACTIVATIONS = {"LeakyRelu", "PRelu", "Relu", "Sigmoid"}


@dataclass(frozen=True)
class SourceGraph:
    """An ONNX file at the size of an engine.

    Attributes:
        path: of the file.
        tile: (height, width).
        sha256: of the graph as it came.
        facts: of the network.
        reference: for one tile, as it came: what the engine is compared with.
        sized: for the batch, as it came.
        rewritten: for the batch, after rewrites for TensorRT; as it came where it is quantized.
        quantized: whether the file has Q/DQ pairs already.
        rewrites: whether graphs are rewritten for TensorRT at all.
    """

    path: Path
    tile: tuple[int, int]
    sha256: str
    facts: ModelFacts
    reference: ModelProto
    sized: ModelProto
    rewritten: ModelProto
    quantized: bool
    rewrites: bool


@dataclass(frozen=True)
class TypedGraphs:
    """One graph in one precision, for a TensorRT that reads types and for one that is told.

    Attributes:
        strong, weak: for either.
        islands: nodes that compute in FP32.
        halves: nodes that must compute in FP16.
        quantized: convolutions that read Q/DQ pairs.
    """

    strong: ModelProto
    weak: ModelProto
    islands: frozenset[str]
    halves: frozenset[str]
    quantized: frozenset[str]

    @property
    def images(self) -> list[str]:
        """Names of the input and the output that are images."""
        return [self.weak.graph.input[0].name, self.weak.graph.output[0].name]

    def save(self, folder: Path) -> None:
        """As the build process expects them."""
        for proto, name in ((self.strong, STRONG), (self.weak, WEAK)):
            (folder / name).write_bytes(proto.SerializeToString())


def open_source(
    path: Path, tile: tuple[int, int], batch: int, rewrites: bool = True
) -> SourceGraph:
    """Read a file, and give it the engine's size.

    Raises:
        GraphError: no valid ONNX, or a graph of another size.
        TilingError: the network does not take such a tile.
    """
    proto = load_graph(path)
    facts = read_facts(proto)
    _check_tile(facts, tile)
    sized, quantized = with_shape(proto, batch, *tile), has_qdq(proto)
    rewritten = sized
    if rewrites and not quantized:
        rewritten = rewritten_for_tensorrt(proto, batch, tile)
    return SourceGraph(
        path=path,
        tile=tile,
        sha256=graph_sha256(proto),
        facts=facts,
        reference=with_shape(proto, 1, *tile),
        sized=sized,
        rewritten=rewritten,
        quantized=quantized,
        rewrites=rewrites,
    )


def _check_tile(facts: ModelFacts, tile: tuple[int, int]) -> None:
    height, width = tile
    rule = facts.size_rule
    if height % rule.multiple or width % rule.multiple:
        near = "x".join(str(rule.up(max(side, 1))) for side in tile)
        raise TilingError(
            f"tile {height}x{width}: this network takes multiples of {rule.multiple} pixels; the "
            f"next is {near}"
        )
    if min(tile) < rule.least:
        raise TilingError(f"tile {height}x{width}: this network takes {rule.least} pixels or more")


def typed_graphs(proto: ModelProto, precision: Precision, io: IoType) -> TypedGraphs:
    """A sized graph, with Q/DQ pairs for "int8", in both typings.

    Raises:
        GraphError: it does not fit the precision.
    """
    islands = frozenset(fp32_islands(proto) if precision != "fp32" else ())
    quantized = quantized_convolutions(proto)
    heavy = {
        node.name for node in proto.graph.node if node.op_type in HEAVY and not is_grouped(node)
    }
    return TypedGraphs(
        strong=typed_graph(proto, precision, strongly_typed=True, io=io),
        weak=typed_graph(proto, precision, strongly_typed=False, io=io),
        islands=islands,
        halves=frozenset(heavy - islands - quantized if precision != "fp32" else ()),
        quantized=quantized,
    )


def is_grouped(node: NodeProto) -> bool:
    """Whether it is a convolution of several groups.

    None of these is held to FP16: TensorRT 8.6 has no FP16 kernel for some of them with the
    activation fused in, and then builds nothing (MIRNet-v2's, as exported and not rewritten).
    """
    return attribute_of(node, "group", 1) > 1


def quantized_convolutions(proto: ModelProto) -> frozenset[str]:
    """Names of the convolutions whose input is a Q/DQ pair."""
    dequantized = {
        name
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear"
        for name in node.output
    }
    return frozenset(
        node.name
        for node in proto.graph.node
        if node.op_type in CONVOLUTIONS and node.input[0] in dequantized
    )


def fewer_pairs(proto: ModelProto) -> Iterator[tuple[ModelProto, str]]:
    """A quantized graph, and the same with fewer and fewer of its convolutions in INT8: what to try
    in turn where TensorRT refuses Q/DQ pairs without naming them. With each, a note on what was
    left out, "" for the graph itself, which is all that is tried of one without pairs.

    What is known of TensorRT 8.6.0, from edge-s: it refuses the convolutions that only add to
    something else (``conv_out`` of an MRB, and the last of an RRG) among the others. It does not
    refuse the others, nor those behind activation functions alone.
    """
    yield proto, ""
    writers = {name: node for node in proto.graph.node for name in node.output}
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in proto.graph.node:
        for name in set(node.input):
            readers[name].append(node)
    chosen = sorted(quantized_convolutions(proto))
    outputs = {node.name: node.output[0] for node in proto.graph.node}
    sources = {
        node.name: writers[writers[node.input[0]].input[0]].input[0]
        for node in proto.graph.node
        if node.name in chosen
    }

    def only_added(name: str) -> bool:
        return [node.op_type for node in readers[outputs[name]]] == ["Add"]

    def behind_an_activation(name: str) -> bool:
        node = writers.get(sources[name])
        return node is not None and node.op_type in ACTIVATIONS

    tried = len(chosen)
    for kept, which in (
        ([name for name in chosen if not only_added(name)], "that only add to something else"),
        ([name for name in chosen if behind_an_activation(name)], "not behind an activation"),
    ):
        if 0 < len(kept) < tried:
            tried = len(kept)
            yield (
                keep_pairs(proto, kept),
                f"TensorRT refused the Q/DQ pairs of all {len(chosen)} convolutions without naming "
                f"any; the {len(chosen) - tried} {which} are FP16",
            )


def without_qdq(proto: ModelProto) -> ModelProto:
    """A copy of a quantized graph with its Q/DQ pairs taken out: what was quantized.

    Raises:
        GraphError: the weights are stored as integers, so that those before are lost.
    """
    written = {name for node in proto.graph.node for name in node.output}
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] not in written:
            raise GraphError(
                f"the weights {node.input[0]!r} are stored as integers, so there is no float graph "
                "to compare INT8 with; quantize the float graph again with this mirnet-edge"
            )
    return keep_pairs(proto, ())


def build_key(graph: ModelProto, settings: Mapping[str, Any], identity: tuple[str, ...]) -> str:
    """Hash of all that decides what an engine is."""
    decided = {"graph": graph_sha256(graph), "settings": dict(settings), "target": list(identity)}
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
