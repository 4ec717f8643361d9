"""What an ONNX graph costs: the bytes it moves, and the memory that its activations need."""

from __future__ import annotations

import math
from typing import Any

from mirnet_edge._imports import require
from mirnet_edge.errors import ExportError
from mirnet_edge.graph.file import PAIR, dims_of

BYTES_OF_TYPE = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8}
"""Size of one value by ``onnx.TensorProto.DataType``: float32, (u)int8, int32, int64, bool,
float16, float64."""
VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Constant", "Shape"}
"""Operators that move no bytes."""
POINTWISE = {
    "Add", "Sub", "Mul", "Div", "Sum", "Max", "Exp", "Sigmoid", "Relu", "LeakyRelu", "PRelu",
    "Cast", *PAIR,
}  # fmt: skip
"""Operators that treat each element by itself."""


def bytes_moved(proto: Any) -> int:
    """Bytes that kernels read and write: each tensor once for every kernel that touches it,
    constants included.

    Counted as for a runtime that fuses element-wise operators into what feeds them: a map that a
    convolution or an element-wise operator hands to one element-wise operator alone stays in
    registers, and both are one kernel.

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
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    kernel = list(range(len(graph.node)))
    touched: set[tuple[int, str]] = set()
    for index, node in reversed(list(enumerate(graph.node))):
        into = readers.get(node.output[0], [])
        fused = (
            node.op_type in POINTWISE | {"Conv", "ConvTranspose"}
            and len(into) == 1
            and graph.node[into[0]].op_type in POINTWISE
        )
        if fused:
            kernel[index] = kernel[into[0]]
            touched.discard((kernel[index], node.output[0]))
        if node.op_type not in VIEWS:
            written = () if fused else node.output
            touched |= {(kernel[index], name) for name in (*node.input, *written)}
    return sum(sizes.get(name, 0) for _, name in touched)


def peak_activation_bytes(proto: Any, height: int, width: int) -> int:
    """Most bytes of intermediate tensors alive at one time when the nodes run in file order and
    each tensor is freed after its last use, for one ``height`` x ``width`` input.

    Args:
        proto: ``onnx.ModelProto`` whose first input is (N, C, H, W).

    Raises:
        ExportError: onnx cannot tell the shape of a tensor.
    """
    onnx = require("onnx", "reading graphs")
    sized = onnx.ModelProto()
    sized.CopyFrom(proto)
    dims = sized.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_value, dims[3].dim_value = height, width
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    del sized.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph

    sizes = {value.name: _bytes_of(value) for value in (*graph.value_info, *graph.output)}
    last_use = {name: index for index, node in enumerate(graph.node) for name in node.input}
    alive = peak = 0
    for index, node in enumerate(graph.node):
        alive += sum(sizes.get(name, 0) for name in node.output)
        peak = max(peak, alive)
        alive -= sum(sizes.get(name, 0) for name in set(node.input) if last_use[name] == index)
    return peak


def _bytes_of(value: Any) -> int:
    """All tensors of the networks are float32 or small int64 shape tensors."""
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if 0 in dims:
        raise ExportError(
            f"the shape of tensor {value.name!r} cannot be inferred, so neither can the memory of "
            "the graph; please report this network"
        )
    return 4 * int(math.prod(dims))
