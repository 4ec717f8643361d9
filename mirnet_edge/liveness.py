"""How much memory the activations of an ONNX graph need at once."""

from __future__ import annotations

import math
from typing import Any

from mirnet_edge._imports import require
from mirnet_edge.errors import ExportError


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
