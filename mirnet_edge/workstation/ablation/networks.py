"""Networks of the variants: the package's own, or parts of them.

What is left out for an ablation alone is no field of a configuration, which exports, engines and
checkpoints would all have to know: it is cut out of a whole network, whose other weights stay those
of its seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from mirnet_edge.model.checkpoints import facts_of
from mirnet_edge.model.create import create_model
from mirnet_edge.model.layers import Network, SelectiveKernelFusion
from mirnet_edge.model.mirnet import DualAttentionUnit, MultiScaleResidualBlock
from mirnet_edge.model.mirnet_v2 import MultiScaleResidualBlockV2
from mirnet_edge.workstation.ablation.variants import Variant
from mirnet_edge.workstation.tasks.batch import Task


class Sum(nn.Module):
    """Add feature maps of one shape."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return reduce(torch.add, features)


class OneScale(nn.Module):
    """What is left of a block of MIRNet-v2 at full size alone."""

    def __init__(self, whole: MultiScaleResidualBlockV2) -> None:
        super().__init__()
        self.dau_top, self.conv_out = whole.dau_top, whole.conv_out

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.conv_out(self.dau_top(self.dau_top(features)))
        return out + features


class TwoScales(nn.Module):
    """What is left of a block of MIRNet-v2 without its smallest scale."""

    def __init__(self, whole: MultiScaleResidualBlockV2) -> None:
        super().__init__()
        self.dau_top, self.dau_mid = whole.dau_top, whole.dau_mid
        self.down2, self.up21_1, self.up21_2 = whole.down2, whole.up21_1, whole.up21_2
        self.skff_top, self.conv_out = whole.skff_top, whole.conv_out

    def forward(self, features: Tensor) -> Tensor:
        top, mid = features, self.down2(features)
        for up21 in (self.up21_1, self.up21_2):
            top, mid = self.dau_top(top), self.dau_mid(mid)
            top = self.skff_top([top, up21(mid)])
        out: Tensor = self.conv_out(top)
        return out + features


def network_of(variant: Variant, task: Task, seed: int) -> Network:
    """The network of a variant for a task, with the weights of a seed, in eval mode; with the facts
    of the whole one, of which no part sees further."""
    network = create_model(variant.config(task), seed=seed)
    for name, module in list(network.named_modules()):
        if isinstance(module, MultiScaleResidualBlockV2) and variant.scales < 3:
            kind = OneScale if variant.scales == 1 else TwoScales
            network.set_submodule(name, kind(module))
        elif isinstance(module, MultiScaleResidualBlock) and variant.scales == 1:
            _leave_one_scale(module)
        elif isinstance(module, DualAttentionUnit) and not variant.channel_attention:
            module.CA = nn.Identity()  # type: ignore[assignment]
    for name, module in list(network.named_modules()):
        if isinstance(module, SelectiveKernelFusion) and not variant.selective:
            network.set_submodule(name, Sum())
    network.facts = facts_of(network, task.restores, task.scale)
    return network.eval()


def _leave_one_scale(block: MultiScaleResidualBlock) -> None:
    """Leave full size alone of a block of MIRNet, in place."""
    block.blocks = block.blocks[:1]
    block.selective_kernel = nn.ModuleList([Sum()])
    for resamplers in (block.last_up, block.down, block.up):
        resamplers.clear()
