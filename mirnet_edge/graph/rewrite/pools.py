"""Reductions over the whole frame: of smaller maps, in stages, safe in FP16."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mirnet_edge.graph.rewrite.convolutions import is_doubling
from mirnet_edge.graph.rewrite.edit import (
    GraphEditor,
    attribute,
    input_of,
    is_frame_mean,
    is_pointwise_conv,
    source_of,
)

if TYPE_CHECKING:
    from onnx_ir import Node, Value


def means_through_linear_maps(editor: GraphEditor) -> int:
    """The mean of a linear map of a frame is the same map of the mean.

    Of a sum, the sum of the means (so the sum itself need not be written); of a 1x1 convolution,
    the convolution of the mean; of a map times a gate per channel, the mean times the gate; of
    bilinear upsampling by two, the mean of the small map: each pixel's weights add up to 2 along
    each axis, at the borders too, where 1 + 3/4 + 1/4 of it are taken. Means of maps that several
    fusions share are taken once, and a step is taken only where it saves bytes.
    """
    means = _Means(editor)
    changed = 0
    for node in editor.nodes("ReduceMean"):
        if not is_frame_mean(editor, node):
            continue
        mean = means.of(input_of(node), node)
        if mean is not node.outputs[0]:
            editor.replace(node.outputs[0], mean)
            changed += 1
    return changed


class _Means:
    """Means over the frame of values, made once each and as cheaply as possible."""

    def __init__(self, editor: GraphEditor) -> None:
        self._editor = editor
        self._known: dict[Value, Value] = {}

    def of(self, value: Value, reduction: Node) -> Value:
        """The mean of ``value``; new nodes go in front of ``reduction``, the ReduceMean that asked,
        which stays if its own input cannot be had for less."""
        if value in self._known:
            return self._known[value]
        parts = self._linear(value)
        if parts is not None and self._cost_of_parts(value) < self._cost_of_map(value):
            mean = self._rebuilt(value, parts, reduction)
        elif value is reduction.inputs[0]:
            mean = reduction.outputs[0]
        else:
            dims = (*self._editor.dims(value)[:2], 1, 1)
            mean = self._editor.reduce(reduction, "ReduceMean", value, f"{value.name}/mean", dims)
        self._known[value] = mean
        return mean

    def _linear(self, value: Value) -> list[Value] | None:
        """The maps whose means give that of ``value``; None where it is not linear in maps."""
        node = value.producer()
        if node is None:
            return None
        if is_pointwise_conv(node) or is_doubling(self._editor, node):
            return [input_of(node)]
        if node.op_type not in ("Add", "Sub", "Mul"):
            return None
        inputs = [input_of(node), input_of(node, 1)]
        # What is broadcast from fewer axes has no mean over height and width.
        if any(len(self._editor.dims(item)) != 4 for item in inputs):
            return None
        return inputs if node.op_type != "Mul" or any(map(self._is_vector, inputs)) else None

    def _is_vector(self, value: Value) -> bool:
        """Whether it is the same at all positions."""
        return self._editor.dims(value)[2:] == (1, 1)

    def _rebuilt(self, value: Value, parts: list[Value], reduction: Node) -> Value:
        node = value.producer()
        means = [part if self._is_vector(part) else self.of(part, reduction) for part in parts]
        if node is None or node.op_type == "Resize":
            return means[0]
        inputs = [*means, *node.inputs[len(means) :]]
        attributes: dict[str, Any] = {"kernel_shape": [1, 1]} if node.op_type == "Conv" else {}
        dims = (*self._editor.dims(value)[:2], 1, 1)
        return self._editor.add(
            reduction, node.op_type, inputs, f"{value.name}/mean", dims, **attributes
        )

    def _cost_of_map(self, value: Value) -> int:
        """Elements read to take the mean directly, and those read and written only to make the map
        where nothing but means needs it."""
        if value in self._known or self._is_vector(value):
            return 0
        size = self._editor.size(value)
        if self._is_needed(value):
            return size
        node = value.producer()
        made_from = [] if node is None else [v for v in node.inputs if v is not None]
        return 2 * size + sum(self._editor.size(v) for v in made_from)

    def _is_needed(self, value: Value) -> bool:
        """Whether anything but means over the frame reads it, directly or through linear maps."""
        return value.is_graph_output() or any(
            not is_frame_mean(self._editor, node)
            and (self._linear(node.outputs[0]) is None or self._is_needed(node.outputs[0]))
            for node in value.consumers()
        )

    def _cost(self, value: Value) -> int:
        return min(self._cost_of_map(value), self._cost_of_parts(value))

    def _cost_of_parts(self, value: Value) -> int:
        if value in self._known or self._is_vector(value):
            return 0
        parts = self._linear(value)
        if parts is None:
            return self._cost_of_map(value)
        return sum(self._cost(part) for part in parts)


STAGED_FROM_PX = 64 * 64
"""Smallest map whose mean is taken in two stages."""


def staged_means(editor: GraphEditor) -> int:
    """The mean of a large map is the mean of the means of its blocks. One reduction of 256x256
    positions keeps as many thread blocks busy as there are channels; 16x16 blocks first keep 256
    times as many."""
    # Which blocks divide a map is known of a fixed size only.
    if not editor.fixed:
        return 0
    changed = 0
    for node in editor.nodes("ReduceMean"):
        if is_frame_mean(editor, node) and input_of(node).producer() is not None:
            changed += _stage(editor, node)
    return changed


def _stage(editor: GraphEditor, mean: Node) -> int:
    value = input_of(mean)
    *_, height, width = editor.dims(value)
    blocks = [_block(height), _block(width)]
    # A side that is a prime number has no blocks.
    if height * width < STAGED_FROM_PX or 1 in blocks:
        return 0
    coarse = editor.add(
        mean, "AveragePool", [value], f"{value.name}/blocks", kernel_shape=blocks, strides=blocks
    )
    fine = editor.reduce(mean, "ReduceMean", coarse, f"{value.name}/mean")
    editor.replace(mean.outputs[0], fine)
    return 1


def _block(extent: int) -> int:
    """The divisor of ``extent`` nearest to its square root, from below."""
    return next(side for side in range(math.isqrt(extent), 0, -1) if extent % side == 0)


def spatial_softmaxes(editor: GraphEditor) -> int:
    """The softmax over all positions in a form that FP16 holds.

    sum_p softmax(l)_p r_p = (sum_p e_p r_p) / (sum_p e_p), e_p = exp(l_p - max l) / sqrt(HW). The
    weights of the plain form lie near 1 / HW, below FP16's normal range from 256x256 on; those e_p
    lie near 1 / sqrt(HW), and both sums near sqrt(HW). Maximum and sum are taken in two stages:
    TensorRT 8.6's own softmax in FP32 takes 42 us on the average of maps of 256x256, 128x128 and
    64x64 on an H200. With it edge-s took 2.69 ms, PyTorch's CUDA graph 2.17 beside it; in this
    form, in another run, 2.17 beside 2.27.
    """
    if not editor.fixed:
        return 0
    changed = 0
    for softmax in editor.nodes("Softmax"):
        found = softmax_mean(editor, softmax)
        if found is None:
            continue
        name, before = f"{softmax.name}", (softmax, found.product)
        summed, total, _ = softmax_sums(editor, found.logits, found.features, name, before)
        context = editor.add(found.product, "Div", [summed, total], f"{name}/context")
        editor.replace(found.view.outputs[0], context)
        changed += 1
    return changed


class SoftmaxMean(NamedTuple):
    """Around a softmax over all positions: the logits (N, 1, H, W), the features (N, C, H, W), the
    product of both, and the node that makes it the mean (N, C, 1, 1)."""

    logits: Value
    features: Value
    product: Node
    view: Node


def softmax_mean(editor: GraphEditor, softmax: Node) -> SoftmaxMean | None:
    """What a softmax weights over all positions; None for any other, such as one of several
    queries."""
    flat, transpose = source_of(softmax, "Reshape"), editor.only_use(softmax.outputs[0])
    if flat is None or transpose is None or transpose.op_type != "Transpose":
        return None
    product = editor.only_use(transpose.outputs[0])
    if product is None or product.op_type != "MatMul":
        return None
    table, view = source_of(product, "Reshape"), editor.only_use(product.outputs[0])
    if table is None or view is None or view.op_type not in ("Unsqueeze", "Reshape"):
        return None
    found = SoftmaxMean(input_of(flat), input_of(table), product, view)
    batch, channels, *frame = editor.dims(found.features)
    weights = editor.dims(softmax.outputs[0])
    fits = (
        editor.dims(found.logits) == (batch, 1, *frame)
        and weights == (batch, 1, math.prod(frame))
        and attribute(softmax, "axis", -1) in (-1, 2)
        and editor.dims(view.outputs[0]) == (batch, channels, 1, 1)
    )
    return found if fits else None


def softmax_sums(
    editor: GraphEditor, logits: Value, features: Value, name: str, before: tuple[Node, Node]
) -> tuple[Value, Value, Value]:
    """sum_p e_p r_p (N, C, 1, 1), sum_p e_p (N, 1, 1, 1), and the shift s (N, 1, 1, 1) of
    e_p = exp(l_p - s): the two sums of `spatial_softmaxes`, in a graph of fixed size.

    Args:
        logits: l (N, 1, H, W).
        features: r (N, C, H, W), there when editing began.
        name: that the names of all new nodes begin with.
        before: nodes that the new ones go in front of: those that read the logits, and those that
            read the features.
    """
    batch, channels, height, width = editor.dims(features)
    softmax, product = before
    positions = height * width
    blocks = [_block(height), _block(width)]
    grid = {"kernel_shape": blocks, "strides": blocks}
    maxima = editor.add(softmax, "MaxPool", [logits], f"{name}/maxima", **grid)
    largest = editor.reduce(softmax, "ReduceMax", maxima, f"{name}/largest")
    scale = np.full((1, 1, 1, 1), 0.5 * math.log(positions), np.float32)
    shift = editor.add(
        softmax, "Add", [largest, editor.constant(f"{name}/scale", scale)], f"{name}/shift"
    )
    below = editor.add(softmax, "Sub", [logits, shift], f"{name}/below")
    weights = editor.add(softmax, "Exp", [below], f"{name}/weights")
    means = editor.add(softmax, "AveragePool", [weights], f"{name}/sums", **grid)
    average = editor.reduce(softmax, "ReduceMean", means, f"{name}/mean")
    count = editor.constant(f"{name}/positions", np.full((1, 1, 1, 1), positions, np.float32))
    total = editor.add(softmax, "Mul", [average, count], f"{name}/sum")
    rows = editor.constant(f"{name}/rows", np.array([batch, channels, positions], np.int64))
    column = editor.constant(f"{name}/column", np.array([batch, positions, 1], np.int64))
    vector = editor.constant(f"{name}/vector", np.array([batch, channels, 1, 1], np.int64))
    flat = editor.add(product, "Reshape", [features, rows], f"{name}/flat")
    flat_weights = editor.add(product, "Reshape", [weights, column], f"{name}/flat_weights")
    summed = editor.add(product, "MatMul", [flat, flat_weights], f"{name}/product")
    return editor.add(product, "Reshape", [summed, vector], f"{name}/total"), total, shift
