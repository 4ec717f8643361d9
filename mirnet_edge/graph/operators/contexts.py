"""Context blocks by our operators: a mean over the frame whose weights are a softmax over all
positions, and what two convolutions make of it to be added to each channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.graph.operators.maps import MOST_CHANNELS
from mirnet_edge.graph.operators.means import is_mean
from mirnet_edge.graph.rewrite.edit import (
    GraphEditor,
    attribute,
    input_of,
    is_pointwise_conv,
    source_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx_ir import Node, Value

EXTRA = 4
"""Floats of a row beside its channels' sums: the largest logit, the sum of weights, two zeros."""
MOST_ROWS, POSITIONS_A_ROW = 132, 64
"""Blocks of threads, each with its row: one for each multiprocessor of an H100, fewer where each
would have few positions. Any number is correct."""


@dataclass(frozen=True)
class _Context:
    """expand leaky(squeeze mean), the mean by the softmax of mask x. Tables are transposed, as the
    kernels read them."""

    mask: NDArray[Any]
    squeeze: NDArray[Any]
    expand: NDArray[Any]
    slope: float


def context_vector(editor: GraphEditor, before: Node, vector: Value, features: Value) -> Value:
    """What our operators make of ``features`` instead of ``vector`` (N, C, 1, 1), where that is
    what a context block adds to them; else ``vector``."""
    found = _context(editor, vector, features)
    if found is None:
        return vector
    name = f"{before.name}/context"
    height, width = editor.dims(features)[2:]
    rows = min(-(-height * width // POSITIONS_A_ROW), MOST_ROWS)
    mask, squeeze, expand = (
        editor.constant(f"{name}/{key}", np.ascontiguousarray(table, np.float32))
        for key, table in (
            ("mask", found.mask), ("squeeze", found.squeeze), ("expand", found.expand)
        )
    )  # fmt: skip
    (sums,) = editor.own(before, "MirnetContextRows", [features, mask], [f"{name}/rows"], rows=rows)
    inputs = [sums, squeeze, expand]
    (made,) = editor.own(before, "MirnetContextVector", inputs, [name], slope=found.slope)
    return made


def _context(editor: GraphEditor, vector: Value, features: Value) -> _Context | None:
    expand = vector.producer()
    leaky = source_of(expand, "LeakyRelu") if is_pointwise_conv(expand) else None
    squeeze = None if leaky is None else source_of(leaky, "Conv")
    if leaky is None or not is_pointwise_conv(expand) or not is_pointwise_conv(squeeze):
        return None
    mask = _mask_of_mean(editor, input_of(squeeze), features)
    if mask is None:
        return None
    tables = [editor.array(conv.inputs[1]) for conv in (mask, squeeze, expand)]
    if any(table is None or max(table.shape) + EXTRA > MOST_CHANNELS for table in tables):
        return None
    masked, squeezed, expanded = (table[:, :, 0, 0].T for table in tables if table is not None)
    return _Context(masked[:, 0], squeezed, expanded, attribute(leaky, "alpha", 0.01))


def _mask_of_mean(editor: GraphEditor, mean: Value, features: Value) -> Node | None:
    """The convolution to the logits of a mean of ``features``, as `pools.spatial_softmaxes` writes
    it: what the logits are shifted by falls out of the quotient."""
    quotient = mean.producer()
    if quotient is None or quotient.op_type != "Div":
        return None
    total, count = source_of(quotient, "Reshape"), source_of(quotient, "Mul", 1)
    product = None if total is None else source_of(total, "MatMul")
    if count is None or product is None:
        return None
    flat, flat_weights = source_of(product, "Reshape"), source_of(product, "Reshape", 1)
    exp = None if flat_weights is None else source_of(flat_weights, "Exp")
    below = None if exp is None else source_of(exp, "Sub")
    mask = None if below is None else source_of(below, "Conv")
    if flat is None or exp is None or below is None or not is_pointwise_conv(mask):
        return None
    batch, channels, height, width = editor.dims(features)
    positions = editor.array(input_of(count, 1))
    shift = editor.dims(input_of(below, 1))
    same = (
        input_of(flat) is features
        and input_of(mask) is features
        and editor.dims(flat.outputs[0]) == (batch, channels, height * width)
        and editor.dims(exp.outputs[0]) == (batch, 1, height, width)
        and shift == (batch, 1, 1, 1)
        and editor.dims(mean) == (batch, channels, 1, 1)
        and positions is not None
        and positions.size == 1
        and float(positions.item()) == height * width
        and is_mean(editor, input_of(count), exp.outputs[0])
    )
    return mask if same else None
