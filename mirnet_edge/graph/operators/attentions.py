"""The attention of dual attention units by our operators: all its pools in one pass, the channels'
weights, and both weighted copies of the features, which one convolution mixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.graph.operators.maps import OCTET, is_map, rows_of
from mirnet_edge.graph.operators.means import is_mean
from mirnet_edge.graph.operators.squeezes import SLOPES, squeeze_of
from mirnet_edge.graph.rewrite.edit import (
    Changes,
    GraphEditor,
    attribute,
    input_of,
    is_plain_conv,
    is_pointwise_conv,
    source_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx_ir import Node, Value

SIDE = 5
"""Of the convolution of the planes, as dual_gate has it."""


@dataclass(frozen=True)
class _Attention:
    """W_s (s y) + W_c (c y): s a sigmoid of a convolution of the largest and the mean channel, c a
    vector (N, C, 1, 1).

    Attributes:
        weight: (out, 2 C, 1, 1), W_s and W_c beside each other.
    """

    features: Value
    spatial: NDArray[Any]
    channel: Value
    weight: NDArray[Any]


def attentions(editor: GraphEditor) -> Changes:
    """Dual attention, as `fusion.attention_tails` writes it."""
    for add in editor.nodes("Add"):
        found = _attention(editor, add)
        if found is None:
            continue
        name, features = f"{add.name}/attention", found.features
        names = [f"{name}/planes", f"{name}/rows"]
        rows = rows_of(editor, features)
        planes, sums = editor.own(add, "MirnetAttentionPools", [features], names, rows=rows)
        gate = _channel_gate(editor, add, found, sums, f"{name}/gate")
        spatial = editor.constant(f"{name}/spatial", found.spatial)
        inputs = [features, planes, spatial, gate]
        (both,) = editor.own(add, "MirnetDualGate", inputs, [f"{name}/both"])
        weight = editor.constant(f"{name}/weight", found.weight)
        yield {add.outputs[0]: editor.mix(add, both, weight, f"{name}/mixed")}


def _channel_gate(
    editor: GraphEditor, add: Node, found: _Attention, sums: Value, name: str
) -> Value:
    """The weights of channels by our operator, where they are made of the mean of the features;
    else as they come."""
    sigmoid = found.channel.producer()
    if sigmoid is None or sigmoid.op_type != "Sigmoid":
        return found.channel
    made = squeeze_of(editor, input_of(sigmoid), activations=SLOPES)
    if made is None or not is_mean(editor, made.source, found.features):
        return found.channel
    inputs = [sums, *made.constants(editor, name)]
    (gate,) = editor.own(add, "MirnetChannelGate", inputs, [name], slope=made.slope)
    return gate


def _attention(editor: GraphEditor, add: Node) -> _Attention | None:
    spatially, by_channel = source_of(add, "Mul"), source_of(add, "Conv", 1)
    mixed = None if spatially is None else source_of(spatially, "Conv")
    gated = source_of(by_channel, "Mul") if is_pointwise_conv(by_channel) else None
    if spatially is None or gated is None or not is_pointwise_conv(mixed):
        return None
    features, channel = input_of(gated), input_of(gated, 1)
    weights = [editor.array(conv.inputs[1]) for conv in (mixed, by_channel) if conv is not None]
    first, second = weights
    if first is None or second is None or input_of(mixed) is not features:
        return None
    if not is_map(editor, features) or editor.dims(features)[1] % OCTET:
        return None
    batch, channels, *_ = editor.dims(features)
    spatial = _spatial_weight(editor, input_of(spatially, 1), features)
    alone = all(editor.only_use(v) for v in (add.inputs[0], add.inputs[1]) if v is not None)
    if spatial is None or not alone or editor.dims(channel) != (batch, channels, 1, 1):
        return None
    return _Attention(features, spatial, channel, np.concatenate([first, second], 1))


def _spatial_weight(editor: GraphEditor, gate: Value, features: Value) -> NDArray[Any] | None:
    """The convolution's weight (2, 5, 5), where ``gate`` is the sigmoid of one of the largest and
    the mean channel of ``features``."""
    sigmoid = gate.producer()
    conv = source_of(sigmoid, "Conv") if sigmoid and sigmoid.op_type == "Sigmoid" else None
    planes = source_of(conv, "Concat") if is_plain_conv(conv) else None
    if planes is None or not is_plain_conv(conv) or len(planes.inputs) != 2:
        return None
    pools = [source_of(planes, kind, index) for index, kind in enumerate(_POOLS)]
    weight = editor.array(conv.inputs[1])
    fits = (
        attribute(planes, "axis", 0) == 1
        and all(pool is not None and _is_over_channels(pool, features) for pool in pools)
        and weight is not None
        and weight.shape == (1, 2, SIDE, SIDE)
        and list(attribute(conv, "pads", [0])) == [SIDE // 2] * 4
        and set(attribute(conv, "strides", [1])) == {1}
    )
    return weight[0] if fits and weight is not None else None


_POOLS = ("ReduceMax", "ReduceMean")


def _is_over_channels(pool: Node, features: Value) -> bool:
    axes, keeps = list(attribute(pool, "axes", [0])), attribute(pool, "keepdims", 1)
    return axes == [1] and keeps == 1 and input_of(pool) is features
