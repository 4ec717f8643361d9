"""Weights stored in half precision: a file of half the size, whose graph computes in float32.

Each large weight is kept as float16 and cast by a node of its own, which ONNX Runtime does once,
when it opens the file. What reads a graph to change it sees float32 weights again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge._imports import require

if TYPE_CHECKING:
    from onnx import ModelProto

SUFFIX = "/half"
LEAST_ELEMENTS = 64
"""Of a weight that is worth a node."""


def store_half(proto: ModelProto) -> None:
    """Keep as float16, in place, the weights of a graph that float16 holds exactly: those that were
    rounded before. What rewrites made of several weights stays as it is."""
    onnx = require("onnx", "storing weights in half precision")
    casts = []
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.size < LEAST_ELEMENTS:
            continue
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.array_equal(half, array):
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, name + SUFFIX))
        cast = onnx.helper.make_node("Cast", [name + SUFFIX], [name], to=onnx.TensorProto.FLOAT)
        cast.name = name + SUFFIX
        casts.append(cast)
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def restore_full(proto: ModelProto) -> None:
    """Undo `store_half`, in place; a graph that it did not touch is left as it is."""
    onnx = require("onnx", "reading graphs")
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    kept = []
    for node in proto.graph.node:
        source = node.input[0] if node.input else ""
        if node.op_type == "Cast" and source.endswith(SUFFIX) and source in stored:
            full = onnx.numpy_helper.to_array(stored[source]).astype(np.float32)
            stored[source].CopyFrom(onnx.numpy_helper.from_array(full, node.output[0]))
        else:
            kept.append(node)
    if len(kept) < len(proto.graph.node):
        del proto.graph.node[:]
        proto.graph.node.extend(kept)
