"""How much a network computes."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from mirnet_edge.model.layers import Network


def multiply_accumulates(network: torch.nn.Module, planes: int = 3, size: int = 256) -> int:
    """Of all convolutions for ``size`` x ``size`` pixels of ``planes`` planes; where the network
    takes no image of that size, by one of the next that it takes, in proportion."""
    side = network.size_rule.padded(size) if isinstance(network, Network) else size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, planes, side, side))
    return int(counter.get_total_flops() * size * size) // (2 * side * side)
