"""The two ends of a network that works on blocks of pixels, by our operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.graph.rewrite.edit import (
    Changes,
    GraphEditor,
    attribute,
    input_of,
    is_plain_conv,
    source_of,
)

if TYPE_CHECKING:
    from onnx_ir import Value

SIDES = (2, 4)
"""Of blocks of pixels that the kernels have code for."""


def unshuffled_input(editor: GraphEditor) -> Changes:
    """The first convolution of 3 s x 3 s pixels, stride s, as one of 3 x 3 blocks of s x s pixels
    that a pass over the image makes channels of: what the unshuffle was before export folded it
    in. TensorRT 8.6 pads the image's planes to 8 at full size and takes 2.9 times the floor."""
    for conv in editor.nodes("Conv"):
        side = next(iter(attribute(conv, "strides", [1, 1])))
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
