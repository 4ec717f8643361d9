"""MIRNet (Zamir et al., ECCV 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirnet_edge.model.config import MIRNetConfig
from mirnet_edge.model.layers import Chain, GlobalMean, Network, SelectiveKernelFusion, conv


class SpatialAttention(nn.Module):
    """Gate every position by a 5x5 convolution of the channels' maximum and mean."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.ModuleDict({"conv": conv(2, 1, 5)})

    def forward(self, features: Tensor) -> Tensor:
        pooled = torch.cat([features.amax(1, keepdim=True), features.mean(1, keepdim=True)], 1)
        gate: Tensor = self.spatial["conv"](pooled).sigmoid()
        return torch.mul(features, gate)


class ChannelAttention(nn.Module):
    """Gate every channel by a two-layer perceptron of the channels' means over the frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = GlobalMean()
        self.conv_du = nn.Sequential(
            conv(channels, channels // 8, 1), nn.ReLU(), conv(channels // 8, channels, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        return features * torch.sigmoid(self.conv_du(self.pool(features)))


class DualAttentionUnit(nn.Module):
    """Two convolutions, then spatial and channel attention side by side (paper, "DAU")."""

    def __init__(self, channels: int, activation: nn.PReLU) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels), activation, conv(channels, channels))
        self.SA = SpatialAttention()
        self.CA = ChannelAttention(channels)
        self.conv1x1 = conv(2 * channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        residual = self.body(features)
        attended = torch.cat([self.SA(residual), self.CA(residual)], 1)
        return torch.add(features, self.conv1x1(attended))


class BlurPool(nn.Module):
    """Anti-aliased halving: reflect one pixel, [1 2 1] binomial filter, stride 2 (Zhang, "Making
    Convolutional Networks Shift-Invariant Again", ICML 2019)."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        # A constant, but the published state dicts hold it.
        self.register_buffer("filt", (torch.outer(row, row) / 16).repeat(channels, 1, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        padded = F.pad(features, (1, 1, 1, 1), mode="reflect")
        blurred: Tensor = F.conv2d(padded, self.filt, stride=2, groups=self.filt.shape[0])
        return blurred


class Resampler(nn.Module):
    """The sum of two branches that halve or double the size: one resamples between convolutions (by
    a blur, or a transposed convolution), the other before its one (by a blur, or bilinearly)."""

    def __init__(self, channels: int, out_channels: int, down: bool) -> None:
        super().__init__()
        self.top = nn.Sequential(
            conv(channels, channels, 1),
            nn.PReLU(),
            conv(channels, channels) if down else _conv_up(channels),
            nn.PReLU(),
            *([BlurPool(channels)] if down else []),
            conv(channels, out_channels, 1),
        )
        first = BlurPool(channels) if down else nn.Upsample(scale_factor=2, mode="bilinear")
        self.bot = nn.Sequential(first, conv(channels, out_channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        return torch.add(self.top(features), self.bot(features))


class MultiScaleResidualBlock(nn.Module):
    """Parallel streams of dual attention units, exchanged and fused (paper, "MRB")."""

    def __init__(self, config: MIRNetConfig, activation: nn.PReLU) -> None:
        super().__init__()
        channels = config.channels
        streams = range(len(channels))
        pairs = [(s, t) for s in streams for t in streams]
        units = [DualAttentionUnit(c, activation) for c in channels]
        self.blocks = nn.ModuleList(nn.ModuleList([unit] * config.width) for unit in units)
        self.last_up = nn.ModuleDict({str(s): _resampler(channels, s, 0) for s in streams[1:]})
        # The published names hold a source's channels, so two streams of one width would collide.
        self.down = nn.ModuleDict(
            {_key(channels, s, t): _resampler(channels, s, t) for s, t in pairs if s < t}
        )
        self.up = nn.ModuleDict(
            {_key(channels, s, t): _resampler(channels, s, t) for s, t in pairs if s > t}
        )
        self.conv_out = conv(channels[0], channels[0])
        self.selective_kernel = nn.ModuleList(
            SelectiveKernelFusion(c, len(channels), nn.PReLU()) for c in channels
        )
        self.channels = channels

    def forward(self, features: Tensor) -> Tensor:
        # The first column is one stream after another; only later columns exchange all with all.
        streams: list[Tensor] = []
        for stream, units in enumerate(self.blocks):
            source = self._resample(streams[-1], stream - 1, stream) if streams else features
            streams.append(units[0](source))  # type: ignore[index]
        for column in range(1, len(self.blocks[0])):  # type: ignore[arg-type]
            fused = [
                fusion([self._resample(feature, s, t) for s, feature in enumerate(streams)])
                for t, fusion in enumerate(self.selective_kernel)
            ]
            streams = [self.blocks[t][column](f) for t, f in enumerate(fused)]  # type: ignore[index]
        full_size = [streams[0], *(up(f) for up, f in zip(self.last_up.values(), streams[1:]))]
        out: Tensor = self.conv_out(self.selective_kernel[0](full_size))
        return out + features

    def _resample(self, features: Tensor, source: int, target: int) -> Tensor:
        if source == target:
            return features
        direction = self.down if target > source else self.up
        resampled: Tensor = direction[_key(self.channels, source, target)](features)
        return resampled


class MIRNet(Network):
    """MIRNet (ECCV 2020). One PReLU slope serves every dual attention unit of the network, and the
    columns of a stream share one unit: the state dict holds such tensors under several names."""

    def __init__(self, config: MIRNetConfig) -> None:
        activation = nn.PReLU()  # one for all: in the authors' code it is a default argument
        blocks = partial(MultiScaleResidualBlock, config, activation)
        super().__init__(config, [blocks] * config.n_rrg, config.n_msrb)


def _conv_up(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, 3, 2, padding=1, output_padding=1, bias=False)


def _key(channels: Sequence[int], source: int, target: int) -> str:
    return f"{channels[source]}_{2 ** abs(target - source)}"


def _resampler(channels: Sequence[int], source: int, target: int) -> Chain:
    down = target > source
    step = 1 if down else -1
    steps = range(source, target, step)
    return Chain(*(Resampler(channels[s], channels[s + step], down) for s in steps))
