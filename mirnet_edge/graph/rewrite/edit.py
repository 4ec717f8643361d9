"""A graph under change: what the passes read of it and how they change it (onnx_ir)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge.graph.file import dims_of, is_fixed, shapes_of

ASSUMED_SIZE = (256, 256)
"""Height and width at which bytes are counted in a graph of open size."""
SPATIAL_AXES = [2, 3]

Value = Any
Node = Any


class GraphEditor:
    """One ONNX graph, opset 17, held as an ``onnx_ir.Model``.

    Args:
        proto: ``onnx.ModelProto`` of one (N, C, H, W) input.

    Attributes:
        fixed: whether the input's size is fixed, so that passes may count on it.
    """

    def __init__(self, proto: Any) -> None:
        ir = require("onnx_ir", "rewriting graphs")
        known = sized(proto)
        graph = known.graph
        self._dims = {
            value.name: dims_of(value) for value in (*graph.input, *graph.value_info, *graph.output)
        }
        self._dims |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self.fixed = is_fixed(proto)
        self._ir = ir
        self._model = ir.from_proto(proto)
        self._graph = self._model.graph
        self._names = {value for node in self._graph for value in _output_names(node)}
        self._names |= set(self._graph.initializers)

    def nodes(self, *kinds: str) -> Iterator[Node]:
        """The nodes of these operators (none: of all) that are there now, in order; those that fall
        away before their turn are left out."""
        for node in list(self._graph):
            if (not kinds or node.op_type in kinds) and node.graph is not None:
                yield node

    def dims(self, value: Value) -> tuple[int, ...]:
        """Shape of a value that was there when editing began; in a graph of open size, at
        `ASSUMED_SIZE`."""
        return self._dims[value.name]

    def size(self, value: Value) -> int:
        """How many elements it has."""
        return int(np.prod(self.dims(value)))

    def array(self, value: Value | None) -> NDArray[Any] | None:
        """The constant behind ``value``, None where it is computed."""
        if value is None or value.const_value is None:
            return None
        return np.asarray(value.const_value.numpy())

    def only_use(self, value: Value) -> Node | None:
        """The one node that reads ``value``, None where there are more, or where it is an output of
        the graph."""
        consumers = value.consumers()
        if len(consumers) != 1 or value.is_graph_output():
            return None
        return consumers[0]

    def constant(self, name: str, array: NDArray[Any]) -> Value:
        """A new initializer."""
        tensor = self._ir.tensor(np.ascontiguousarray(array), name=self._unique(name))
        value = self._ir.Value(
            name=tensor.name,
            shape=tensor.shape,
            type=self._ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        self._dims[tensor.name] = tuple(array.shape)
        return value

    @property
    def image(self) -> Value:
        """The graph's first input, (N, C, H, W)."""
        return self._graph.inputs[0]

    def input(self, name: str, shape: Sequence[int | str | None]) -> Value:
        """A new float32 input of the graph, after those there are; dimensions as onnx_ir takes
        them, a text for an open one."""
        value = self._ir.Value(
            name=self._unique(name),
            shape=self._ir.Shape(shape),
            type=self._ir.TensorType(self._ir.DataType.FLOAT),
        )
        self._graph.inputs.append(value)
        return value

    def output(self, value: Value, shape: Sequence[int | str | None]) -> None:
        """Make a float32 value the last output of the graph, under its name."""
        value.shape = self._ir.Shape(shape)
        value.type = self._ir.TensorType(self._ir.DataType.FLOAT)
        self._graph.outputs.append(value)

    def add(
        self,
        before: Node,
        kind: str,
        inputs: Sequence[Value | None],
        name: str,
        dims: Sequence[int] | None = None,
        **attributes: Any,
    ) -> Value:
        """The output of a new node, put in front of ``before``; ``dims`` as `dims` tells later."""
        name = self._unique(name)
        node = self._ir.node(kind, list(inputs), attributes=attributes, name=name)
        node.outputs[0].name = name
        if dims is not None:
            self._dims[name] = tuple(dims)
        self._graph.insert_before(before, node)
        return node.outputs[0]

    def replace(self, old: Value, new: Value) -> None:
        """Let all readers of ``old`` read ``new``, and remove the nodes that nothing reads then."""
        if old.is_graph_output():
            new.name, old.name = old.name, self._unique(f"{old.name}/replaced")
        self._ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        self._sweep(old.producer())

    def _sweep(self, node: Node | None) -> None:
        if node is None or node.graph is None:
            return
        if any(value.consumers() or value.is_graph_output() for value in node.outputs):
            return
        producers = [value.producer() for value in node.inputs if value is not None]
        self._graph.remove(node, safe=True)
        for producer in producers:
            self._sweep(producer)

    def to_proto(self) -> Any:
        """The changed graph, without constants that nothing reads."""
        constants = self._graph.initializers
        for name in [name for name, value in constants.items() if not value.consumers()]:
            del constants[name]
        proto = self._ir.to_proto(self._model)
        del proto.graph.value_info[:]
        return proto

    def _unique(self, name: str) -> str:
        found, count = name, 1
        while found in self._names:
            count += 1
            found = f"{name}.{count}"
        self._names.add(found)
        return found


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """Value of a node's attribute."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def is_plain_conv(node: Node | None, kernel: int | None = None) -> bool:
    """Whether it is a Conv without bias, dilation or groups, of square ``kernel`` where given."""
    return (
        node is not None
        and node.op_type == "Conv"
        and len(node.inputs) == 2
        and attribute(node, "group", 1) == 1
        and set(attribute(node, "dilations", [1])) == {1}
        and (kernel is None or list(attribute(node, "kernel_shape", [])) == [kernel, kernel])
    )


def is_pointwise_conv(node: Node | None) -> bool:
    """Whether it is a plain 1x1 Conv of stride 1."""
    return is_plain_conv(node, 1) and set(attribute(node, "strides", [1])) == {1}


def is_frame_mean(node: Node) -> bool:
    """Whether it is the mean over height and width of each channel."""
    return (
        node.op_type == "ReduceMean"
        and list(attribute(node, "axes", [])) == SPATIAL_AXES
        and attribute(node, "keepdims", 1) == 1
    )


def sized(proto: Any) -> Any:
    """The shapes of ``proto`` (see `graph.file.shapes_of`), open ones at `ASSUMED_SIZE`."""
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    height, width = ASSUMED_SIZE
    return shapes_of(
        proto, dims[0].dim_value or 1, dims[2].dim_value or height, dims[3].dim_value or width
    )


def _output_names(node: Node) -> list[str]:
    return [output.name for output in node.outputs]
