"""The precision of an engine, written into its graph as types.

TensorRT 10 and later takes every layer's precision from the types of a strongly typed network:
`typed_graph` makes such graphs. TensorRT 8.6 takes graphs in FP32 with or without Q/DQ pairs, and
is told by flags which layers may be narrower; `islands.fp32_islands` says which may not.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal

from mirnet_edge._imports import require
from mirnet_edge.errors import GraphError, first_line
from mirnet_edge.graph.file import has_qdq
from mirnet_edge.graph.precision.islands import fp32_islands
from mirnet_edge.graph.precision.typing_pass import IoType, retyped

if TYPE_CHECKING:
    from onnx import ModelProto

Precision = Literal["fp32", "fp16", "int8"]
"""Of the arithmetic that an engine is asked for. "int8" means INT8 for the layers that the graph's
Q/DQ pairs choose, and FP16 for the others."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

QDQ_OPSET = 19
"""The first in which the scales of Q/DQ pairs, and so what DequantizeLinear yields, can be FP16."""
IR_OF_OPSET_19 = 9


def typed_graph(
    proto: ModelProto, precision: Precision, *, strongly_typed: bool, io: IoType = "float32"
) -> ModelProto:
    """The graph that a builder gives to TensorRT for a precision.

    In FP16 and INT8 every float tensor and constant is float16, but for those of `fp32_islands`;
    Casts stand at the islands' borders only, and at the graph's where ``io`` is "float32".

    Args:
        proto: float32, with all shapes known (see `graph.file.with_shape`), with Q/DQ pairs
            for "int8" alone.
        strongly_typed: whether TensorRT takes the types from the graph. If not, the graph stays
            in float32, inputs and outputs too, and the builder sets flags and types.
        io: type of the graph's input and output, where it is strongly typed.

    Raises:
        GraphError: Q/DQ pairs are missing or in the way, onnx cannot raise the graph to opset 19,
            a weight does not fit FP16, or a shape is not known.
    """
    if has_qdq(proto) != (precision == "int8"):
        raise GraphError(
            "the graph has no Q/DQ pairs, so it cannot be built for INT8; quantize it first"
            if precision == "int8"
            else f"the graph has Q/DQ pairs, so it cannot be built for {precision}; give the graph "
            "that was quantized"
        )
    if not strongly_typed:
        return copy.deepcopy(proto)
    if precision == "fp32":
        return retyped(proto, {node.name for node in proto.graph.node}, io)
    raised = _with_typed_scales(proto) if precision == "int8" else proto
    return retyped(raised, {*fp32_islands(proto)}, io)


def _with_typed_scales(proto: ModelProto) -> ModelProto:
    """A graph with Q/DQ pairs raised, by onnx's own converter, to the opset whose scales may be
    FP16."""
    onnx = require("onnx", "typing graphs")
    version = proto.opset_import[0].version
    if version >= QDQ_OPSET:
        return proto
    try:
        raised: ModelProto = onnx.version_converter.convert_version(proto, QDQ_OPSET)
    except Exception as error:
        raise GraphError(
            f"onnx {onnx.__version__} cannot raise the graph from opset {version} to {QDQ_OPSET}: "
            f"{first_line(error)}"
        ) from error
    # The converter leaves the version of the format, which onnx's checker then finds too old.
    raised.ir_version = max(proto.ir_version, IR_OF_OPSET_19)
    return raised
