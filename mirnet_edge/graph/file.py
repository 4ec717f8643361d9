"""ONNX graphs as files and values: read, identify, give a size."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mirnet_edge._imports import require
from mirnet_edge.errors import GraphError, first_line
from mirnet_edge.facts import ModelFacts
from mirnet_edge.graph.half_weights import restore_full
from mirnet_edge.graph.sealed import SEAL_KEY, check_onnx, sealed

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

LARGEST_SHAPE_CONSTANT = 64
"""Elements of the constants that shapes may depend on: axes, scales, target shapes."""
PAIR = ("QuantizeLinear", "DequantizeLinear")
T = TypeVar("T")


def load_graph(path: str | os.PathLike[str]) -> ModelProto:
    """Read an ONNX file.

    Raises:
        GraphError: no such file, or one that is no ONNX or no whole one, or reads what is not its
            own (see `graph.sealed`).
    """
    onnx = require("onnx", "reading graphs")
    path = Path(path)
    if not path.is_file():
        raise GraphError(f"{path}: no such file")
    check_onnx(path)
    try:
        proto: ModelProto = onnx.load(str(path))
        # An empty file, too, is read as a graph: one of nothing.
        onnx.checker.check_model(proto)
    except Exception as error:
        raise GraphError(f"{path}: no valid ONNX ({first_line(error)}); export it again") from error
    # The seal is of the file, and not of the graph, which may be changed from here on.
    kept = [item for item in proto.metadata_props if item.key != SEAL_KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    restore_full(proto)
    return proto


def save_graph(proto: ModelProto, path: Path) -> None:
    """Write an ONNX file with its seal, to the temporary path of an `atomic_path`."""
    path.write_bytes(sealed(proto.SerializeToString()))


def graph_sha256(proto: ModelProto) -> str:
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


def with_shape(proto: ModelProto, batch: int, height: int, width: int) -> ModelProto:
    """A copy whose input is (batch, C, height, width), with every tensor's shape inferred.

    Reshapes to a constant shape that begins with the batch the graph was made for copy the batch
    instead, so that the tiles of another one stay apart.

    Raises:
        GraphError: the graph is for another size, a shape cannot be inferred, or a Reshape mixes
            the tiles of such a batch.
    """
    inferred = shapes_of(proto, batch, height, width).graph
    sized = copy.deepcopy(proto)
    for kind in ("node", "input", "output", "value_info"):
        del getattr(sized.graph, kind)[:]
        getattr(sized.graph, kind).extend(getattr(inferred, kind))
    known = {tensor.name: tensor for tensor in sized.graph.initializer}
    wanted = {tensor.name: tensor for tensor in inferred.initializer}
    for name in known.keys() - wanted.keys():
        sized.graph.initializer.remove(known[name])
    sized.graph.initializer.extend(wanted[name] for name in wanted if name not in known)
    return sized


def shapes_of(proto: ModelProto, batch: int, height: int, width: int) -> ModelProto:
    """What `with_shape` returns, but with empty weights: quick also for large networks."""
    onnx = require("onnx", "reading graphs")
    # Inference copies all that it is given into C++ and back, weights as well.
    light = onnx.ModelProto(ir_version=proto.ir_version)
    light.opset_import.extend(proto.opset_import)
    graph = light.graph
    graph.name = proto.graph.name
    for kind in ("node", "input", "output"):
        getattr(graph, kind).extend(getattr(proto.graph, kind))
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= LARGEST_SHAPE_CONSTANT:
            graph.initializer.append(tensor)
        else:
            graph.initializer.add(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
    made_for = dims_of(graph.input[0])[0] or 1
    if batch == made_for:
        return _inferred(light, batch, height, width)
    before = shapes_by_name(_inferred(light, made_for, height, width))
    _copy_batch(graph, made_for, before)
    sized = _inferred(light, batch, height, width)
    _check_reshapes(sized, before, made_for, batch)
    return sized


def _inferred(light: ModelProto, batch: int, height: int, width: int) -> ModelProto:
    onnx = require("onnx", "reading graphs")
    dims = light.graph.input[0].type.tensor_type.shape.dim
    for axis, name, wanted in ((0, "batch", batch), (2, "height", height), (3, "width", width)):
        if axis > 0 and dims[axis].dim_value not in (0, wanted):
            raise GraphError(
                f"the graph takes only a {name} of {dims[axis].dim_value}, not {wanted}; export it "
                "with open sizes"
            )
        dims[axis].dim_value = wanted
    # A stored shape of another size would contradict the inferred one.
    for value in light.graph.output:
        value.type.tensor_type.ClearField("shape")
    sized: ModelProto
    try:
        sized = onnx.shape_inference.infer_shapes(light, strict_mode=True, data_prop=True)
    except Exception as error:
        raise GraphError(
            f"the graph does not take {batch}x{height}x{width}: {first_line(error)}"
        ) from error
    missing = [value.name for value in sized.graph.output if 0 in dims_of(value)]
    if missing:
        raise GraphError(f"the shape of {missing[0]!r} cannot be inferred; please report this")
    return sized


def _copy_batch(graph: GraphProto, made_for: int, dims: dict[str, tuple[int, ...]]) -> None:
    """Let Reshapes copy their input's first dimension where that and the target's are the batch
    that the graph was made for; other readers of a target keep it as it is."""
    numpy_helper = require("onnx.numpy_helper", "reading graphs")
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    copying: dict[str, TensorProto] = {}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in tensors:
            continue
        target = numpy_helper.to_array(tensors[node.input[1]]).copy()
        zero_copies = not attribute_of(node, "allowzero", 0)
        begins = [shape[:1] for shape in (target.tolist(), [*dims.get(node.input[0], ())])]
        if begins != [[made_for]] * 2 or not (zero_copies or target.all()):
            continue
        target[0] = 0
        name = f"{node.input[1]}/any_batch"
        copying[node.input[1]] = numpy_helper.from_array(target, name)
        node.input[1] = name
        del node.attribute[:]  # allowzero, a Reshape's only one, makes an empty tensor
    read = {name for node in graph.node for name in node.input}
    for name, tensor in copying.items():
        if name not in read:
            graph.initializer.remove(tensors[name])
        graph.initializer.append(tensor)


def _check_reshapes(
    sized: ModelProto, before: dict[str, tuple[int, ...]], made_for: int, batch: int
) -> None:
    """Of each Reshape, input and output both begin with the batch, or neither depends on it."""
    now = shapes_by_name(sized)

    def same(name: str) -> bool:
        return before.get(name) == now.get(name)

    def grew(name: str) -> bool:
        (old, *old_rest), (new, *new_rest) = before[name], now[name]
        return new * made_for == old * batch and new_rest == old_rest

    for node in [node for node in sized.graph.node if node.op_type == "Reshape"]:
        ends = source, target = node.input[0], node.output[0]
        if not (all(map(same, ends)) or all(map(grew, ends))):
            raise GraphError(
                f"Reshape {node.name!r} makes {now[target]} of {now[source]}: it mixes the "
                f"{batch} tiles of a batch; this graph is right for a batch of {made_for} alone"
            )


def dims_of(value: ValueInfoProto) -> tuple[int, ...]:
    """Shape of a tensor; 0 where it is not known."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def shapes_by_name(proto: ModelProto) -> dict[str, tuple[int, ...]]:
    """Of all tensors whose shapes a graph holds, constants included."""
    graph = proto.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return {value.name: dims_of(value) for value in values} | constants


def attribute_of(node: NodeProto, name: str, default: T) -> T:
    """Value of a node's attribute."""
    for item in node.attribute:
        if item.name == name:
            value: T = require("onnx.helper", "reading graphs").get_attribute_value(item)
            return value
    return default


def read_facts(proto: ModelProto) -> ModelFacts:
    """What a graph's metadata says of its network."""
    return ModelFacts.from_metadata({item.key: item.value for item in proto.metadata_props})


def set_nodes(proto: ModelProto, nodes: Iterable[NodeProto]) -> None:
    """Let a graph have these nodes, which may be its own."""
    # Copied before the old ones go, and with them what they are made of.
    kept = copy.deepcopy(list(nodes))
    del proto.graph.node[:]
    proto.graph.node.extend(kept)


def has_qdq(proto: ModelProto) -> bool:
    """Whether a graph has Q/DQ pairs."""
    return any(node.op_type == PAIR[0] for node in proto.graph.node)
