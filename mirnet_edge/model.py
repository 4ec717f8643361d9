"""The PyTorch reference networks, MIRNet and MIRNet-v2, of any width and depth.

Written from the papers' descriptions and the published state-dict names, so that official
checkpoints load. Both networks: no bias in any convolution, no normalization layer, ``eval``
equals ``train``. Every reduction over the whole frame goes through `GlobalMean` or
`GlobalSoftmaxMean`, the only places where a tile differs from the frame it was cut from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mirnet_edge.config import Config, MIRNetConfig, MIRNetV2Config, preset
from mirnet_edge.errors import FrameError
from mirnet_edge.facts import ModelFacts


def create_model(config: Config | str, seed: int | None = None) -> Network:
    """A network with fresh random weights, in eval mode.

    Args:
        config: a configuration or the name of a preset (`mirnet_edge.config.PRESETS`).
        seed: of the initial weights; None draws from torch's global generator.

    Raises:
        ConfigError: unknown preset.
    """
    if isinstance(config, str):
        config = preset(config)
    with torch.random.fork_rng(enabled=seed is not None, devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        network = MIRNet(config) if isinstance(config, MIRNetConfig) else MIRNetV2(config)
    return network.eval()


def conv(in_channels: int, out_channels: int, size: int = 3, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size: stride 1, zero padding, no bias."""
    return nn.Conv2d(in_channels, out_channels, size, padding=size // 2, groups=groups, bias=False)


class GlobalMean(nn.Module):
    """(N, C, H, W) to (N, C, 1, 1): the mean of each channel over the frame."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3), keepdim=True)


class GlobalSoftmaxMean(nn.Module):
    """(N, C, H, W) features and (N, 1, H, W) logits to (N, C, 1, 1): the mean of each channel
    over the frame, weighted by the softmax of the logits over all positions."""

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        weights = logits.flatten(2).softmax(2)
        return (features.flatten(2) @ weights.transpose(1, 2)).unsqueeze(3)


class SelectiveKernelFusion(nn.Module):
    """Fuse n feature maps of one shape by channel weights that sum to one (paper, "SKFF")."""

    def __init__(self, channels: int, n_inputs: int, activation: nn.Module) -> None:
        super().__init__()
        squeezed = max(channels // 8, 4)
        self.pool = GlobalMean()
        self.conv_du = nn.Sequential(conv(channels, squeezed, 1), activation)
        self.fcs = nn.ModuleList(conv(squeezed, channels, 1) for _ in range(n_inputs))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        squeezed = self.conv_du(self.pool(_sum(features)))
        logits = torch.stack([fc(squeezed) for fc in self.fcs], dim=1)
        gates = logits.softmax(1).unbind(1)
        return _sum([gate * feature for gate, feature in zip(gates, features)])


# ---------------------------------------------------------------- MIRNet (ECCV 2020)


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
        self.register_buffer("filt", (torch.outer(row, row) / 16).repeat(channels, 1, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        padded = F.pad(features, (1, 1, 1, 1), mode="reflect")
        blurred: Tensor = F.conv2d(padded, self.filt, stride=2, groups=self.filt.shape[0])
        return blurred


class ResidualDown(nn.Module):
    """Half the size, with a residual and a blurred branch."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.top = nn.Sequential(
            conv(channels, channels, 1),
            nn.PReLU(),
            conv(channels, channels),
            nn.PReLU(),
            BlurPool(channels),
            conv(channels, out_channels, 1),
        )
        self.bot = nn.Sequential(BlurPool(channels), conv(channels, out_channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        return torch.add(self.top(features), self.bot(features))


class ResidualUp(nn.Module):
    """Twice the size, with a transposed-convolution and a bilinear branch."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.top = nn.Sequential(
            conv(channels, channels, 1),
            nn.PReLU(),
            nn.ConvTranspose2d(channels, channels, 3, 2, padding=1, output_padding=1, bias=False),
            nn.PReLU(),
            conv(channels, out_channels, 1),
        )
        self.bot = nn.Sequential(BilinearUp(), conv(channels, out_channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        return torch.add(self.top(features), self.bot(features))


class BilinearUp(nn.Module):
    """Twice the size, bilinear, corners not aligned."""

    def forward(self, features: Tensor) -> Tensor:
        return F.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)


class Chain(nn.Module):
    """Modules in sequence under the key ``body``."""

    def __init__(self, *modules: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(*modules)
        self.residual = residual

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.body(features)
        return out + features if self.residual else out


class MultiScaleResidualBlock(nn.Module):
    """Parallel streams of dual attention units, exchanged and fused (paper, "MRB")."""

    def __init__(self, config: MIRNetConfig, activation: nn.PReLU) -> None:
        super().__init__()
        channels = config.channels
        streams = range(len(channels))
        units = [DualAttentionUnit(c, activation) for c in channels]
        self.blocks = nn.ModuleList(nn.ModuleList([unit] * config.width) for unit in units)
        self.last_up = nn.ModuleDict({str(s): _up_chain(channels, s, 0) for s in streams[1:]})
        self.down = nn.ModuleDict(
            {f"{channels[s]}_{2 ** (t - s)}": _down_chain(channels, s, t)
             for s in streams for t in streams[s + 1 :]}
        )  # fmt: skip
        self.up = nn.ModuleDict(
            {f"{channels[s]}_{2 ** (s - t)}": _up_chain(channels, s, t)
             for s in streams for t in streams[:s]}
        )  # fmt: skip
        self.conv_out = conv(channels[0], channels[0])
        self.selective_kernel = nn.ModuleList(
            SelectiveKernelFusion(c, len(channels), nn.PReLU()) for c in channels
        )
        self.channels = channels

    def forward(self, features: Tensor) -> Tensor:
        streams = self._first_column(features)
        for column in range(1, len(self.blocks[0])):  # type: ignore[arg-type]
            fused = [
                fusion([self._resample(feature, s, t) for s, feature in enumerate(streams)])
                for t, fusion in enumerate(self.selective_kernel)
            ]
            streams = [self.blocks[t][column](f) for t, f in enumerate(fused)]  # type: ignore[index]
        full_size = [streams[0]]
        full_size += [self.last_up[str(s)](f) for s, f in enumerate(streams) if s > 0]
        out: Tensor = self.conv_out(self.selective_kernel[0](full_size))
        return out + features

    def _first_column(self, features: Tensor) -> list[Tensor]:
        streams: list[Tensor] = []
        for stream, column in enumerate(self.blocks):
            if stream > 0:
                features = self._resample(streams[-1], stream - 1, stream)
            streams.append(column[0](features))  # type: ignore[index]
        return streams

    def _resample(self, features: Tensor, source: int, target: int) -> Tensor:
        if source == target:
            return features
        direction = self.down if target > source else self.up
        resampled: Tensor = direction[
            f"{self.channels[source]}_{2 ** abs(target - source)}"
        ](features)  # fmt: skip
        return resampled


class Network(nn.Module):
    """What both families share: (N, in, H, W) in [0, 1] to (N, out, H, W), not clamped.

    Attributes:
        config: the hyperparameters.
        facts, training_facts: what the checkpoint it came from says of itself.

    Raises:
        FrameError: the input's channels, or a height or width that is no multiple of
            ``config.size_multiple`` or below ``config.min_size_px``.
    """

    config: Config
    facts: ModelFacts = ModelFacts()
    training_facts: Mapping[str, Any] = MappingProxyType({})

    def forward(self, image: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self._check(image)
        return self.restore(image)

    def restore(self, image: Tensor) -> Tensor:
        raise NotImplementedError

    def _check(self, image: Tensor) -> None:
        config = self.config
        multiple, least = config.size_multiple, config.min_size_px
        shape = tuple(image.shape)
        if len(shape) != 4 or shape[1] != config.in_channels:
            raise FrameError(f"input of shape {shape}: need (N, {config.in_channels}, H, W)")
        if any(size % multiple or size < least for size in shape[2:]):
            raise FrameError(
                f"input of {shape[2]}x{shape[3]} pixels: height and width must be multiples of "
                f"{multiple} and at least {least}; pad by reflection and crop the output"
            )


class MIRNet(Network):
    """MIRNet (ECCV 2020). One PReLU slope serves every dual attention unit of the network, and the
    columns of a stream share one unit: the state dict holds such tensors under several names."""

    def __init__(self, config: MIRNetConfig) -> None:
        super().__init__()
        self.config = config
        features = config.channels[0]
        activation = nn.PReLU()
        self.conv_in = conv(config.in_channels, features)
        self.body = nn.Sequential(
            *(
                Chain(
                    *(MultiScaleResidualBlock(config, activation) for _ in range(config.n_msrb)),
                    conv(features, features),
                    residual=True,
                )
                for _ in range(config.n_rrg)
            )
        )
        self.conv_out = conv(features, config.out_channels)

    def restore(self, image: Tensor) -> Tensor:
        out: Tensor = self.conv_out(self.body(self.conv_in(image)))
        return out + image


# ---------------------------------------------------------------- MIRNet-v2 (TPAMI 2022)


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
    """Two grouped convolutions and a context block (paper, "RCB")."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels, groups=groups),
            nn.LeakyReLU(0.2),
            conv(channels, channels, groups=groups),
        )
        self.gcnet = ContextBlock(channels)

    def forward(self, features: Tensor) -> Tensor:
        return F.leaky_relu(self.gcnet(self.body(features)), 0.2) + features


class Resample(nn.Module):
    """Modules in sequence under the key ``bot``."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.bot = nn.Sequential(*modules)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.bot(features)
        return out


class MultiScaleResidualBlockV2(nn.Module):
    """Three streams, fused from the smallest up, in two passes with shared blocks."""

    def __init__(self, config: MIRNetV2Config, groups: int) -> None:
        super().__init__()
        top, mid, bot = config.channels
        self.dau_top = ResidualContextBlock(top, groups)
        self.dau_mid = ResidualContextBlock(mid, groups)
        self.dau_bot = ResidualContextBlock(bot, groups)
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
        super().__init__()
        self.config = config
        self.image_skip = config.image_skip
        features = config.channels[0]
        self.conv_in = conv(config.in_channels, features)
        self.body = nn.Sequential(
            *(
                Chain(
                    *(MultiScaleResidualBlockV2(config, groups) for _ in range(config.n_mrb)),
                    conv(features, features),
                    residual=True,
                )
                for groups in config.groups
            )
        )
        self.conv_out = conv(features, config.out_channels)

    def restore(self, image: Tensor) -> Tensor:
        shallow = self.conv_in(image)
        deep = self.body(shallow)
        out: Tensor = self.conv_out(deep if self.image_skip else deep + shallow)
        return out + image if self.image_skip else out


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def _down_chain(channels: Sequence[int], source: int, target: int) -> Chain:
    return Chain(*(ResidualDown(channels[s], channels[s + 1]) for s in range(source, target)))


def _up_chain(channels: Sequence[int], source: int, target: int) -> Chain:
    return Chain(*(ResidualUp(channels[s], channels[s - 1]) for s in range(source, target, -1)))


def _halve(channels: int, out_channels: int) -> Chain:
    return Chain(Resample(nn.AvgPool2d(2), conv(channels, out_channels, 1)))


def _double(channels: int, out_channels: int) -> Chain:
    return Chain(Resample(conv(channels, out_channels, 1), BilinearUp()))
