"""Selective kernel fusion by our operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.graph.operators.blocks import residual_sum
from mirnet_edge.graph.operators.maps import MOST_CHANNELS, is_map
from mirnet_edge.graph.operators.means import is_mean
from mirnet_edge.graph.operators.squeezes import Squeeze, squeeze_of
from mirnet_edge.graph.rewrite.convolutions import is_doubling
from mirnet_edge.graph.rewrite.edit import (
    Changes,
    GraphEditor,
    input_of,
    is_pointwise_conv,
    source_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx_ir import Node, Value


@dataclass(frozen=True)
class _Fusion:
    """x_1 + g (x_0 - x_1) where x_1 is ``small`` doubled; and where g is made of both means, what
    it is made of them by."""

    total: Value
    large: Value
    small: Value
    gate: Value
    weights: _GateWeights | None


@dataclass(frozen=True)
class _GateWeights:
    """sigmoid(expand leaky(squeeze (mean(large) + mix mean(source)))): ``small`` is ``source``
    under the 1x1 convolution ``mix``, transposed as the kernel reads it."""

    source: Value
    mix: NDArray[Any]
    squeeze: Squeeze


def fusions(editor: GraphEditor, whole_blocks: bool) -> Changes:
    """Selective kernel fusion: one pass for each sum that it takes means of, one small kernel for
    the gates, one pass for doubling and the weighted sum."""
    found = [f for node in editor.nodes("Add") if (f := _fusion(editor, node)) is not None]
    changed: dict[Value, Value] = {}
    # Partial sums whose rows add up to the mean of a map.
    rows: dict[Value, Value] = {}
    made = {fusion.total for fusion in found}
    for fusion in found:
        weights, gate = fusion.weights, fusion.gate
        before = fusion.total.producer()
        assert before is not None
        if weights is not None:
            for value in (fusion.large, weights.source):
                if value not in rows and value not in made:
                    changed |= residual_sum(editor, value, rows, whole_blocks)
            if fusion.large in rows and weights.source in rows:
                gate, mean = _gate(editor, before, fusion, weights, rows)
                rows[fusion.total] = mean
        name = f"{before.name}/gated_sum"
        inputs = [fusion.large, fusion.small, gate]
        (total,) = editor.own(before, "MirnetGatedSum", inputs, [name])
        changed[fusion.total] = total
    if changed:
        yield changed


def _gate(
    editor: GraphEditor,
    before: Node,
    fusion: _Fusion,
    weights: _GateWeights,
    rows: dict[Value, Value],
) -> list[Value]:
    name = f"{before.name}/gate"
    mix = editor.constant(f"{name}/mix", np.ascontiguousarray(weights.mix, np.float32))
    tables = weights.squeeze.constants(editor, name)
    inputs = [rows[fusion.large], rows[weights.source], mix, *tables]
    names = [name, f"{name}/mean"]
    return editor.own(before, "MirnetFusionGate", inputs, names, slope=weights.squeeze.slope)


def _fusion(editor: GraphEditor, add: Node) -> _Fusion | None:
    """The fusion that ends in ``add``, as `fusion.weighted_sums` writes it."""
    scaled = source_of(add, "Mul", 1)
    step = None if scaled is None else source_of(scaled, "Sub")
    if scaled is None or step is None:
        return None
    large, doubled, gate = input_of(step), input_of(step, 1), input_of(scaled, 1)
    resize = doubled.producer()
    if doubled is not input_of(add) or resize is None or not is_doubling(editor, resize):
        return None
    total, small = add.outputs[0], input_of(resize)
    batch, channels, *_ = editor.dims(total)
    same = editor.dims(large) == editor.dims(doubled) == editor.dims(total)
    if not same or not is_map(editor, total):
        return None
    if editor.dims(gate) != (batch, channels, 1, 1):
        return None
    return _Fusion(total, large, small, gate, _gate_weights(editor, gate, large, small))


def _gate_weights(
    editor: GraphEditor, gate: Value, large: Value, small: Value
) -> _GateWeights | None:
    """What a gate is made by, where it is made of the means of both inputs and nothing else."""
    sigmoid, mix = gate.producer(), small.producer()
    if sigmoid is None or sigmoid.op_type != "Sigmoid" or not is_pointwise_conv(mix):
        return None
    made, table = squeeze_of(editor, input_of(sigmoid)), editor.array(mix.inputs[1])
    both = None if made is None else made.source.producer()
    if made is None or both is None or both.op_type != "Add":
        return None
    if table is None or max(table.shape) > MOST_CHANNELS:
        return None
    first, second = input_of(both), input_of(both, 1)
    if not (is_mean(editor, first, large) and is_mean(editor, second, small)):
        return None
    return _GateWeights(input_of(mix), table[:, :, 0, 0].T, made)
