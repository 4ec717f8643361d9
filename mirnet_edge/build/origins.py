"""What TensorRT's layers were in the network: the modules they came from, and their arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mirnet_edge.engines.card import LayerFacts
from mirnet_edge.quantize.qdq import macs_of
from mirnet_edge.trt.layer_info import convolutions, nodes_of
from mirnet_edge.trt.network import module_of_node

if TYPE_CHECKING:
    from onnx import ModelProto


def with_origins(layers: Sequence[LayerFacts], proto: ModelProto) -> tuple[LayerFacts, ...]:
    """Add module and arithmetic to layers that were built of a sized graph. A layer of several
    nodes is said to be of the module that the first of them is of."""
    macs = macs_of(proto)
    modules: dict[str, str] = {}
    for node in proto.graph.node:
        found = module_of_node(proto.graph, node) or ""
        modules[node.name] = found.removeprefix("in ").removeprefix("behind ")
    # What only copies the input or output of a convolution has its name too.
    convolving = {layer.name for layer in convolutions(layers)}
    placed = []
    for layer in layers:
        nodes = [name for name in nodes_of(layer) if name in modules]
        module = next((modules[name] for name in nodes if modules[name]), "")
        of_layer = sum(macs.get(name, 0) for name in nodes) if layer.name in convolving else 0
        placed.append(replace(layer, module=module, macs=of_layer))
    return tuple(placed)
