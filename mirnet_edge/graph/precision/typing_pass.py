"""Give every tensor of a float32 graph its type: float16, or float32 where a node needs it."""

from __future__ import annotations

import copy
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge.errors import GraphError, first_line
from mirnet_edge.graph.file import PAIR, set_nodes
from mirnet_edge.graph.precision.islands import FP16_MAX

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

IoType = Literal["float32", "float16"]
FLOAT, FLOAT16 = 1, 10
NAME_OF_TYPE = {FLOAT: "float32", FLOAT16: "float16"}

ALWAYS_FLOAT32 = {("Resize", 2), ("Upsample", 1)}
"""Inputs that the standard keeps in float32 whatever the node's own type: the scale factors."""
LEAST_SCALE = 2.0**-20
"""Of a Q/DQ pair in FP16: with 4 bits left. A channel that would have a smaller one has no weight
above 1.2e-4, and loses at most 5e-7 of each."""
LOST_TO_UNDERFLOW = 1e-2
"""Part of a constant's norm that FP16 may lose without a warning; ordinary rounding takes 3e-4."""


def retyped(proto: ModelProto, float32_nodes: set[str], io: IoType) -> ModelProto:
    """A copy whose named nodes compute in float32 and all others in float16, checked by onnx.

    A tensor has the type of the node that writes it. Where a reader needs the other type, one Cast
    serves all such readers; constants are stored in the type that is read.

    Args:
        io: type of the graph's first input and output, the images; all others are float32.
    """
    onnx = require("onnx", "typing graphs")
    typed: ModelProto = copy.deepcopy(proto)
    # Of initializers alone a second copy can be stored in the other type.
    _constants_to_initializers(typed)
    _Typing(onnx, typed, float32_nodes, FLOAT16 if io == "float16" else FLOAT).run()
    infer = onnx.shape_inference.infer_shapes
    try:
        typed = infer(typed, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(typed, full_check=True)
    except Exception as error:
        raise GraphError(
            f"the typed graph does not type-check ({first_line(error)}); please report this network"
        ) from error
    return typed


def _constants_to_initializers(proto: ModelProto) -> None:
    """Turn Constant nodes into initializers, in place."""
    kept = []
    for node in proto.graph.node:
        tensor = next((item.t for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Constant" and tensor is not None:
            proto.graph.initializer.add().CopyFrom(tensor)
            proto.graph.initializer[-1].name = node.output[0]
        else:
            kept.append(node)
    set_nodes(proto, kept)


class _Typing:
    def __init__(
        self, onnx: ModuleType, proto: ModelProto, float32_nodes: set[str], io_type: int
    ) -> None:
        self.onnx, self.proto, self.float32_nodes = onnx, proto, float32_nodes
        graph = proto.graph
        # Nodes do not say which of their tensors are floats; inference does.
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph
        self.floats = {
            value.name
            for value in (*inferred.input, *inferred.value_info, *inferred.output)
            if value.type.tensor_type.elem_type == FLOAT
        }
        images = {graph.input[0].name, graph.output[0].name}
        self.io_type = {
            value.name: io_type if value.name in images else FLOAT
            for value in (*graph.input, *graph.output)
            if value.name in self.floats
        }
        self.type_of = {v.name: self.io_type[v.name] for v in graph.input if v.name in self.floats}
        self.constants = {
            tensor.name: tensor for tensor in graph.initializer if tensor.data_type == FLOAT
        }
        self.stored: dict[str, TensorProto] = {}
        self.nodes: list[NodeProto] = []

    def run(self) -> None:
        graph = self.proto.graph
        for node in list(graph.node):
            self._type_node(node)
        for value in graph.output:
            if value.name in self.floats:
                self._type_output(value.name)
        for value in (*graph.input, *graph.output):
            if value.name in self.floats:
                value.type.tensor_type.elem_type = self.io_type[value.name]
        others = [tensor for tensor in graph.initializer if tensor.data_type != FLOAT]
        initializers = [*others, *self.stored.values()]
        del graph.initializer[:]
        graph.initializer.extend(initializers)
        set_nodes(self.proto, self.nodes)
        del graph.value_info[:]

    def _type_node(self, node: NodeProto) -> None:
        own = FLOAT if node.name in self.float32_nodes else FLOAT16
        for index, name in enumerate(node.input):
            wanted = FLOAT if (node.op_type, index) in ALWAYS_FLOAT32 else own
            if name in self.constants:
                is_scale = index == 1 and node.op_type in PAIR
                node.input[index] = self._constant(name, wanted, is_scale)
            elif self.type_of.get(name, wanted) != wanted:
                node.input[index] = self._cast(name, wanted)
        for attribute in node.attribute:
            # What the graph itself casts to float32 gets the type that floats have now.
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = own
        self.type_of |= {name: own for name in node.output if name in self.floats}
        self.nodes.append(node)

    def _type_output(self, name: str) -> None:
        """Give a graph's output its type: where what wrote it has the other, that writes another
        tensor, and a Cast the output."""
        io_type = self.io_type[name]
        if self.type_of.get(name, io_type) != io_type:
            inner = f"{name}_as_{NAME_OF_TYPE[self.type_of[name]]}"
            for node in self.nodes:
                for names in (node.input, node.output):
                    names[:] = [inner if item == name else item for item in names]
            self.nodes.append(self._cast_node(inner, name, io_type))

    def _cast(self, name: str, wanted: int) -> str:
        """Name of the tensor in the wanted type, written by a Cast before its first reader."""
        cast = f"{name}_as_{NAME_OF_TYPE[wanted]}"
        if cast not in self.type_of:
            self.nodes.append(self._cast_node(name, cast, wanted))
            self.type_of[cast] = wanted
        return cast

    def _cast_node(self, source: str, target: str, wanted: int) -> NodeProto:
        name = f"cast_{source}_to_{NAME_OF_TYPE[wanted]}"
        cast: NodeProto = self.onnx.helper.make_node("Cast", [source], [target], name, to=wanted)
        return cast

    def _constant(self, name: str, wanted: int, is_scale: bool) -> str:
        """Name of a constant in the wanted type; the FP32 copy of one that is stored in both types
        has another name."""
        stored = name if wanted == FLOAT16 else f"{name}_as_float32"
        if stored not in self.stored:
            values = self.onnx.numpy_helper.to_array(self.constants[name])
            if wanted == FLOAT16 and is_scale:
                values = np.maximum(values, np.float32(LEAST_SCALE)).astype(np.float16)
            elif wanted == FLOAT16:
                values = _as_float16(name, values)
            self.stored[stored] = self.onnx.numpy_helper.from_array(values, stored)
        return stored


def _as_float16(name: str, values: NDArray[np.float32]) -> NDArray[np.float16]:
    """A constant in float16; warns where more than 1 % of its norm is lost to underflow."""
    largest = float(np.abs(values).max(initial=0))
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise GraphError(
            f"the constant {name!r} holds {largest:.6g}, beyond FP16's range of {FP16_MAX:.0f}; "
            "build it in fp32, or name the nodes that use it as FP32 islands"
        )
    lost = np.linalg.norm((values - half.astype(np.float32)).ravel().astype(np.float64))
    if lost > LOST_TO_UNDERFLOW * np.linalg.norm(values.ravel().astype(np.float64)):
        warnings.warn(
            f"the constant {name!r} is at most {largest:.2g}: FP16 loses more than "
            f"{LOST_TO_UNDERFLOW:.0%} of it to underflow",
            stacklevel=2,
        )
    return half
