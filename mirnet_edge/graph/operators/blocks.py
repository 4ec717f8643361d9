"""Residual blocks by our operators, which give what the mean over the frame is made of too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeGuard

from mirnet_edge.graph.operators.contexts import context_vector
from mirnet_edge.graph.operators.maps import is_map, rows_of
from mirnet_edge.graph.rewrite.edit import (
    GraphEditor,
    attribute,
    input_of,
    is_plain_conv,
    source_of,
)

if TYPE_CHECKING:
    from onnx_ir import Node, Value

BLOCK_CHANNELS, BLOCK_TILE, MOST_BLOCK_ROWS = 32, (16, 30), 132
"""Of a residual block in one kernel: what it has shared memory for, the pixels it makes at once,
and its blocks of threads, one for each multiprocessor of an H100."""
BLOCK_SHARED_BYTES = 201_120
"""Of one of those blocks of threads: both kernels' weights, two tiles of what comes in and one of
what lies between, as residual_block.cuh counts them. An H100 has 232,448, an Orin 166,912."""


def residual_sum(
    editor: GraphEditor, value: Value, rows: dict[Value, Value], whole_blocks: bool
) -> dict[Value, Value]:
    """Replace leaky(a) + b by the operator that gives its partial sums too, with a vector that a
    context block adds to a, and with ``whole_blocks`` the convolutions that make a of b as well;
    nothing where ``value`` is no such sum."""
    add = value.producer()
    if add is None or add.op_type != "Add" or not is_map(editor, value):
        return {}
    for index in (0, 1):
        leaky = source_of(add, "LeakyRelu", index)
        if leaky is None or editor.only_use(leaky.outputs[0]) is not add:
            continue
        branch, skip = input_of(leaky), input_of(add, 1 - index)
        if not editor.dims(branch) == editor.dims(skip) == editor.dims(value):
            continue
        names = [f"{add.name}/residual_sum", f"{add.name}/residual_sum/rows"]
        slope = attribute(leaky, "alpha", 0.01)
        made = None
        if whole_blocks:
            made = _residual_block(editor, add, branch, skip, slope, names)
        if made is None:
            kind, inputs = "MirnetResidualSum", [branch, skip]
            if (parts := _with_vector(editor, branch)) is not None:
                features, vector = parts
                vector = context_vector(editor, add, vector, features)
                kind, inputs = "MirnetContextSum", [features, skip, vector]
            made = editor.own(add, kind, inputs, names, rows=rows_of(editor, value), slope=slope)
        total, rows[value] = made
        return {value: total}
    return {}


def _with_vector(editor: GraphEditor, branch: Value) -> tuple[Value, Value] | None:
    """Features (N, C, H, W) and the vector (N, C, 1, 1) that ``branch`` is the sum of."""
    add = branch.producer()
    if add is None or add.op_type != "Add" or editor.only_use(branch) is None:
        return None
    batch, channels, *_ = editor.dims(branch)
    for index in (0, 1):
        features, vector = input_of(add, index), input_of(add, 1 - index)
        alike = editor.dims(features) == editor.dims(branch)
        if alike and editor.dims(vector) == (batch, channels, 1, 1):
            return features, vector
    return None


def _residual_block(
    editor: GraphEditor, add: Node, branch: Value, skip: Value, last_slope: float, names: list[str]
) -> list[Value] | None:
    """The whole block in one operator, where ``branch`` is made of ``skip`` by two convolutions
    that it has room for."""
    second = branch.producer()
    if not _is_block_conv(second, editor):
        return None
    leaky = source_of(second, "LeakyRelu")
    first = None if leaky is None else source_of(leaky, "Conv")
    if leaky is None or not _is_block_conv(first, editor) or input_of(first) is not skip:
        return None
    inner = (first.outputs[0], leaky.outputs[0], branch)
    weights = [editor.array(conv.inputs[1]) for conv in (first, second)]
    if any(editor.only_use(value) is None for value in inner):
        return None
    tables = []
    for weight in weights:
        if weight is None:
            return None
        # (out, in, 3, 3) to (tap, out, in).
        taps = weight.transpose(2, 3, 0, 1).reshape(9, *weight.shape[:2])
        tables.append(editor.constant(f"{add.name}/taps", taps))
    sides = zip(editor.dims(skip)[2:], BLOCK_TILE)
    rows = min(math.prod(-(-side // tile) for side, tile in sides), MOST_BLOCK_ROWS)
    slopes = {"slope": attribute(leaky, "alpha", 0.01), "last_slope": last_slope}
    inputs = [skip, *tables]
    return editor.own(add, "MirnetResidualBlock", inputs, names, rows=rows, **slopes)


def _is_block_conv(node: Node | None, editor: GraphEditor) -> TypeGuard[Node]:
    return (
        is_plain_conv(node)
        and list(attribute(node, "kernel_shape", [0])) == [3, 3]
        and set(attribute(node, "strides", [1])) == {1}
        and list(attribute(node, "pads", [0])) == [1] * 4
        and editor.dims(input_of(node, 1))[:2] == (BLOCK_CHANNELS, BLOCK_CHANNELS)
    )
