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
FP16_LEAST_NORMAL = 2.0**-14
FEW = 16
"""Values that may be added up in FP16: the mean keeps 11 - log2(16) / 2 bits at worst."""
FEW_IN_A_LARGE_MAP = 4096
"""Values of a large map that may be added up in FP16, because turning the map into FP32 would
write and read it once more: the first stage of a pool. 4096 values of magnitude below 15 fit FP16
whatever a kernel accumulates in."""
MEANS = {"ReduceMean", "GlobalAveragePool", "AveragePool"}
SUMS = {"ReduceSum", "ReduceL1", "ReduceSumSquare"}
VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Identity"}
EXPONENTS = VIEWS | {"Sub", "Add", "Neg", "Mul", "Max", "ReduceMax", "MaxPool"}
"""What computes the argument of an exponential."""
NORMALIZERS = VIEWS | {"Div", "Mul", "Add", "Reciprocal", "Sqrt", "Log"}
"""What scales a sum, and what brings it back into range."""
HANDED_OUT = EXPONENTS | NORMALIZERS
"""What leads to an output in FP32 besides the image, as far as its tensors are small."""


def fp32_islands(proto: ModelProto) -> dict[str, str]:
    """Names of the nodes that need FP32, in the graph's order, each with the reason.

    Args:
        proto: with all shapes known (see `graph.file.with_shape`).

    Raises:
        GraphError: the shape of a tensor is not known, or a node has no name.
    """
    return _Finder(proto).islands()


class _Finder:
    def __init__(self, proto: ModelProto) -> None:
        graph = proto.graph
        self.nodes = list(graph.node)
        self.constants = {tensor.name for tensor in graph.initializer}
        self.shapes = shapes_by_name(proto)
        batch, _, height, width = self._shape(graph.input[0].name)
        self.mask_size = batch * height * width
        self.handed_out = [value.name for value in graph.output[1:]]
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            if not node.name:
                raise GraphError(
                    f"the {node.op_type} that writes {node.output[0]!r} has no name; islands are "
                    "told by name, so name every node"
                )
            for name in node.input:
                self.consumers[name].append(node)
        self.found: dict[str, str] = {}

    def islands(self) -> dict[str, str]:
        for node in self.nodes:
            reason = self._reason(node)
            if reason:
                self.found[node.name] = reason
        for node in self.nodes:
            if node.name in self.found and node.op_type == "Exp":
                self._join_producers(node)
                self._join_sums(node)
            elif node.name in self.found and node.op_type in SUMS:
                self._join_normalizers(node)
        for name in self.handed_out:
            self._join_handed_out(name)
        joined = True
        while joined:
            joined = sum(self._join_between(node) for node in self.nodes) > 0
        return {node.name: self.found[node.name] for node in self.nodes if node.name in self.found}

    def _reason(self, node: NodeProto) -> str | None:
        """Why the node itself needs FP32."""
        if node.op_type == "Softmax":
            return self._reason_of_softmax(node)
        if node.op_type == "Exp" and self._is_small(node) and self._is_summed(node):
            return "exponential whose sum is taken over the frame"
        if node.op_type in MEANS | SUMS:
            return self._reason_of_reduction(node)
        if node.op_type == "MatMul":
            return self._reason_of_product(node)
        return None

    def _reason_of_product(self, node: NodeProto) -> str | None:
        """Of two computed matrices, which is a sum over positions with weights. A large one stays:
        its weights are made to be held by FP16."""
        if any(self._is_far_softmax(name) for name in node.input):
            return "sum over positions weighted by softmax weights that FP16 cannot hold"
        positions = self._shape(node.input[0])[-1]
        if self.constants & set(node.input) or not self._is_small(node) or positions <= FEW:
            return None
        return f"weighted sum of {positions} values, of which FP16 keeps 11 bits"

    def _reason_of_softmax(self, node: NodeProto) -> str | None:
        positions = self._shape(node.input[0])[attribute_of(node, "axis", -1)]
        if positions <= FEW:
            return None
        return (
            f"softmax over {positions} values: its weights, {1 / positions:.1e} on average, reach "
            f"below FP16's least normal value {FP16_LEAST_NORMAL:.1e}"
        )

    def _is_summed(self, node: NodeProto) -> bool:
        consumers = self.consumers[node.output[0]]
        return any(item.op_type in MEANS | SUMS and self._extent(item) > FEW for item in consumers)

    def _reason_of_reduction(self, node: NodeProto) -> str | None:
        extent = self._extent(node)
        allowed = FEW_IN_A_LARGE_MAP if self._is_large(node.input[0]) else FEW
        if extent <= allowed:
            return None
        return f"sum of {extent} values: FP16 overflows at {FP16_MAX:.0f} and keeps 11 bits"

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
        for name in node.input:
            producer = self.producer.get(name)
            if producer is None or producer.name in self.found:
                continue
            if producer.op_type in EXPONENTS and self._is_small(producer):
                self.found[producer.name] = "argument of an exponential"
                self._join_producers(producer)

    def _join_sums(self, node: NodeProto) -> None:
        """The sum of exponentials, taken in one stage or more, and what is divided by it."""
        for consumer in self.consumers[node.output[0]]:
            if consumer.op_type in MEANS | SUMS and self._is_small(consumer):
                self.found.setdefault(consumer.name, "sum of exponentials over the frame")
                self._join_sums(consumer)
                self._join_normalizers(consumer)

    def _join_normalizers(self, node: NodeProto) -> None:
        """A sum stays in FP32 until it divides, is divided, or scales a tensor."""
        for consumer in self.consumers[node.output[0]]:
            if consumer.op_type not in NORMALIZERS or not self._is_small(consumer):
                continue
            if consumer.name not in self.found:
                self.found[consumer.name] = "scales a sum that may exceed FP16's range"
                others = [name for name in consumer.input if name not in self.constants]
                if consumer.op_type != "Div" and len(others) == 1:
                    self._join_normalizers(consumer)

    def _join_handed_out(self, name: str) -> None:
        """Vectors and masses that leave the graph, which is in FP32, and the weights behind them:
        those of many tiles are added up."""
        producer = self.producer.get(name)
        if producer is None or producer.op_type not in HANDED_OUT or not self._is_small(producer):
            return
        self.found.setdefault(producer.name, "leads to an output in FP32")
        for source in producer.input:
            self._join_handed_out(source)

    def _join_between(self, node: NodeProto) -> bool:
        """A small node whose producers and consumers are all in islands joins them: two casts
        less. Whether it did."""
        if node.name in self.found or node.op_type not in EXPONENTS | NORMALIZERS:
            return False
        producers = [self.producer.get(name) for name in node.input if name not in self.constants]
        neighbours = [*producers, *(item for name in node.output for item in self.consumers[name])]
        joins = (
            any(self.consumers[name] for name in node.output)
            and all(item is not None and item.name in self.found for item in neighbours)
            and self._is_small(node)
        )
        if joins:
            self.found[node.name] = "between nodes that need FP32"
        return joins

    def _is_small(self, node: NodeProto) -> bool:
        return not any(self._is_large(name) for name in (*node.input, *node.output) if name)

    def _is_large(self, name: str) -> bool:
        """Whether it has more values than one channel of the input: attention masks are small,
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
