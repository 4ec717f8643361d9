"""Operators of our own in place of chains that TensorRT does not fuse: see kernels/plugins.

They are put in last, once a graph has its types and its FP32 islands, and for TensorRT alone: no
other runtime knows their domain. What one computes is what the nodes it replaces do, in FP32 from
FP16 maps, each rounded once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from mirnet_edge.graph.rewrite.convolutions import is_doubling
from mirnet_edge.graph.rewrite.edit import (
    Changes,
    GraphEditor,
    attribute,
    input_of,
    is_frame_mean,
    is_plain_conv,
    is_pointwise_conv,
    source_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto
    from onnx_ir import Node, Value

OCTET = 8
"""Channels that a thread moves at once."""
MOST_CHANNELS = 512
SIDES = (2, 4)
"""Of blocks of pixels that the kernels have code for."""
ROWS = 264
"""Blocks of threads of a residual sum, each with its row of partial sums: two for each of an H100's
132 multiprocessors, which is what runs there at once. Any number is correct."""
BLOCK_CHANNELS, BLOCK_ROWS = 32, 132
"""Of a residual block in one kernel: what it has shared memory for, and its blocks of threads, one
for each multiprocessor of an H100."""
FUSIONS, INPUT, OUTPUT, BLOCKS = "fusions", "input", "output", "blocks"
GROUPS = (FUSIONS, INPUT, OUTPUT, BLOCKS)
"""What may be asked for by itself, to be measured: selective kernel fusion with the residual sums
in front of it, the two ends of the network, and residual blocks with both convolutions (of those in
front of a fusion)."""


def with_plugins(
    proto: ModelProto, groups: Collection[str] = GROUPS
) -> tuple[ModelProto, dict[str, int]]:
    """Put our operators into a graph that was rewritten for TensorRT, of fixed size.

    Args:
        proto: float32, without Q/DQ pairs.
        groups: which of `GROUPS`.

    Returns:
        The graph, whose nodes of ours no shape is inferred of, and how many of each there are.
    """
    editor = GraphEditor(proto)
    if FUSIONS in groups:
        editor.apply(lambda editor: fusions(editor, BLOCKS in groups))
    if INPUT in groups:
        editor.apply(unshuffled_input)
    if OUTPUT in groups:
        editor.apply(shuffled_output)
    counts: dict[str, int] = {}
    for node in editor.nodes():
        if node.domain == editor.OWN_DOMAIN:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return (editor.to_proto() if counts else proto), counts


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
    under the 1x1 convolution ``mix``. All transposed, as the kernel reads them."""

    source: Value
    mix: NDArray[Any]
    squeeze: NDArray[Any]
    expand: NDArray[Any]
    slope: float


def fusions(editor: GraphEditor, blocks: bool = False) -> Changes:
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
                    changed |= _residual_sum(editor, value, rows, blocks)
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
    tables = {"mix": weights.mix, "squeeze": weights.squeeze, "expand": weights.expand}
    constants = [
        editor.constant(f"{name}/{key}", table.astype(np.float32)) for key, table in tables.items()
    ]
    inputs = [rows[fusion.large], rows[weights.source], *constants]
    names = [name, f"{name}/mean"]
    return editor.own(before, "MirnetFusionGate", inputs, names, slope=weights.slope)


def _residual_sum(
    editor: GraphEditor, value: Value, rows: dict[Value, Value], blocks: bool
) -> dict[Value, Value]:
    """Replace leaky(a) + b by the operator that gives its partial sums too, with ``blocks`` the
    convolutions that make a of b as well; nothing where ``value`` is no such sum."""
    add = value.producer()
    if add is None or add.op_type != "Add" or not _in_octets(editor, value):
        return {}
    for index in (0, 1):
        leaky = source_of(add, "LeakyRelu", index)
        if leaky is None or editor.only_use(leaky.outputs[0]) is not add:
            continue
        inputs = [input_of(leaky), input_of(add, 1 - index)]
        if any(editor.dims(item) != editor.dims(value) for item in inputs):
            continue
        names = [f"{add.name}/residual_sum", f"{add.name}/residual_sum/rows"]
        slope = attribute(leaky, "alpha", 0.01)
        made = _residual_block(editor, add, *inputs, slope, names) if blocks else None
        if made is None:
            kind = "MirnetResidualSum"
            made = editor.own(add, kind, inputs, names, rows=ROWS, slope=slope)
        total, rows[value] = made
        return {value: total}
    return {}


def _residual_block(
    editor: GraphEditor, add: Node, branch: Value, skip: Value, last_slope: float, names: list[str]
) -> list[Value] | None:
    """The whole block in one operator, where ``branch`` is made of ``skip`` by two convolutions
    that it has room for."""
    second = branch.producer()
    leaky = source_of(second, "LeakyRelu") if _is_block_conv(editor, second) else None
    first = None if leaky is None else source_of(leaky, "Conv")
    if leaky is None or not _is_block_conv(editor, first) or input_of(first) is not skip:
        return None
    alone = [editor.only_use(value) for value in (first.outputs[0], leaky.outputs[0], branch)]
    if None in alone:
        return None
    tables = []
    for conv in (first, second):
        weight = editor.array(conv.inputs[1]) if conv is not None else None
        if weight is None:
            return None
        # (out, in, 3, 3) to (tap, out, in).
        taps = weight.transpose(2, 3, 0, 1).reshape(9, *weight.shape[:2])
        tables.append(editor.constant(f"{add.name}/taps", taps))
    slopes = {"slope": attribute(leaky, "alpha", 0.01), "last_slope": last_slope}
    inputs = [skip, *tables]
    return editor.own(add, "MirnetResidualBlock", inputs, names, rows=BLOCK_ROWS, **slopes)


def _is_block_conv(editor: GraphEditor, node: Node | None) -> TypeGuard[Node]:
    return (
        is_plain_conv(node)
        and list(attribute(node, "kernel_shape", [0])) == [3, 3]
        and set(attribute(node, "strides", [1])) == {1}
        and list(attribute(node, "pads", [0])) == [1] * 4
        and editor.dims(input_of(node, 1))[:2] == (BLOCK_CHANNELS, BLOCK_CHANNELS)
    )


def _in_octets(editor: GraphEditor, value: Value) -> bool:
    dims = editor.dims(value)
    return len(dims) == 4 and dims[1] % OCTET == 0 and dims[1] <= MOST_CHANNELS


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
    if not same or not _in_octets(editor, total):
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
    expand = source_of(sigmoid, "Conv")
    leaky = source_of(expand, "LeakyRelu") if is_pointwise_conv(expand) else None
    squeeze = None if leaky is None else source_of(leaky, "Conv")
    if leaky is None or not is_pointwise_conv(expand) or not is_pointwise_conv(squeeze):
        return None
    both = source_of(squeeze, "Add")
    if both is None:
        return None
    first, second = input_of(both), input_of(both, 1)
    if not (is_mean(editor, first, large) and is_mean(editor, second, small)):
        return None
    tables = [editor.array(conv.inputs[1]) for conv in (mix, squeeze, expand)]
    if any(table is None or max(table.shape) > MOST_CHANNELS for table in tables):
        return None
    transposed = [np.ascontiguousarray(table[:, :, 0, 0].T) for table in tables if table is not None]
    return _GateWeights(input_of(mix), *transposed, slope=attribute(leaky, "alpha", 0.01))


def is_mean(editor: GraphEditor, vector: Value, frame: Value) -> bool:
    """Whether ``vector`` is the mean of ``frame`` over all positions, taken of it or, as
    `pools.means_through_linear_maps` does, of what it is linear in."""
    node = vector.producer()
    if node is None:
        return False
    if is_frame_mean(editor, node):
        source = input_of(node)
        blocks = source.producer()
        if source is not frame and blocks is not None and _is_pool_of_whole_blocks(editor, blocks):
            source = input_of(blocks)
        if source is frame:
            return True
    maker = frame.producer()
    if maker is None:
        return False
    if is_doubling(editor, maker):
        return is_mean(editor, vector, input_of(maker))
    if maker.op_type != node.op_type:
        return False
    if is_pointwise_conv(maker) and is_pointwise_conv(node):
        same = input_of(maker, 1) is input_of(node, 1)
        return same and is_mean(editor, input_of(node), input_of(maker))
    if maker.op_type not in ("Add", "Sub", "Mul"):
        return False
    pairs = zip(node.inputs, maker.inputs)
    return all(
        (maker.op_type == "Mul" and a is b) or is_mean(editor, a, b)
        for a, b in pairs
        if a is not None and b is not None
    )


def _is_pool_of_whole_blocks(editor: GraphEditor, node: Node) -> bool:
    if node.op_type != "AveragePool":
        return False
    size = list(attribute(node, "kernel_shape", [0]))
    height, width = editor.dims(input_of(node))[2:]
    return (
        list(attribute(node, "strides", [1, 1])) == size
        and set(attribute(node, "pads", [0])) == {0}
        and height % size[0] == width % size[1] == 0
    )


def unshuffled_input(editor: GraphEditor) -> Changes:
    """The first convolution of 3 s x 3 s pixels, stride s, as one of 3 x 3 blocks of s x s pixels
    that a pass over the image makes channels of: what the unshuffle was before export folded it
    in. TensorRT 8.6 pads the image's planes to 8 at full size and takes 2.9 times the floor."""
    for conv in editor.nodes("Conv"):
        side = list(attribute(conv, "strides", [1, 1]))[0]
        weight = editor.array(conv.inputs[1])
        if side not in SIDES or weight is None or input_of(conv) is not editor.image:
            continue
        height, width = editor.dims(editor.image)[2:]
        fits = (
            is_plain_conv(conv)
            and list(attribute(conv, "strides", [1, 1])) == [side, side]
            and list(attribute(conv, "kernel_shape", [0])) == [3 * side, 3 * side]
            and list(attribute(conv, "pads", [0])) == [side] * 4
            and height % side == width % side == 0
        )
        if not fits:
            continue
        out, planes = weight.shape[:2]
        # w[o, c, j s + dy, i s + dx] is the weight of channel (c, dy, dx) of block (j, i).
        blocks = weight.reshape(out, planes, 3, side, 3, side).transpose(0, 1, 3, 5, 2, 4)
        name = f"{conv.name}/blocks"
        (unshuffled,) = editor.own(conv, "MirnetUnshuffle", [editor.image], [name], side=side)
        constant = editor.constant(
            f"{input_of(conv, 1).name}/blocks", blocks.reshape(out, planes * side**2, 3, 3)
        )
        shape = {"kernel_shape": [3, 3], "pads": [1] * 4}
        yield {
            conv.outputs[0]: editor.add(
                conv, "Conv", [unshuffled, constant], f"{conv.name}/of_blocks", **shape
            )
        }


def shuffled_output(editor: GraphEditor) -> Changes:
    """Pixel shuffle and the sum with the image, in one pass."""
    for add in editor.nodes("Add"):
        shuffle = source_of(add, "DepthToSpace")
        if shuffle is None or not add.outputs[0].is_graph_output():
            continue
        side = attribute(shuffle, "blocksize", 0)
        channels = editor.dims(add.outputs[0])[1]
        mode = attribute(shuffle, "mode", "DCR")
        alone = editor.only_use(shuffle.outputs[0]) is add
        if side not in SIDES or mode != "CRD" or not alone:
            continue
        if _is_first_planes(editor, input_of(add, 1), channels):
            inputs = [editor.image, input_of(shuffle)]
            name = f"{add.name}/shuffle_add"
            (out,) = editor.own(add, "MirnetShuffleAdd", inputs, [name], side=side)
            yield {add.outputs[0]: out}


def _is_first_planes(editor: GraphEditor, value: Value, channels: int) -> bool:
    """Whether ``value`` is the image, or its first planes."""
    if value is editor.image:
        return editor.dims(value)[1] == channels
    cut = value.producer()
    if cut is None or cut.op_type != "Slice" or input_of(cut) is not editor.image:
        return False
    arrays = [editor.array(item) for item in cut.inputs[1:]]
    bounds = [None if array is None else array.tolist() for array in arrays]
    first = bounds[:3] == [[0], [channels], [1]] and bounds[3:] in ([], [[1]])
    return first and editor.dims(value)[1] == channels
