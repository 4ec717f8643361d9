"""Whether a vector of a graph is the mean of a map over the frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.graph.rewrite.convolutions import is_doubling
from mirnet_edge.graph.rewrite.edit import (
    GraphEditor,
    attribute,
    input_of,
    is_frame_mean,
    is_pointwise_conv,
)

if TYPE_CHECKING:
    from onnx_ir import Node, Value


def is_mean(editor: GraphEditor, vector: Value, frame: Value) -> bool:
    """Whether ``vector`` is the mean of ``frame`` over all positions, taken of it or, as
    `pools.means_through_linear_maps` does, of what it is linear in."""
    node = vector.producer()
    if node is None:
        return False
    if is_frame_mean(editor, node):
        source = input_of(node)
        blocks = source.producer()
        if source is not frame and blocks is not None and _is_pool_of_whole_blocks(editor, blocks):
            source = input_of(blocks)
        if source is frame:
            return True
    maker = frame.producer()
    if maker is None:
        return False
    if is_doubling(editor, maker):
        return is_mean(editor, vector, input_of(maker))
    if maker.op_type != node.op_type:
        return False
    if is_pointwise_conv(maker) and is_pointwise_conv(node):
        same = input_of(maker, 1) is input_of(node, 1)
        return same and is_mean(editor, input_of(node), input_of(maker))
    if maker.op_type not in ("Add", "Sub", "Mul"):
        return False
    pairs = zip(node.inputs, maker.inputs)
    return all(
        (maker.op_type == "Mul" and a is b) or is_mean(editor, a, b)
        for a, b in pairs
        if a is not None and b is not None
    )


def _is_pool_of_whole_blocks(editor: GraphEditor, node: Node) -> bool:
    if node.op_type != "AveragePool":
        return False
    size = list(attribute(node, "kernel_shape", [0]))
    height, width = editor.dims(input_of(node))[2:]
    return (
        list(attribute(node, "strides", [1, 1])) == size
        and set(attribute(node, "pads", [0])) == {0}
        and height % size[0] == width % size[1] == 0
    )
