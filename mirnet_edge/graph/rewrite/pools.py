"""Reductions over the whole frame: of smaller maps, in stages, safe in FP16."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mirnet_edge.graph.rewrite.convolutions import is_doubling
from mirnet_edge.graph.rewrite.edit import (
    Changes,
    GraphEditor,
    attribute,
    input_of,
    is_frame_mean,
    is_pointwise_conv,
    source_of,
)

if TYPE_CHECKING:
    from onnx_ir import Node, Value


def means_through_linear_maps(editor: GraphEditor) -> Changes:
    """The mean of a linear map of a frame is the same map of the mean.

    Of a sum, the sum of the means (so the sum itself need not be written); of a 1x1 convolution,
    the convolution of the mean; of a map times a gate per channel, the mean times the gate; of
    bilinear upsampling by two, the mean of the small map: each pixel's weights add up to 2 along
    each axis, at the borders too, where 1 + 3/4 + 1/4 of it are taken. Means of maps that several
    fusions share are taken once, and a step is taken only where it saves bytes.
    """
    means = _Means(editor)
    for node in editor.nodes("ReduceMean"):
        if is_frame_mean(editor, node):
            mean = means.of(input_of(node), node)
            if mean is not node.outputs[0]:
                yield {node.outputs[0]: mean}


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
        if parts is not None and sum(map(self._cost, parts)) < self._cost_of_map(value):
            mean = self._rebuilt(value, parts, reduction)
        elif value is reduction.inputs[0]:
            mean = reduction.outputs[0]
        else:
            mean = self._editor.reduce(reduction, "ReduceMean", value, f"{value.name}/mean")
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
        name = f"{value.name}/mean"
        if node.op_type == "Conv":
            return self._editor.mix(reduction, means[0], input_of(node, 1), name)
        return self._editor.add(reduction, node.op_type, means, name)

    def _cost_of_map(self, value: Value) -> int:
        """Elements read to take the mean directly, and those read and written only to make the map
        where nothing but means needs it; none where the mean is known."""
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
        """Of the mean of the map, or of those of its parts, whichever is less."""
        cost = self._cost_of_map(value)
        parts = self._linear(value) if cost else None
        return cost if parts is None else min(cost, sum(map(self._cost, parts)))


STAGED_FROM_PX = 64 * 64
"""Smallest map whose mean is taken in two stages."""


def staged_means(editor: GraphEditor) -> Changes:
    """The mean of a large map is the mean of the means of its blocks. One reduction of 256x256
    positions keeps as many thread blocks busy as there are channels; 16x16 blocks first keep 256
    times as many."""
    # Which blocks divide a map is known of a fixed size only.
    for mean in editor.nodes("ReduceMean") if editor.fixed else ():
        value = input_of(mean)
        if not is_frame_mean(editor, mean) or value.producer() is None:
            continue
        *_, height, width = editor.dims(value)
        blocks = [_block(height), _block(width)]
        # A side that is a prime number has no blocks.
        if height * width >= STAGED_FROM_PX and 1 not in blocks:
            coarse = editor.pool(mean, "AveragePool", value, blocks, f"{value.name}/blocks")
            yield {mean.outputs[0]: editor.reduce(mean, "ReduceMean", coarse, f"{value.name}/mean")}


def _block(extent: int) -> int:
    """The divisor of ``extent`` nearest to its square root, from below."""
    return next(side for side in range(math.isqrt(extent), 0, -1) if extent % side == 0)


def spatial_softmaxes(editor: GraphEditor) -> Changes:
    """The softmax over all positions in a form that FP16 holds.

    sum_p softmax(l)_p r_p = (sum_p e_p r_p) / (sum_p e_p), e_p = exp(l_p - max l) / sqrt(HW). The
    weights of the plain form lie near 1 / HW, below FP16's normal range from 256x256 on; those e_p
    lie near 1 / sqrt(HW), and both sums near sqrt(HW). Maximum and sum are taken in two stages:
    TensorRT 8.6's own softmax in FP32 takes 42 us on the average of maps of 256x256, 128x128 and
    64x64 on an H200. With it edge-s took 2.69 ms, PyTorch's CUDA graph 2.17 beside it; in this
    form, in another run, 2.17 beside 2.27.
    """
    for softmax in editor.nodes("Softmax") if editor.fixed else ():
        found = softmax_mean(editor, softmax)
        if found is not None:
            logits, features, product, view = found
            name, before = f"{softmax.name}", (softmax, product)
            summed, total, _ = softmax_sums(editor, logits, features, name, before)
            yield {view.outputs[0]: editor.add(product, "Div", [summed, total], f"{name}/context")}


def softmax_mean(editor: GraphEditor, softmax: Node) -> tuple[Value, Value, Node, Node] | None:
    """Around a softmax over all positions: the logits (N, 1, H, W), the features (N, C, H, W), the
    product of both, and the node that makes it the mean (N, C, 1, 1); None for any other softmax,
    such as one of several queries."""
    flat, transpose = source_of(softmax, "Reshape"), editor.only_use(softmax.outputs[0])
    if flat is None or transpose is None or transpose.op_type != "Transpose":
        return None
    product = editor.only_use(transpose.outputs[0])
    if product is None or product.op_type != "MatMul":
        return None
    table, view = source_of(product, "Reshape"), editor.only_use(product.outputs[0])
    if table is None or view is None or view.op_type not in ("Unsqueeze", "Reshape"):
        return None
    logits, features = input_of(flat), input_of(table)
    batch, channels, *frame = editor.dims(features)
    fits = (
        editor.dims(logits) == (batch, 1, *frame)
        and editor.dims(softmax.outputs[0]) == (batch, 1, math.prod(frame))
        and attribute(softmax, "axis", -1) in (-1, 2)
        and editor.dims(view.outputs[0]) == (batch, channels, 1, 1)
    )
    return (logits, features, product, view) if fits else None


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
    maxima = editor.pool(softmax, "MaxPool", logits, blocks, f"{name}/maxima")
    largest = editor.reduce(softmax, "ReduceMax", maxima, f"{name}/largest")
    scale = editor.number(f"{name}/scale", 0.5 * math.log(positions))
    shift = editor.add(softmax, "Add", [largest, scale], f"{name}/shift")
    below = editor.add(softmax, "Sub", [logits, shift], f"{name}/below")
    weights = editor.add(softmax, "Exp", [below], f"{name}/weights")
    means = editor.pool(softmax, "AveragePool", weights, blocks, f"{name}/sums")
    average = editor.reduce(softmax, "ReduceMean", means, f"{name}/mean")
    count = editor.number(f"{name}/positions", positions)
    total = editor.add(softmax, "Mul", [average, count], f"{name}/sum")
    rows = editor.integers(f"{name}/rows", batch, channels, positions)
    column = editor.integers(f"{name}/column", batch, positions, 1)
    vector = editor.integers(f"{name}/vector", batch, channels, 1, 1)
    flat = editor.add(product, "Reshape", [features, rows], f"{name}/flat")
    flat_weights = editor.add(product, "Reshape", [weights, column], f"{name}/flat_weights")
    summed = editor.add(product, "MatMul", [flat, flat_weights], f"{name}/product")
    return editor.add(product, "Reshape", [summed, vector], f"{name}/total"), total, shift
