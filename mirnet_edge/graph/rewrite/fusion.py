"""Attention that fuses feature maps: channel gates of several streams (SKFF), and the tail of the
dual attention unit (DAU)."""

from __future__ import annotations

import numpy as np

from mirnet_edge.graph.rewrite.edit import GraphEditor, Node, Value, attribute, is_pointwise_conv


def weighted_sums(editor: GraphEditor) -> int:
    """Selective kernel fusion without concatenation and five dimensions.

    softmax(a)_k = exp(a_k - m) / sum_j exp(a_j - m) with m = max_j a_j, channel by channel; of two
    logits it is sigmoid(a_0 - a_1), where a_0 - a_1 = (W_0 - W_1) z is one convolution. The sum
    of two maps whose gates add up to one is x_1 + g (x_0 - x_1).
    """
    changed = 0
    for softmax in editor.nodes("Softmax"):
        logits = _stacked(softmax)
        gates = _unstacked(editor, softmax)
        if logits is None or gates is None or len(logits) != len(gates):
            continue
        if len(logits) == 2:
            _two_way(editor, softmax, logits, gates)
        else:
            _many_way(editor, softmax, logits, gates)
        changed += 1
    return changed


def _stacked(softmax: Node) -> list[Value] | None:
    """The (N, C, 1, 1) logits that were stacked on axis 1 in front of a softmax over it."""
    concat = softmax.inputs[0].producer()
    if concat is None or concat.op_type != "Concat" or attribute(softmax, "axis", -1) != 1:
        return None
    unsqueezes = [value.producer() for value in concat.inputs]
    if any(node is None or node.op_type != "Unsqueeze" for node in unsqueezes):
        return None
    return [node.inputs[0] for node in unsqueezes]


def _unstacked(editor: GraphEditor, softmax: Node) -> list[Value] | None:
    """The (N, C, 1, 1) gates that are sliced out of the softmax, in order."""
    gates: dict[int, Value] = {}
    for cut in softmax.outputs[0].consumers():
        squeeze = editor.only_use(cut.outputs[0])
        if cut.op_type != "Slice" or squeeze is None or squeeze.op_type != "Squeeze":
            return None
        start = editor.array(cut.inputs[1])
        if start is None:
            return None
        gates[int(start[0])] = squeeze.outputs[0]
    return [gates[k] for k in sorted(gates)]


def _two_way(editor: GraphEditor, softmax: Node, logits: list[Value], gates: list[Value]) -> None:
    difference = _difference_of_convs(editor, softmax, logits)
    if difference is None:
        difference = editor.add(softmax, "Sub", logits, f"{softmax.name}/difference")
    gate = editor.add(softmax, "Sigmoid", [difference], f"{softmax.name}/gate")
    found = _weighted_sum(editor, gates)
    if found is None:
        one = editor.constant(f"{softmax.name}/one", np.ones((1, 1, 1, 1), np.float32))
        editor.replace(gates[0], gate)
        editor.replace(gates[1], editor.add(softmax, "Sub", [one, gate], f"{softmax.name}/other"))
        return
    first, second, total = found
    name = total.name
    step = editor.add(total, "Sub", [first, second], f"{name}/step")
    scaled = editor.add(total, "Mul", [step, gate], f"{name}/gated")
    editor.replace(total.outputs[0], editor.add(total, "Add", [second, scaled], f"{name}/fused"))


def _weighted_sum(editor: GraphEditor, gates: list[Value]) -> tuple[Value, Value, Node] | None:
    """(x_0, x_1, the node that adds gate_0 x_0 and gate_1 x_1), where that is all the gates do."""
    products: list[Node] = [editor.only_use(gate) for gate in gates]
    if any(product is None or product.op_type != "Mul" for product in products):
        return None
    totals: list[Node] = [editor.only_use(product.outputs[0]) for product in products]
    total = totals[0]
    if total is None or total is not totals[1] or total.op_type != "Add":
        return None
    first, second = (
        next(value for value in product.inputs if value is not gate)
        for product, gate in zip(products, gates)
    )
    return first, second, total


def _difference_of_convs(editor: GraphEditor, before: Node, logits: list[Value]) -> Value | None:
    convs = [value.producer() for value in logits]
    if not all(is_pointwise_conv(conv) for conv in convs):
        return None
    if convs[0].inputs[0] is not convs[1].inputs[0]:
        return None
    weights = [editor.array(conv.inputs[1]) for conv in convs]
    if weights[0] is None or weights[1] is None:
        return None
    name = convs[0].inputs[1].name
    weight = editor.constant(f"{name}/difference", weights[0] - weights[1])
    return editor.add(
        before, "Conv", [convs[0].inputs[0], weight], f"{name}/logit", kernel_shape=[1, 1]
    )


def _many_way(editor: GraphEditor, softmax: Node, logits: list[Value], gates: list[Value]) -> None:
    name = softmax.name
    largest = editor.add(softmax, "Max", logits, f"{name}/largest")
    powers = []
    for index, logit in enumerate(logits):
        shifted = editor.add(softmax, "Sub", [logit, largest], f"{name}/shifted.{index}")
        powers.append(editor.add(softmax, "Exp", [shifted], f"{name}/exp.{index}"))
    total = editor.add(softmax, "Sum", powers, f"{name}/sum")
    for index, (power, gate) in enumerate(zip(powers, gates)):
        editor.replace(gate, editor.add(softmax, "Div", [power, total], f"{name}/gate.{index}"))


def attention_tails(editor: GraphEditor) -> int:
    """The dual attention unit's 1x1 convolution without the concatenation in front of it.

    W [s r; c r] = s (W_s r) + W_c (c r): the spatial gate s has one channel, so it commutes with
    a convolution that mixes channels.
    """
    changed = 0
    for conv in editor.nodes("Conv"):
        concat = conv.inputs[0].producer()
        if not is_pointwise_conv(conv) or concat is None or concat.op_type != "Concat":
            continue
        halves = [_gated(editor, value) for value in concat.inputs]
        weight = editor.array(conv.inputs[1])
        if len(halves) != 2 or None in halves or weight is None:
            continue
        (features, spatial), (same, channel) = halves  # type: ignore[misc]
        if features is not same or editor.dims(spatial)[1] != 1:
            continue
        n = editor.dims(features)[1]
        name = conv.inputs[1].name
        mix = {"kernel_shape": [1, 1]}
        w_s = editor.constant(f"{name}/spatial", weight[:, :n])
        w_c = editor.constant(f"{name}/channel", weight[:, n:])
        mixed = editor.add(conv, "Conv", [features, w_s], f"{name}/spatial/mixed", **mix)
        scaled = editor.add(conv, "Mul", [mixed, spatial], f"{name}/spatial/gated")
        gated = editor.add(conv, "Mul", [features, channel], f"{name}/channel/gated")
        other = editor.add(conv, "Conv", [gated, w_c], f"{name}/channel/mixed", **mix)
        editor.replace(conv.outputs[0], editor.add(conv, "Add", [scaled, other], f"{name}/sum"))
        changed += 1
    return changed


def _gated(editor: GraphEditor, value: Value) -> tuple[Value, Value] | None:
    """(features, gate) of their product."""
    product = value.producer()
    if product is None or product.op_type != "Mul" or editor.only_use(value) is None:
        return None
    features, gate = product.inputs
    if editor.size(gate) > editor.size(features):
        features, gate = gate, features
    return features, gate
