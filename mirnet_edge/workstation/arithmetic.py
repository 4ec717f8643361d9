"""How much a network computes."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode


def multiply_accumulates(network: torch.nn.Module, planes: int = 3, size: int = 256) -> int:
    """Of all convolutions for one ``size`` x ``size`` image of ``planes`` planes."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, planes, size, size))
    return int(counter.get_total_flops()) // 2
