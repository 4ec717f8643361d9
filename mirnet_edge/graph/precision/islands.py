"""Which nodes of a graph must compute in FP32 when all others compute in FP16, and why.

FP16 holds 11 significant bits, at most 65504, and loses bits below 6.1e-5 (its least normal value).
Convolutions, gates and resizes live well inside that. Sums over a frame do not: 65,536 positions
of value 1 already overflow, and a softmax over them has weights near 1.5e-5. Such nodes form
*islands*. Their tensors are small once a graph is rewritten for TensorRT; the rule reads the
tensors' sizes, so that a large map is turned into FP32 only where nothing else would be right.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from mirnet_edge.errors import GraphError
from mirnet_edge.graph.file import attribute_of, shapes_by_name

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

FP16_MAX = 65504.0
FEW = 16
"""Values that may be added up in FP16: the mean keeps 11 - log2(16) / 2 bits at worst."""
FEW_IN_A_LARGE_MAP = 4096
"""Values of a large map that may be added up in FP16, because turning the map into FP32 would
write and read it once more: the first stage of a pool. 4096 values of magnitude below 15 fit FP16
whatever a kernel accumulates in."""
SUMS = {
    "ReduceMean", "GlobalAveragePool", "AveragePool", "ReduceSum", "ReduceL1", "ReduceSumSquare",
}  # fmt: skip
UNSCALED = {"ReduceSum", "ReduceL1", "ReduceSumSquare"}
"""Sums that something after them brings back into range."""
VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Identity"}
EXPONENTS = VIEWS | {"Sub", "Add", "Neg", "Mul", "Max", "ReduceMax", "MaxPool"}
"""What computes the argument of an exponential."""
NORMALIZERS = VIEWS | {"Div", "Mul", "Add", "Reciprocal", "Sqrt", "Log"}
"""What scales a sum, and what brings it back into range."""
BESIDE_SUMS = EXPONENTS | NORMALIZERS


def fp32_islands(proto: ModelProto) -> list[str]:
    """Names of the nodes that need FP32, in the order of a graph with all shapes known."""
    return _Finder(proto).islands()


class _Finder:
    def __init__(self, proto: ModelProto) -> None:
        self.graph = proto.graph
        self.constants = {tensor.name for tensor in proto.graph.initializer}
        self.shapes = shapes_by_name(proto)
        self.mask_size = self._mask_size()
        self.producer = {name: node for node in self.graph.node for name in node.output}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.graph.node:
            if not node.name:
                raise GraphError(
                    f"the {node.op_type} that writes {node.output[0]!r} has no name; islands are "
                    "told by name, so name every node"
                )
            for name in node.input:
                self.consumers[name].append(node)
        self.found: set[str] = set()

    def islands(self) -> list[str]:
        # In the graph's order: whether a product is one hangs on the softmax before it.
        for node in self.graph.node:
            if self._needs_fp32(node):
                self.found.add(node.name)
        for node in self.graph.node:
            if node.name in self.found and node.op_type == "Exp":
                self._join_producers(node)
                self._join_sums(node)
            elif node.name in self.found and node.op_type in UNSCALED:
                self._join_normalizers(node)
        for value in self.graph.output[1:]:
            self._join_handed_out(value.name)
        # A node that joins may be what kept its neighbour from joining.
        while between := {node.name for node in self.graph.node if self._is_between(node)}:
            self.found |= between
        return [node.name for node in self.graph.node if node.name in self.found]

    def _mask_size(self) -> int:
        """Of the largest map of one channel: at the size at which the convolutions work, which is a
        part of the image's where they work on blocks of its pixels."""
        image = self._shape(self.graph.input[0].name)
        maps = [node.output[0] for node in self.graph.node if node.op_type == "Conv"]
        shapes = [self._shape(name) for name in maps] or [image]
        return max(batch * math.prod(extent) for batch, _, *extent in shapes)

    def _needs_fp32(self, node: NodeProto) -> bool:
        """Whether the node does by itself, whatever stands beside it."""
        if node.op_type == "Softmax":
            # The weights are 1 / positions on average, and reach below FP16's least normal value.
            return self._shape(node.input[0])[attribute_of(node, "axis", -1)] > FEW
        if node.op_type == "Exp":
            readers = self.consumers[node.output[0]]
            summed = any(item.op_type in SUMS and self._extent(item) > FEW for item in readers)
            return summed and self._is_small(node)
        if node.op_type in SUMS:
            large = self._is_large(node.input[0])
            return self._extent(node) > (FEW_IN_A_LARGE_MAP if large else FEW)
        return node.op_type == "MatMul" and self._product_needs_fp32(node)

    def _product_needs_fp32(self, node: NodeProto) -> bool:
        """Of two computed matrices, which is a sum over positions with weights. A large one stays
        unless a plain softmax made its weights: those of `softmax_sums` are made for FP16."""
        if any(self._is_far_softmax(name) for name in node.input):
            return True
        positions = self._shape(node.input[0])[-1]
        return not self.constants & {*node.input} and self._is_small(node) and positions > FEW

    def _extent(self, node: NodeProto) -> int:
        """How many values of a reduction's input make one of its output."""
        if node.op_type == "AveragePool":
            return math.prod(attribute_of(node, "kernel_shape", [1]))
        return self._size(node.input[0]) // max(self._size(node.output[0]), 1)

    def _is_far_softmax(self, name: str) -> bool:
        """Whether a tensor is a view of the output of a softmax in FP32."""
        node = self.producer.get(name)
        while node is not None and node.op_type in VIEWS:
            node = self.producer.get(node.input[0])
        return node is not None and node.op_type == "Softmax" and node.name in self.found

    def _join_producers(self, node: NodeProto) -> None:
        """The argument of an exponential is computed in FP32 too: an error of it is a relative
        error of the weight."""
        for producer in map(self.producer.get, node.input):
            if producer is not None and self._joins(producer, EXPONENTS):
                self._join_producers(producer)

    def _join_sums(self, node: NodeProto) -> None:
        """The sum of exponentials, taken in one stage or more, and what is divided by it."""
        for consumer in self.consumers[node.output[0]]:
            if consumer.op_type in SUMS and self._is_small(consumer):
                self.found.add(consumer.name)
                self._join_sums(consumer)
                self._join_normalizers(consumer)

    def _join_normalizers(self, node: NodeProto) -> None:
        """A sum stays in FP32 until it divides, is divided, or scales a tensor."""
        for consumer in self.consumers[node.output[0]]:
            computed = [name for name in consumer.input if name not in self.constants]
            scales = consumer.op_type != "Div" and len(computed) == 1
            if self._joins(consumer, NORMALIZERS) and scales:
                self._join_normalizers(consumer)

    def _joins(self, node: NodeProto, kinds: set[str]) -> bool:
        """Take in a small node of these operators; whether it was outside."""
        joins = node.op_type in kinds and node.name not in self.found and self._is_small(node)
        if joins:
            self.found.add(node.name)
        return joins

    def _join_handed_out(self, name: str) -> None:
        """Vectors and masses that leave the graph, which is in FP32, and the weights behind them:
        those of many tiles are added up."""
        producer = self.producer.get(name)
        if producer is not None and producer.op_type in BESIDE_SUMS and self._is_small(producer):
            self.found.add(producer.name)
            for source in producer.input:
                self._join_handed_out(source)

    def _is_between(self, node: NodeProto) -> bool:
        """Whether a small node outside has only islands before and behind it: inside, two casts
        fall away."""
        if node.name in self.found or node.op_type not in BESIDE_SUMS:
            return False
        producers = [self.producer.get(name) for name in node.input if name not in self.constants]
        consumers = [item for name in node.output for item in self.consumers[name]]
        return (
            len(consumers) > 0
            and all(item is not None and item.name in self.found for item in producers + consumers)
            and self._is_small(node)
        )

    def _is_small(self, node: NodeProto) -> bool:
        return not any(self._is_large(name) for name in (*node.input, *node.output) if name)

    def _is_large(self, name: str) -> bool:
        """Whether it has more values than one channel at full size: attention masks are small,
        feature maps are large."""
        return self._size(name) > self.mask_size

    def _size(self, name: str) -> int:
        return math.prod(self._shape(name))

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self.shapes.get(name)
        if shape is None or 0 in shape:
            raise GraphError(
                f"the shape of tensor {name!r} is not known; fix the input's size first "
                "(graph.file.with_shape)"
            )
        return shape
