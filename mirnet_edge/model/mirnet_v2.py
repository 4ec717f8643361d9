"""MIRNet-v2 (Zamir et al., TPAMI 2022)."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirnet_edge.model.config import MIRNetV2Config
from mirnet_edge.model.layers import Chain, GlobalSoftmaxMean, Network, SelectiveKernelFusion, conv


class ContextBlock(nn.Module):
    """Add a vector computed from the softmax-weighted mean of the frame to every position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_mask = conv(channels, 1, 1)
        self.pool = GlobalSoftmaxMean()
        self.channel_add_conv = nn.Sequential(
            conv(channels, channels, 1), nn.LeakyReLU(0.2), conv(channels, channels, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        context = self.pool(features, self.conv_mask(features))
        return torch.add(features, self.channel_add_conv(context))


class ResidualContextBlock(nn.Module):
    """Two grouped convolutions and, with ``context``, a context block (paper, "RCB")."""

    def __init__(self, channels: int, groups: int, context: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels, groups=groups),
            nn.LeakyReLU(0.2),
            conv(channels, channels, groups=groups),
        )
        self.gcnet = ContextBlock(channels) if context else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return F.leaky_relu(self.gcnet(self.body(features)), 0.2) + features


class MultiScaleResidualBlockV2(nn.Module):
    """Three streams, fused from the smallest up, in two passes with shared blocks."""

    def __init__(self, config: MIRNetV2Config, groups: int) -> None:
        super().__init__()
        top, mid, bot = config.channels
        self.dau_top = ResidualContextBlock(top, groups, config.context)
        self.dau_mid = ResidualContextBlock(mid, groups, config.context)
        self.dau_bot = ResidualContextBlock(bot, groups, config.context)
        self.down2 = _halve(top, mid)
        self.down4 = nn.Sequential(_halve(top, mid), _halve(mid, bot))
        self.up21_1, self.up21_2 = _double(mid, top), _double(mid, top)
        self.up32_1, self.up32_2 = _double(bot, mid), _double(bot, mid)
        self.conv_out = conv(top, top, 1)
        self.skff_top = SelectiveKernelFusion(top, 2, nn.LeakyReLU(0.2))
        self.skff_mid = SelectiveKernelFusion(mid, 2, nn.LeakyReLU(0.2))

    def forward(self, features: Tensor) -> Tensor:
        top, mid, bot = features, self.down2(features), self.down4(features)
        for up21, up32 in ((self.up21_1, self.up32_1), (self.up21_2, self.up32_2)):
            top, mid, bot = self.dau_top(top), self.dau_mid(mid), self.dau_bot(bot)
            mid = self.skff_mid([mid, up32(bot)])
            top = self.skff_top([top, up21(mid)])
        out: Tensor = self.conv_out(top)
        return out + features


class MIRNetV2(Network):
    """MIRNet-v2 (TPAMI 2022)."""

    def __init__(self, config: MIRNetV2Config) -> None:
        groups = [partial(MultiScaleResidualBlockV2, config, n) for n in config.groups]
        super().__init__(config, groups, config.n_mrb)


def _halve(channels: int, out_channels: int) -> Chain:
    return _resample(nn.AvgPool2d(2), conv(channels, out_channels, 1))


def _double(channels: int, out_channels: int) -> Chain:
    # The convolution comes first, as in the authors' code: a quarter of the work at half the size.
    return _resample(conv(channels, out_channels, 1), nn.Upsample(scale_factor=2, mode="bilinear"))


def _resample(*modules: nn.Module) -> Chain:
    """The modules under the published key, ``body.0.bot``."""
    return Chain(nn.Sequential(OrderedDict(bot=nn.Sequential(*modules))))
