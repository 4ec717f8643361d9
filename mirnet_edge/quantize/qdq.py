"""Q/DQ pairs as TensorRT fuses them: which convolutions may have them, and how they are placed.

Every quantized convolution reads Q-DQ of its activation, with one scale for the tensor, and Q-DQ of
its float weights, with one scale for each output channel; both symmetric. What it writes stays
float, so that the activation function behind it is fused before the next pair:
``Q-DQ-Conv-LeakyRelu-Q-DQ``. Biases stay float. Nodes that are not quantized read float tensors.
Pairs for a CPU are finer (see `for_cpu`).
"""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge._imports import require
from mirnet_edge.errors import CalibrationError, GraphError, first_line
from mirnet_edge.graph.file import PAIR, attribute_of, graph_sha256, set_nodes, shapes_by_name
from mirnet_edge.quantize.ranges import RECORD, Ranges

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

CONVOLUTIONS = ("Conv", "ConvTranspose")
LEAST_CHANNELS = 16
"""A convolution with fewer, in or out and in each group, fills no INT8 tensor core."""


@dataclass(frozen=True)
class _Surroundings:
    """What the rules know of a graph beside a convolution: tensors by what makes or reads them."""

    shapes: dict[str, tuple[int, ...]]
    ends: set[str]
    shared: set[str]
    padded: set[str]
    constants: set[str]

    @classmethod
    def of(cls, proto: ModelProto) -> _Surroundings:
        graph = proto.graph
        outputs = [node.output[0] for node in graph.node if node.op_type in CONVOLUTIONS]
        readers = Counter(name for node in graph.node for name in set(node.input))
        return cls(
            shapes=shapes_by_name(proto),
            ends={*outputs[:1], *outputs[-1:]},  # of the first and the last convolution
            shared={name for name in outputs if readers[name] > 1},
            padded={node.output[0] for node in graph.node if node.op_type == "Pad"},
            constants={tensor.name for tensor in graph.initializer},
        )


LEFT_OUT: dict[str, Callable[[NodeProto, _Surroundings], bool]] = {
    "first or last": lambda node, around: node.output[0] in around.ends,
    # attention masks and the squeezed sides of gates among them
    "few channels": lambda node, around: min(_channels(node, around.shapes)) < LEAST_CHANNELS,
    # attention branches
    "map of 1x1": lambda node, around: math.prod(around.shapes[node.input[0]][2:]) <= 1,
    # between a Pad and a convolution no pair may stand
    "padded input": lambda node, around: node.input[0] in around.padded,
    # TensorRT 8.6.0 refuses the whole graph where a pair stands right behind a convolution whose
    # output others read as well ("incorrectly marked as an int8 node"): edge-s with such pairs
    # behind its first or its strided convolutions, of whatever precision
    "shares a convolution's output": lambda node, around: node.input[0] in around.shared,
    "computed weights": lambda node, around: node.input[1] not in around.constants,
}
"""Which convolutions stay in floating point, by the reason."""


def candidates(proto: ModelProto, rules: Collection[str] = LEFT_OUT.keys()) -> list[str]:
    """Names of the convolutions that may be quantized, in the graph's order: those that none of
    these rules of `LEFT_OUT` is for. All shapes of the graph are known (see
    `graph.file.with_shape`)."""
    around = _Surroundings.of(proto)
    return [
        node.name
        for node in proto.graph.node
        if node.op_type in CONVOLUTIONS and not any(LEFT_OUT[rule](node, around) for rule in rules)
    ]


def inputs_of(proto: ModelProto, names: Collection[str]) -> list[str]:
    """What the named convolutions read, each tensor once, in the graph's order."""
    return list(dict.fromkeys(n.input[0] for n in proto.graph.node if n.name in names))


def macs_of(proto: ModelProto) -> dict[str, int]:
    """Multiplications of each convolution, by node name."""
    shapes = shapes_by_name(proto)
    macs = {}
    for node in proto.graph.node:
        if node.op_type in CONVOLUTIONS:
            source = node.output[0] if node.op_type == "Conv" else node.input[0]
            batch, _, *extent = shapes[source]
            macs[node.name] = batch * math.prod(extent) * math.prod(shapes[node.input[1]])
    return macs


def _channels(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> tuple[int, int]:
    """In and out, of each group."""
    first, second = shapes[node.input[1]][:2]
    return first // attribute_of(node, "group", 1), second


def insert_qdq(
    proto: ModelProto, ranges: Ranges, nodes: Collection[str], asymmetric: bool = False
) -> ModelProto:
    """A copy in which the named convolutions are quantized to INT8; activations, where
    ``asymmetric``, to uint8 with a zero point, between the ends of what was measured.

    Placed by ONNX Runtime's ``QDQQuantizer`` with the ranges given. One pair for each tensor serves
    all its quantized readers. The graph is float32, of opset 17 or later, with all shapes known.

    Raises:
        CalibrationError: the ranges are of another graph, or lack a tensor.
        GraphError: a name is of no convolution, or ONNX Runtime cannot insert the pairs.
    """
    sha256 = graph_sha256(proto)
    if sha256 != ranges.graph_sha256:
        raise CalibrationError(
            f"these calibration ranges are of the graph {ranges.graph_sha256}, but the graph is "
            f"{sha256}: it was changed or exported again since. {RECORD.capitalize()}"
        )
    by_name = {node.name: node for node in proto.graph.node}
    for name in nodes:
        node = by_name.get(name)
        if node is None or node.op_type not in CONVOLUTIONS:
            raise GraphError(f"{name!r} is no convolution of the graph, so it cannot be quantized")
        if node.input[0] not in ranges.tensors:
            raise CalibrationError(
                f"the ranges lack the tensor {node.input[0]!r}, which {name!r} reads; {RECORD}"
            )
    quantized = copy.deepcopy(proto)
    if not nodes:
        return quantized
    try:
        quantized = _quantized(quantized, ranges, nodes, asymmetric)
    except Exception as error:
        raise GraphError(f"ONNX Runtime cannot insert Q/DQ pairs: {first_line(error)}") from error
    # The quantizer leaves marks of its own: its name, and a note that shapes are known.
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(proto.metadata_props)
    quantized.producer_name = proto.producer_name
    quantized.producer_version = proto.producer_version
    return keep_pairs(quantized, nodes)


def _quantized(
    proto: ModelProto, ranges: Ranges, nodes: Collection[str], asymmetric: bool
) -> ModelProto:
    """With pairs before all readers of each tensor; changes ``proto``."""
    quantization = require("onnxruntime.quantization", "quantizing graphs")
    calibrate, types = quantization.calibrate, quantization.QuantType
    # All shapes are known: no inference through a file.
    quantization.quant_utils.add_infer_metadata(proto)
    values = {
        name: calibrate.TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in (
            (name, found.clip if asymmetric else (-found.amax, found.amax))
            for name, found in ranges.tensors.items()
        )
    }
    with _quiet():
        quantizer = quantization.qdq_quantizer.QDQQuantizer(
            proto,
            per_channel=True,
            reduce_range=False,
            weight_qType=types.QInt8,
            activation_qType=types.QUInt8 if asymmetric else types.QInt8,
            tensors_range=calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, values),
            nodes_to_quantize=list(nodes),
            nodes_to_exclude=[],
            op_types_to_quantize=list(CONVOLUTIONS),
            extra_options={
                "ActivationSymmetric": not asymmetric,
                "WeightSymmetric": True,
                "AddQDQPairToWeight": True,  # TensorRT 8.6 reads no stored INT8 weights
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": list(CONVOLUTIONS),
            },
        )
        quantized: ModelProto = quantizer.quantize_model()
        return quantized


def keep_pairs(proto: ModelProto, nodes: Collection[str]) -> ModelProto:
    """A copy of a graph with Q/DQ pairs in which only the named nodes read them; the other readers
    get the float tensors back, and pairs without a reader go."""
    kept = copy.deepcopy(proto)
    graph = kept.graph
    source_of_q = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    source_of_dq = {
        node.output[0]: source_of_q[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in source_of_q
    }
    chosen = set(nodes)
    for node in graph.node:
        # A DequantizeLinear goes on reading its own pair.
        if node.name not in chosen and node.op_type != "DequantizeLinear":
            for index, name in enumerate(node.input):
                node.input[index] = source_of_dq.get(name, name)
    set_nodes(kept, _in_order(graph))
    used = {name for node in graph.node for name in node.input}
    # Copied once more: to remove one by one compares each with all before it, weights and all.
    constants = copy.deepcopy([tensor for tensor in graph.initializer if tensor.name in used])
    del graph.initializer[:]
    graph.initializer.extend(constants)
    return kept


def _in_order(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes as they were, each pair just before its first reader, those without left out."""
    pairs = {node.output[0]: node for node in graph.node if node.op_type in PAIR}
    for node in graph.node:
        if node.op_type in PAIR:
            continue
        for name in node.input:
            if name in pairs:
                # Taken out: a pair that serves several readers stands before the first alone.
                dequantize = pairs.pop(name)
                yield pairs.pop(dequantize.input[0])
                yield dequantize
        yield node


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's remarks on the root logger off the user's screen."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
