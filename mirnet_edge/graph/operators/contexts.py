"""Context blocks by our operators: a mean over the frame whose weights are a softmax over all
positions, and what two convolutions make of it to be added to each channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.graph.operators.maps import MOST_CHANNELS
from mirnet_edge.graph.operators.means import is_mean
from mirnet_edge.graph.operators.squeezes import squeeze_of
from mirnet_edge.graph.rewrite.edit import GraphEditor, input_of, is_pointwise_conv, source_of

if TYPE_CHECKING:
    from onnx_ir import Node, Value

EXTRA = 4
"""Floats of a row beside its channels' sums: the largest logit, the sum of weights, two zeros."""
MOST_ROWS, POSITIONS_A_ROW = 132, 64
"""Blocks of threads, each with its row: one for each multiprocessor of an H100, fewer where each
would have few positions. Any number is correct."""


def context_vector(editor: GraphEditor, before: Node, vector: Value, features: Value) -> Value:
    """What our operators make of ``features`` instead of ``vector`` (N, C, 1, 1), where that is
    what a context block adds to them; else ``vector``."""
    found = squeeze_of(editor, vector, MOST_CHANNELS - EXTRA)
    conv = None if found is None else _mask_of_mean(editor, found.source, features)
    table = None if conv is None else editor.array(conv.inputs[1])
    if found is None or table is None:
        return vector
    name = f"{before.name}/context"
    height, width = editor.dims(features)[2:]
    rows = min(-(-height * width // POSITIONS_A_ROW), MOST_ROWS)
    mask = editor.constant(f"{name}/mask", table.reshape(-1).astype(np.float32))
    (sums,) = editor.own(before, "MirnetContextRows", [features, mask], [f"{name}/rows"], rows=rows)
    inputs = [sums, *found.constants(editor, name)]
    (made,) = editor.own(before, "MirnetContextVector", inputs, [name], slope=found.slope)
    return made


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
