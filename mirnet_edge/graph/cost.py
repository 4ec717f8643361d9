"""What an ONNX graph costs: the bytes it moves, and the memory that its activations need."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge._imports import require
from mirnet_edge.errors import GraphError
from mirnet_edge.graph.file import PAIR, dims_of, shapes_of

if TYPE_CHECKING:
    from onnx import ModelProto

VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Constant", "Shape"}
"""Operators that move no bytes."""
POINTWISE = {
    "Add", "Sub", "Mul", "Div", "Sum", "Max", "Exp", "Sigmoid", "Relu", "LeakyRelu", "PRelu",
    "Cast", *PAIR,
}  # fmt: skip
"""Operators that treat each element by itself."""


@dataclass(frozen=True)
class Kernels:
    """What a runtime launches for a graph.

    Attributes:
        launches: how many kernels there are.
        bytes_moved: see `bytes_moved`.
    """

    launches: int
    bytes_moved: int


def bytes_moved(proto: ModelProto) -> int:
    """Bytes that kernels read and write: each tensor once for every kernel that touches it,
    constants included.

    Counted as for a runtime that fuses element-wise operators into what feeds them: a map that a
    convolution or an element-wise operator hands to one element-wise operator alone stays in
    registers, and both are one kernel. All shapes must be known.
    """
    return kernels_of(proto).bytes_moved


def kernels_of(proto: ModelProto, shapes: ModelProto | None = None) -> Kernels:
    """Count the kernels of a graph whose operators are fused as `bytes_moved` says, and the bytes
    that they move.

    Args:
        shapes: a graph that tells the shapes which this one does not: that into which our
            operators were put, as they tell those of their maps alone. Their vectors and the sums
            of their blocks of threads are not counted, which are few bytes.
    """
    graph = proto.graph
    sizes = (_size_bytes(shapes) if shapes else {}) | _size_bytes(proto)
    sizes |= {
        tensor.name: math.prod(tensor.dims) * _itemsize(tensor.data_type)
        for tensor in graph.initializer
    }
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    kernel = list(range(len(graph.node)))
    touched: set[tuple[int, str]] = set()
    # From the end, so that a chain of operators is one kernel, whatever its length.
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
    return Kernels(
        launches=len({index for index, _ in touched}),
        # A node may leave an input out, which then has the name "".
        bytes_moved=sum(sizes.get(name, 0) for _, name in touched),
    )


def peak_activation_bytes(proto: ModelProto, height: int, width: int) -> int:
    """Most bytes of intermediate tensors alive at one time when the nodes run in file order and
    each tensor is freed after its last use, for one ``height`` x ``width`` input.

    Raises:
        GraphError: the graph is for another size, or a shape cannot be inferred.
    """
    sized = shapes_of(proto, dims_of(proto.graph.input[0])[0] or 1, height, width)
    graph, sizes = sized.graph, _size_bytes(sized)
    unknown = [name for name, size in sizes.items() if not size]
    if unknown:
        raise GraphError(
            f"the shape of tensor {unknown[0]!r} cannot be inferred, so neither can the memory of "
            "the graph; please report this network"
        )
    # The tile itself is counted by who holds it.
    for value in graph.input:
        del sizes[value.name]
    last_use = {name: index for index, node in enumerate(graph.node) for name in node.input}
    alive = peak = 0
    for index, node in enumerate(graph.node):
        alive += sum(sizes.get(name, 0) for name in node.output)
        peak = max(peak, alive)
        alive -= sum(sizes.get(name, 0) for name in set(node.input) if last_use[name] == index)
    return peak


def _size_bytes(proto: ModelProto) -> dict[str, int]:
    """Of every tensor that is no constant; 0 where a shape is not known."""
    graph = proto.graph
    return {
        value.name: math.prod(dims_of(value)) * _itemsize(value.type.tensor_type.elem_type)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def _itemsize(element_type: int) -> int:
    helper = require("onnx.helper", "reading graphs")
    return int(helper.tensor_dtype_to_np_dtype(element_type).itemsize)
