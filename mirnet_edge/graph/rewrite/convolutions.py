"""Convolutions and the linear maps beside them: fewer, denser, at the smaller scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.graph.rewrite.edit import (
    Changes,
    GraphEditor,
    attribute,
    has_border,
    input_of,
    is_plain_conv,
    is_pointwise_conv,
    source_of,
)

if TYPE_CHECKING:
    from onnx_ir import Node, Value


def leaky_relus(editor: GraphEditor) -> Changes:
    """PReLU with one constant slope is LeakyReLU, which runtimes fuse into the convolution before
    it."""
    for prelu in editor.nodes("PRelu"):
        slope = editor.array(prelu.inputs[1])
        if slope is not None and slope.size == 1:
            name, alpha = f"{prelu.name}/leaky", float(slope.item())
            leaky = editor.add(prelu, "LeakyRelu", [prelu.inputs[0]], name, alpha=alpha)
            yield {prelu.outputs[0]: leaky}


def convolutions_before_upsampling(editor: GraphEditor) -> Changes:
    """A 1x1 convolution mixes channels, bilinear upsampling mixes positions with weights that are
    the same in all channels: they commute, and the convolution is cheaper at the smaller size."""
    for conv in editor.nodes("Conv"):
        resize = source_of(conv, "Resize")
        if resize is None or not is_pointwise_conv(conv) or not is_doubling(editor, resize):
            continue
        weight = input_of(conv, 1)
        small = editor.mix(conv, input_of(resize), weight, f"{weight.name}/small")
        inputs = [small, *resize.inputs[1:]]
        attributes = {key: item.value for key, item in resize.attributes.items()}
        large = editor.add(conv, "Resize", inputs, f"{weight.name}/doubled", **attributes)
        yield {conv.outputs[0]: large}


def is_doubling(editor: GraphEditor, node: Node) -> bool:
    """Whether it is bilinear upsampling by two, corners not aligned."""
    if node.op_type != "Resize" or attribute(node, "mode", "nearest") != "linear":
        return False
    scales = editor.array(node.inputs[2]) if len(node.inputs) > 2 else None
    return (
        attribute(node, "coordinate_transformation_mode", "half_pixel") == "half_pixel"
        and scales is not None
        and scales.tolist() == [1, 1, 2, 2]
    )


def strided_convolutions(editor: GraphEditor) -> Changes:
    """Downsampling as one dense convolution instead of two or more passes over the map.

    The 2x2 mean and a 1x1 convolution W are a 2x2 convolution of stride 2 with the weights W / 4.
    A convolution whose kernel equals its stride, followed by another such one, is one of the
    product of both sizes with the weights sum_c W2[o, c, y2, x2] W1[c, i, y1, x1].
    """
    merged = False
    for conv in editor.nodes("Conv"):
        before = input_of(conv).producer()
        outer = _block_weights(editor, conv)
        inner = None if before is None else _block_weights(editor, before)
        if before is None or outer is None or inner is None:
            continue
        # A convolution that others read is computed anyway: merged, it would be computed twice.
        shared = editor.only_use(before.outputs[0]) is None
        if max(outer.shape[2], inner.shape[2]) < 2 or (shared and before.op_type == "Conv"):
            continue
        weight = _composed(outer, inner)
        size = [weight.shape[2]] * 2
        shape = {"kernel_shape": size, "strides": size}
        yield _with_weight(editor, conv, input_of(before), weight, "strided", shape)
        merged = True
    if merged:
        # What was merged may merge again.
        yield from strided_convolutions(editor)


def _block_weights(editor: GraphEditor, node: Node) -> NDArray[Any] | None:
    """(out, in, s, s) weights of a map from blocks of s x s pixels to one; None where it is no
    such map."""
    size = list(attribute(node, "kernel_shape", [0]))
    if len(size) != 2 or size[0] != size[1] or has_border(node):
        return None
    if list(attribute(node, "strides", [1, 1])) != size:
        return None
    if node.op_type == "AveragePool":
        channels = editor.dims(input_of(node))[1]
        share = np.eye(channels, dtype=np.float32)[:, :, None, None] / np.float32(size[0] ** 2)
        return np.broadcast_to(share, (channels, channels, *size))
    return editor.array(node.inputs[1]) if is_plain_conv(node) else None


def _composed(outer: NDArray[Any], inner: NDArray[Any]) -> NDArray[np.float32]:
    """Weights of ``inner`` followed by ``outer``, of blocks of both sizes multiplied."""
    # In FP64 products of two FP32 weights are exact: what is stored is rounded once.
    products = np.tensordot(outer.astype(np.float64), inner.astype(np.float64), axes=(1, 0))
    weight: NDArray[np.float64] = products.transpose(0, 3, 1, 4, 2, 5)  # from (out, Y, X, in, y, x)
    out, inputs, rows, row, columns, column = weight.shape
    return weight.reshape(out, inputs, rows * row, columns * column).astype(np.float32)


def blur_pools(editor: GraphEditor) -> Changes:
    """A depthwise blur f followed by a 1x1 convolution W is one dense convolution with the weights
    W[o, c] f[c, y, x]; the map between them is never written."""
    for conv in editor.nodes("Conv"):
        blur = source_of(conv, "Conv")
        if blur is None or not is_pointwise_conv(conv) or len(blur.inputs) != 2:
            continue
        filters, weight = editor.array(blur.inputs[1]), editor.array(conv.inputs[1])
        if filters is None or weight is None or filters.shape[1] != 1:
            continue
        # One filter a channel: of several, or of one gray channel, the products would be others.
        if attribute(blur, "group", 1) == filters.shape[0] == weight.shape[1]:
            dense = weight * filters[None, :, 0]
            yield _with_weight(editor, conv, input_of(blur), dense, "blurred", _ungrouped(blur))


def dense_groups(editor: GraphEditor) -> Changes:
    """A grouped convolution is a dense one whose weights between groups are zero.

    Groups of 20 or 45 channels fill no tensor core; the dense one does, with more arithmetic and
    the same bytes of features.
    """
    for conv in editor.nodes("Conv"):
        groups = attribute(conv, "group", 1)
        weight = editor.array(conv.inputs[1])
        # Depthwise ones stay: runtimes have kernels for them, and dense the arithmetic is C times.
        if groups == 1 or weight is None or weight.shape[1] == 1 or len(conv.inputs) != 2:
            continue
        out, into = weight.shape[0] // groups, weight.shape[1]
        dense = np.zeros((weight.shape[0], groups * into, *weight.shape[2:]), np.float32)
        for group in range(groups):
            rows = slice(group * out, (group + 1) * out)
            dense[rows, group * into : (group + 1) * into] = weight[rows]
        yield _with_weight(editor, conv, input_of(conv), dense, "dense", _ungrouped(conv))


def _with_weight(
    editor: GraphEditor,
    conv: Node,
    source: Value,
    weight: NDArray[Any],
    suffix: str,
    attributes: dict[str, Any],
) -> dict[Value, Value]:
    """The change of ``conv`` to a convolution of ``source`` with a new weight."""
    name = f"{input_of(conv, 1).name}/{suffix}"
    inputs = [source, editor.constant(name, weight)]
    return {conv.outputs[0]: editor.add(conv, "Conv", inputs, name, **attributes)}


def _ungrouped(conv: Node) -> dict[str, Any]:
    """Its attributes but the groups."""
    return {key: item.value for key, item in conv.attributes.items() if key != "group"}
