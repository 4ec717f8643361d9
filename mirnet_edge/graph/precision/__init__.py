"""The precision of an engine, written into its graph as types.

TensorRT 10 and later takes every layer's precision from the types of a strongly typed network:
`typed_graph` makes such graphs. TensorRT 8.6 takes graphs in FP32 with or without Q/DQ pairs, and
is told by flags which layers may be narrower; `islands.fp32_islands` says which may not.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

from mirnet_edge._imports import require
from mirnet_edge.errors import ConfigError, GraphError, first_line
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

    Args:
        proto: float32, with all shapes known (see `graph.file.with_shape`), with Q/DQ pairs
            for "int8" and without for the others. Not changed.
        strongly_typed: whether TensorRT takes the types from the graph. If not, the graph stays
            in float32, inputs and outputs too, and the builder sets flags and types.
        io: type of the graph's input and output, where it is strongly typed.

    Raises:
        ConfigError: there is no such precision.
        GraphError: Q/DQ pairs are missing or in the way, or a weight does not fit FP16.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision!r}: need one of {', '.join(PRECISIONS)}")
    if has_qdq(proto) != (precision == "int8"):
        raise GraphError(
            "the graph has no Q/DQ pairs, so it cannot be built for INT8; quantize it first"
            if precision == "int8"
            else f"the graph has Q/DQ pairs, so it cannot be built for {precision}; give the graph "
            "that was quantized"
        )
    if not strongly_typed:
        return copy.deepcopy(proto)
    if precision == "int8":
        return to_strongly_typed(proto, io=io)
    if precision == "fp16":
        return to_fp16(proto, io=io)
    return retyped(proto, [node.name for node in proto.graph.node], io)


def to_fp16(
    proto: ModelProto, *, islands: Collection[str] | None = None, io: IoType = "float32"
) -> ModelProto:
    """A copy of a float32 graph in which every float tensor and constant is float16, but for those
    of FP32 islands; Casts stand at the islands' borders only, and at the graph's where ``io`` is
    "float32".

    Args:
        proto: with all shapes known (see `graph.file.with_shape`).
        islands: names of the nodes that compute in FP32; None asks `fp32_islands`.

    Raises:
        GraphError: a weight is beyond FP16's range, or a shape is not known.
    """
    return retyped(proto, fp32_islands(proto) if islands is None else islands, io)


def to_strongly_typed(proto: ModelProto, *, io: IoType = "float32") -> ModelProto:
    """A copy of a float32 graph with Q/DQ pairs, for TensorRT 10 and later: the pairs quantize
    float16 tensors with float16 scales, and everything else is as `to_fp16` makes it.

    The graph is raised to opset 19 by onnx's own converter, because scales are float32 before.

    Raises:
        GraphError: as `to_fp16`, or onnx cannot raise the graph.
    """
    onnx = require("onnx", "typing graphs")
    converter = require("onnx.version_converter", "typing graphs")
    islands = fp32_islands(proto)
    raised = proto
    if proto.opset_import[0].version < QDQ_OPSET:
        try:
            raised = converter.convert_version(proto, QDQ_OPSET)
        except Exception as error:
            raise GraphError(
                f"onnx {onnx.__version__} cannot raise the graph from opset "
                f"{proto.opset_import[0].version} to {QDQ_OPSET}: {first_line(error)}"
            ) from error
        raised.ir_version = max(proto.ir_version, IR_OF_OPSET_19)
    return retyped(raised, islands, io)
