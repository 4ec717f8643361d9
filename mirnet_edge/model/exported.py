"""Weights out of a graph that was exported from them: models are bundled as graphs alone, which a
device runs as they are, and which hold the weights in half the bytes.

What an export rewrites can be undone where nothing was lost: a convolution of blocks of pixels is
one with a stride, and two gates that sum to one are one gate of the difference of their weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirnet_edge._imports import require
from mirnet_edge._typed import parse_json
from mirnet_edge.errors import CheckpointError, first_line
from mirnet_edge.facts import PREFIX
from mirnet_edge.model.layers import Network, SelectiveKernelFusion

HALF, DIFFERENCE = "/half", "/difference"
_FIRST, _SECOND = ".fcs.0.weight", ".fcs.1.weight"


@torch.no_grad()
def with_differences(network: Network) -> Network:
    """The network with the weights that `read_exported` gives back, changed in place: of each pair
    of gates the first has the difference of both, which is what their softmax sees, the second
    nothing."""
    for module in network.modules():
        if isinstance(module, SelectiveKernelFusion) and len(module.fcs) == 2:
            first, second = (next(gate.parameters()) for gate in module.fcs)
            first.sub_(second)
            second.zero_()
    return network


def read_exported(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a graph of the v2 family by the names of a checkpoint, and what it says of
    itself: task and scale.

    Raises:
        CheckpointError: it is no such graph, or there is none.
    """
    onnx = require("onnx", "reading the weights of a graph")
    try:
        model = onnx.load(path)
    except Exception as error:  # of protobuf and of the file; a graph may name files of its own
        raise CheckpointError(f"no valid ONNX ({first_line(error)}); export it again") from error
    said = {item.key.removeprefix(PREFIX): item.value for item in model.metadata_props}
    facts = {key: parse_json(said[key]) for key in ("task", "scale") if key in said}
    tensors: dict[str, NDArray[np.float32]] = {}
    for item in model.graph.initializer:
        name = item.name.removesuffix(HALF)
        if name.endswith(_FIRST + DIFFERENCE):
            name = name.removesuffix(DIFFERENCE)
            tensors[name.removesuffix(_FIRST) + _SECOND] = np.zeros(item.dims, np.float32)
        if name.endswith(".weight"):
            tensors[name] = onnx.numpy_helper.to_array(item).astype(np.float32)
    if "conv_in.weight" not in tensors:
        raise CheckpointError(
            "no graph that was exported from a network of the v2 family; give the checkpoint"
        )
    tensors["conv_in.weight"] = _of_blocks(tensors["conv_in.weight"])
    return {name: torch.from_numpy(values) for name, values in tensors.items()}, facts


def _of_blocks(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(out, C, 3 s, 3 s) weights of stride s as (out, C s s, 3, 3) of a pixel unshuffle."""
    out, channels, size, _ = weight.shape
    s = size // 3
    split = weight.reshape(out, channels, 3, s, 3, s).transpose(0, 1, 3, 5, 2, 4)
    blocks: NDArray[np.float32] = split.reshape(out, channels * s * s, 3, 3)
    return blocks
