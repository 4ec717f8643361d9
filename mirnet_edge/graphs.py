"""ONNX graphs as files and values: read, identify, give a size, count the bytes they move."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

from mirnet_edge._imports import require
from mirnet_edge.errors import GraphError, first_line

BYTES_OF_TYPE = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8}
"""Size of one value by ``onnx.TensorProto.DataType``: float32, (u)int8, int32, int64, bool, float16,
float64."""
VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Constant", "Shape"}
"""Operators that move no bytes."""


def load_graph(path: str | os.PathLike[str]) -> Any:
    """The ``onnx.ModelProto`` in a file.

    Raises:
        GraphError: no such file, or one that is no ONNX.
    """
    onnx = require("onnx", "reading graphs")
    path = Path(path)
    if not path.is_file():
        raise GraphError(f"{path}: no such file")
    try:
        proto = onnx.load(str(path))
        onnx.checker.check_model(proto)
    except Exception as error:
        raise GraphError(f"{path}: no valid ONNX ({first_line(error)}); export it again") from error
    return proto


def graph_sha256(proto: Any) -> str:
    """Of what the graph computes: operators, constants, inputs and outputs; not of its metadata,
    documentation, or the inferred shapes that some tools store."""
    onnx = require("onnx", "reading graphs")
    bare = onnx.ModelProto(ir_version=proto.ir_version)
    bare.opset_import.extend(proto.opset_import)
    bare.graph.CopyFrom(proto.graph)
    del bare.graph.value_info[:]
    del bare.graph.metadata_props[:]
    bare.graph.ClearField("doc_string")
    for node in bare.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def with_shape(proto: Any, batch: int, height: int, width: int) -> Any:
    """A copy whose input is (batch, C, height, width), with every tensor's shape inferred.

    Raises:
        GraphError: the graph is for another batch or size, or a shape cannot be inferred.
    """
    onnx = require("onnx", "reading graphs")
    sized = onnx.ModelProto()
    sized.CopyFrom(proto)
    dims = sized.graph.input[0].type.tensor_type.shape.dim
    for axis, (name, wanted) in {
        0: ("batch", batch),
        2: ("height", height),
        3: ("width", width),
    }.items():
        if axis > 0 and dims[axis].dim_value not in (0, wanted):
            raise GraphError(
                f"the graph takes only a {name} of {dims[axis].dim_value}, not {wanted}; export it "
                "with open sizes"
            )
        dims[axis].ClearField("dim_param")
        dims[axis].dim_value = wanted
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    del sized.graph.value_info[:]
    try:
        sized = onnx.shape_inference.infer_shapes(sized, strict_mode=True, data_prop=True)
    except Exception as error:
        raise GraphError(
            f"the graph does not take {batch}x{height}x{width}: {first_line(error)}"
        ) from error
    missing = [value.name for value in sized.graph.output if 0 in dims_of(value)]
    if missing:
        raise GraphError(f"the shape of {missing[0]!r} cannot be inferred; please report this")
    return sized


def dims_of(value: Any) -> tuple[int, ...]:
    """Shape of an ``onnx.ValueInfoProto``; 0 where it is not known."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def bytes_moved(proto: Any) -> int:
    """Bytes that the nodes read and write when each runs by itself: every input, constants
    included, and every output once.

    Args:
        proto: with all shapes known (see `with_shape`).
    """
    graph = proto.graph
    sizes = {
        value.name: math.prod(dims_of(value)) * BYTES_OF_TYPE[value.type.tensor_type.elem_type]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    sizes |= {
        tensor.name: math.prod(tensor.dims) * BYTES_OF_TYPE[tensor.data_type]
        for tensor in graph.initializer
    }
    return sum(
        sizes.get(name, 0)
        for node in graph.node
        if node.op_type not in VIEWS
        for name in (*node.input, *node.output)
    )
