"""Attention that fuses feature maps: channel gates of several streams (SKFF), and the tail of the
dual attention unit (DAU)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.graph.rewrite.edit import (
    Changes,
    GraphEditor,
    attribute,
    input_of,
    is_pointwise_conv,
    source_of,
)

if TYPE_CHECKING:
    from onnx_ir import Node, Value


def weighted_sums(editor: GraphEditor) -> Changes:
    """Selective kernel fusion without concatenation and five dimensions.

    softmax(a)_k = exp(a_k - m) / sum_j exp(a_j - m) with m = max_j a_j, channel by channel; of two
    logits it is sigmoid(a_0 - a_1), where a_0 - a_1 = (W_0 - W_1) z is one convolution. The sum
    of two maps whose gates add up to one is x_1 + g (x_0 - x_1).
    """
    for softmax in editor.nodes("Softmax"):
        logits = _stacked(editor, softmax)
        gates = _unstacked(editor, softmax) if len(logits) > 1 else {}
        if gates and sorted(gates) == list(range(len(logits))):
            combine = _two_way if len(logits) == 2 else _many_way
            yield combine(editor, softmax, logits, [gates[k] for k in sorted(gates)])


def _stacked(editor: GraphEditor, softmax: Node) -> list[Value]:
    """The (N, C, 1, 1) logits that were stacked on axis 1 in front of a softmax over it; none
    where it is over another axis."""
    concat = source_of(softmax, "Concat")
    if concat is None or not 1 == attribute(softmax, "axis", -1) == attribute(concat, "axis", -1):
        return []
    batch, _, *rest = editor.dims(softmax.outputs[0])
    logits = []
    for index in range(len(concat.inputs)):
        unsqueeze = source_of(concat, "Unsqueeze", index)
        if unsqueeze is None or editor.dims(input_of(unsqueeze)) != (batch, *rest):
            return []
        logits.append(input_of(unsqueeze))
    return logits


def _unstacked(editor: GraphEditor, softmax: Node) -> dict[int, Value]:
    """The (N, C, 1, 1) gates that are sliced out of the softmax, each by its place in it; none
    where it is read otherwise."""
    batch, _, *rest = editor.dims(softmax.outputs[0])
    # A cut of this shape is along axis 1: along another, all gates would be left.
    cut_and_squeezed = [(batch, 1, *rest), (batch, *rest)]
    gates: dict[int, Value] = {}
    for cut in softmax.outputs[0].consumers():
        squeeze = editor.only_use(cut.outputs[0])
        start = editor.array(cut.inputs[1]) if cut.op_type == "Slice" else None
        if squeeze is None or squeeze.op_type != "Squeeze" or start is None or start.size != 1:
            return {}
        if [editor.dims(node.outputs[0]) for node in (cut, squeeze)] != cut_and_squeezed:
            return {}
        gates[int(start[0])] = squeeze.outputs[0]
    return gates


def _two_way(
    editor: GraphEditor, softmax: Node, logits: list[Value], gates: list[Value]
) -> dict[Value, Value]:
    name = softmax.name
    difference = _difference_of_convs(editor, softmax, logits)
    if difference is None:
        difference = editor.add(softmax, "Sub", logits, f"{name}/difference")
    gate = editor.add(softmax, "Sigmoid", [difference], f"{name}/gate")
    found = _weighted_sum(editor, gates)
    if found is None:
        ones = np.ones((1,) * len(editor.dims(gates[0])), np.float32)
        one = editor.constant(f"{name}/one", ones)
        return {gates[0]: gate, gates[1]: editor.add(softmax, "Sub", [one, gate], f"{name}/other")}
    first, second, total = found
    step = editor.add(total, "Sub", [first, second], f"{total.name}/step")
    scaled = editor.add(total, "Mul", [step, gate], f"{total.name}/gated")
    return {total.outputs[0]: editor.add(total, "Add", [second, scaled], f"{total.name}/fused")}


def _weighted_sum(editor: GraphEditor, gates: list[Value]) -> tuple[Value, Value, Node] | None:
    """(x_0, x_1, the node that adds gate_0 x_0 and gate_1 x_1), where that is all the gates do."""
    maps: list[Value] = []
    totals: list[Node | None] = []
    for gate in gates:
        product = editor.only_use(gate)
        if product is None or product.op_type != "Mul":
            return None
        # None where a gate is multiplied with itself.
        maps.extend(value for value in product.inputs if value is not None and value is not gate)
        totals.append(editor.only_use(product.outputs[0]))
    total = totals[0]
    if total is None or total is not totals[1] or total.op_type != "Add" or len(maps) != 2:
        return None
    return maps[0], maps[1], total


def _difference_of_convs(editor: GraphEditor, before: Node, logits: list[Value]) -> Value | None:
    first, second = (value.producer() for value in logits)
    if not is_pointwise_conv(first) or not is_pointwise_conv(second):
        return None
    weights = [editor.array(conv.inputs[1]) for conv in (first, second)]
    if first.inputs[0] is not second.inputs[0] or weights[0] is None or weights[1] is None:
        return None
    name = input_of(first, 1).name
    weight = editor.constant(f"{name}/difference", weights[0] - weights[1])
    return editor.mix(before, input_of(first), weight, f"{name}/logit")


def _many_way(
    editor: GraphEditor, softmax: Node, logits: list[Value], gates: list[Value]
) -> dict[Value, Value]:
    name = softmax.name
    largest = editor.add(softmax, "Max", logits, f"{name}/largest")
    powers = []
    for index, logit in enumerate(logits):
        shifted = editor.add(softmax, "Sub", [logit, largest], f"{name}/shifted.{index}")
        powers.append(editor.add(softmax, "Exp", [shifted], f"{name}/exp.{index}"))
    total = editor.add(softmax, "Sum", powers, f"{name}/sum")
    return {
        gate: editor.add(softmax, "Div", [power, total], f"{name}/gate.{index}")
        for index, (power, gate) in enumerate(zip(powers, gates))
    }


def attention_tails(editor: GraphEditor) -> Changes:
    """The dual attention unit's 1x1 convolution without the concatenation in front of it.

    W [s r; c r] = s (W_s r) + W_c (c r): the spatial gate s has one channel, so it commutes with
    a convolution that mixes channels.
    """
    for conv in editor.nodes("Conv"):
        concat, weight = source_of(conv, "Concat"), editor.array(conv.inputs[1])
        if concat is None or weight is None or not is_pointwise_conv(conv):
            continue
        if len(concat.inputs) != 2 or attribute(concat, "axis", 0) != 1:
            continue
        first, second = (_gated(editor, input_of(concat, index)) for index in (0, 1))
        if first is None or second is None:
            continue
        (features, spatial), (same, channel) = first, second
        if features is not same or editor.dims(spatial)[1] != 1:
            continue
        n = editor.dims(features)[1]
        name = input_of(conv, 1).name
        w_s = editor.constant(f"{name}/spatial", weight[:, :n])
        w_c = editor.constant(f"{name}/channel", weight[:, n:])
        mixed = editor.mix(conv, features, w_s, f"{name}/spatial/mixed")
        scaled = editor.add(conv, "Mul", [mixed, spatial], f"{name}/spatial/gated")
        gated = editor.add(conv, "Mul", [features, channel], f"{name}/channel/gated")
        other = editor.mix(conv, gated, w_c, f"{name}/channel/mixed")
        yield {conv.outputs[0]: editor.add(conv, "Add", [scaled, other], f"{name}/sum")}


def _gated(editor: GraphEditor, value: Value) -> tuple[Value, Value] | None:
    """(features, gate) of their product."""
    product = value.producer()
    if product is None or product.op_type != "Mul" or editor.only_use(value) is None:
        return None
    factors = (input_of(product), input_of(product, 1))
    features, gate = sorted(factors, key=editor.size, reverse=True)
    return features, gate
