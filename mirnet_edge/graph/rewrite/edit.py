"""A graph under change: what the passes read of it and how they change it (onnx_ir)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge.graph.file import dims_of, read_facts, shapes_by_name, shapes_of

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnx_ir import Node, SymbolicDim, Value

    Dim = int | str | SymbolicDim | None

OWN_DOMAIN = "mirnet_edge"
"""Of our operators, which a TensorRT that has our plugins knows and no other runtime."""
ASSUMED_PX = 256
"""Height and width at which bytes are counted in a graph of open size, or the next that its network
takes."""
SPATIAL_AXES = [2, 3]
T = TypeVar("T")
Changes = Iterator["dict[Value, Value]"]


class GraphEditor:
    """One ONNX graph, opset 17, held as an ``onnx_ir.Model``; its first input is (N, C, H, W).

    Attributes:
        sized: shapes of the graph as it came (see `graph.file.shapes_of`), open ones at
            `ASSUMED_PX`.
        fixed: whether passes may count on the size.
        facts: of its network.
        image: its first input.
    """

    def __init__(self, proto: ModelProto) -> None:
        self._ir = require("onnx_ir", "rewriting graphs")
        # onnx_ir infers no shapes without onnxscript, so onnx does before the graph is taken in.
        self.sized = _sized(proto)
        self._dims = shapes_by_name(self.sized)
        self.fixed = 0 not in dims_of(proto.graph.input[0])[2:]
        self.facts = read_facts(proto)
        self._metadata = list(proto.metadata_props)
        self._model = self._ir.from_proto(proto)
        self._graph = self._model.graph
        self.image: Value = self._graph.inputs[0]
        self._names = {value.name for node in self._graph for value in node.outputs}
        self._names |= set(self._graph.initializers)

    def nodes(self, *kinds: str) -> Iterator[Node]:
        """The nodes of these operators (none: of all) that are there now, in order; those that fall
        away before their turn are left out."""
        # A list of its own: passes add and remove nodes on their way.
        for node in list(self._graph):
            if (not kinds or node.op_type in kinds) and node.graph is not None:
                yield node

    def dims(self, value: Value) -> tuple[int, ...]:
        """Shape of a value that was there when editing began or replaced one that was; in a graph
        of open size, at `ASSUMED_PX`."""
        return self._dims[str(value.name)]

    def size(self, value: Value) -> int:
        """How many elements it has."""
        return math.prod(self.dims(value))

    def array(self, value: Value | None) -> NDArray[Any] | None:
        """The constant behind ``value``, None where it is computed."""
        if value is None or value.const_value is None:
            return None
        return np.asarray(value.const_value.numpy())

    def only_use(self, value: Value) -> Node | None:
        """The one node that reads ``value``, None where there are more, or where it is an output of
        the graph."""
        consumers = value.consumers()
        return consumers[0] if len(consumers) == 1 and not value.is_graph_output() else None

    def constant(self, name: str, array: NDArray[Any]) -> Value:
        """A new initializer."""
        name = self._unique(name)
        tensor = self._ir.tensor(np.ascontiguousarray(array), name=name)
        kind = self._ir.TensorType(tensor.dtype)
        value: Value = self._ir.Value(name=name, shape=tensor.shape, type=kind, const_value=tensor)
        self._graph.register_initializer(value)
        self._dims[name] = array.shape
        return value

    def number(self, name: str, value: float) -> Value:
        """A new constant (1, 1, 1, 1), float32."""
        return self.constant(name, np.full((1, 1, 1, 1), value, np.float32))

    def integers(self, name: str, *values: int) -> Value:
        """A new constant of one axis, int64: a shape, axes, bounds."""
        return self.constant(name, np.array(values, np.int64))

    def input(self, name: str, shape: Sequence[Dim]) -> Value:
        """A new float32 input of the graph, after those there are; dimensions as onnx_ir takes
        them, a text for an open one."""
        value: Value = self._ir.Value(name=self._unique(name))
        self._graph.inputs.append(self._float32(value, shape))
        return value

    def output(self, value: Value, shape: Sequence[Dim]) -> None:
        """Make a float32 value the last output of the graph, under its name."""
        self._graph.outputs.append(self._float32(value, shape))

    def _float32(self, value: Value, shape: Sequence[Dim]) -> Value:
        value.shape = self._ir.Shape(shape)
        value.type = self._ir.TensorType(self._ir.DataType.FLOAT)
        return value

    def add(
        self, before: Node, kind: str, inputs: Sequence[Value | None], name: str, **attributes: Any
    ) -> Value:
        """The output of a new node, put in front of ``before``."""
        name = self._unique(name)
        node: Node = self._ir.node(kind, list(inputs), attributes=attributes, name=name)
        node.outputs[0].name = name
        self._graph.insert_before(before, node)
        return node.outputs[0]

    def own(
        self,
        before: Node,
        kind: str,
        inputs: Sequence[Value],
        names: Sequence[str],
        **attributes: Any,
    ) -> list[Value]:
        """The outputs, by these names, of a new node of an operator of our own, put in front of
        ``before``. No other runtime than a TensorRT that has our plugins knows one."""
        names = [self._unique(name) for name in names]
        node: Node = self._ir.node(
            kind,
            list(inputs),
            attributes=attributes,
            name=names[0],
            domain=OWN_DOMAIN,
            num_outputs=len(names),
        )
        for value, name in zip(node.outputs, names):
            value.name = name
        self._graph.insert_before(before, node)
        self._model.opset_imports[OWN_DOMAIN] = 1
        return list(node.outputs)

    def reduce(self, before: Node, kind: str, value: Value, name: str) -> Value:
        """The output of a new reduction over height and width."""
        return self.add(before, kind, [value], name, axes=SPATIAL_AXES, keepdims=1)

    def mix(self, before: Node, value: Value, weight: Value, name: str) -> Value:
        """The output of a new 1x1 convolution."""
        return self.add(before, "Conv", [value, weight], name, kernel_shape=[1, 1])

    def pool(self, before: Node, kind: str, value: Value, blocks: list[int], name: str) -> Value:
        """The output of a new pool over blocks of (height, width) that lie side by side."""
        return self.add(before, kind, [value], name, kernel_shape=blocks, strides=blocks)

    def apply(self, run: Callable[[GraphEditor], Changes]) -> int:
        """Let a pass change the graph; how often it applied."""
        changes = 0
        for replaced in run(self):
            changes += 1
            for old, new in replaced.items():
                self.replace(old, new)
        return changes

    def replace(self, old: Value, new: Value) -> None:
        """Let all readers of ``old`` read ``new``, and remove the nodes that nothing reads then."""
        self._dims[str(new.name)] = self.dims(old)
        if old.is_graph_output():
            # Its name stays: it is how the graph is called.
            new.name, old.name = old.name, self._unique(f"{old.name}/replaced")
            # An output says its type; of other values ONNX keeps none that it cannot infer.
            new.shape, new.type = old.shape, old.type
        self._ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        # At once, not at the end: whether a pass applies hangs on how many nodes read a value.
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

    def to_proto(self) -> ModelProto:
        """The changed graph with the metadata it came with, without constants that nothing
        reads."""
        constants = self._graph.initializers
        for name in [name for name, value in constants.items() if not value.consumers()]:
            del constants[name]
        proto: ModelProto = self._ir.to_proto(self._model)
        # Shapes that were stored are of values that may be gone, or of another meaning.
        del proto.graph.value_info[:]
        if OWN_DOMAIN in self._model.opset_imports:
            self._tell_shapes(proto)
        del proto.metadata_props[:]
        proto.metadata_props.extend(self._metadata)
        return proto

    def _tell_shapes(self, proto: ModelProto) -> None:
        """Store the shapes that are known: of an operator of our own nobody infers any."""
        helper = require("onnx.helper", "rewriting graphs")
        floats = int(self._ir.DataType.FLOAT)
        ends = {value.name for value in (*proto.graph.input, *proto.graph.output)}
        for node in proto.graph.node:
            for name in node.output:
                if name in self._dims and name not in ends:
                    told = helper.make_tensor_value_info(name, floats, self._dims[name])
                    proto.graph.value_info.append(told)

    def _unique(self, name: str) -> str:
        found, count = name, 1
        while found in self._names:
            count += 1
            found = f"{name}.{count}"
        self._names.add(found)
        return found


def input_of(node: Node, index: int = 0) -> Value:
    """An input that the node's operator cannot do without, so that onnx's checker has seen it."""
    return cast("Value", node.inputs[index])


def source_of(node: Node, kind: str, index: int = 0) -> Node | None:
    """The node that writes an input, None where it is another operator than ``kind``."""
    source = input_of(node, index).producer()
    return source if source is not None and source.op_type == kind else None


def attribute(node: Node, name: str, default: T) -> T:
    """Value of a node's attribute."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def has_border(node: Node) -> bool:
    """Whether a Conv or a pool may read beyond its map, so that it does not mix positions alike
    everywhere."""
    return (
        set(attribute(node, "pads", [0])) != {0}
        or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        or attribute(node, "ceil_mode", 0) != 0
    )


def is_plain_conv(node: Node | None) -> TypeGuard[Node]:
    """Whether it is a Conv without bias, dilation or groups."""
    return (
        node is not None
        and node.op_type == "Conv"
        and len(node.inputs) == 2
        and attribute(node, "group", 1) == 1
        and set(attribute(node, "dilations", [1])) == {1}
    )


def is_pointwise_conv(node: Node | None) -> TypeGuard[Node]:
    """Whether it is a plain 1x1 Conv of stride 1."""
    return (
        is_plain_conv(node)
        and list(attribute(node, "kernel_shape", [0])) == [1, 1]
        and set(attribute(node, "strides", [1])) == {1}
        and not has_border(node)
    )


def is_frame_mean(editor: GraphEditor, node: Node) -> bool:
    """Whether it is the mean over height and width of each channel."""
    return (
        node.op_type == "ReduceMean"
        and list(attribute(node, "axes", [0])) == SPATIAL_AXES
        and attribute(node, "keepdims", 1) == 1
        and len(editor.dims(input_of(node))) == 4
    )


def _sized(proto: ModelProto) -> ModelProto:
    batch, _, height, width = dims_of(proto.graph.input[0])
    side = read_facts(proto).size_rule.padded(ASSUMED_PX)
    return shapes_of(proto, batch or 1, height or side, width or side)
