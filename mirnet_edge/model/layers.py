"""What both networks are made of, and `Network`, what both are.

Every reduction over the whole frame goes through `GlobalMean` or `GlobalSoftmaxMean`: the only
places where a tile differs from the frame it was cut from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from mirnet_edge.errors import FrameError
from mirnet_edge.facts import ModelFacts, SizeRule
from mirnet_edge.model.config import Config


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
        squeezed = self.conv_du(self.pool(reduce(torch.add, features)))
        logits = torch.stack([fc(squeezed) for fc in self.fcs], dim=1)
        gates = logits.softmax(1).unbind(1)
        return reduce(torch.add, [gate * feature for gate, feature in zip(gates, features)])


class Chain(nn.Module):
    """Modules in sequence under the key ``body``."""

    def __init__(self, *modules: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(*modules)
        self.residual = residual

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.body(features)
        return out + features if self.residual else out


class Network(nn.Module):
    """What both families are: (N, in, H, W) in [0, 1] to (N, out, H, W), not clamped; `FrameError`
    where ``config`` does not allow the input's planes or size. Where ``config.noise_level`` is set,
    ``in`` counts one more plane than the frame has.

    ``facts`` and ``training_facts`` are what the checkpoint it came from says of itself.
    """

    facts: ModelFacts = ModelFacts()
    training_facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self, config: Config, groups: Iterable[Callable[[], nn.Module]], n_blocks: int
    ) -> None:
        """``groups`` makes the blocks of one residual group each (papers, "RRG")."""
        super().__init__()
        self.config = config
        features = config.channels[0]
        # Made in this order, because a seed's weights are drawn in it.
        side, blocks = config.shuffle, config.shuffle**2
        self.unshuffle: nn.Module = nn.PixelUnshuffle(side) if side > 1 else nn.Identity()
        self.shuffle: nn.Module = nn.PixelShuffle(side) if side > 1 else nn.Identity()
        self.conv_in = conv(config.in_planes * blocks, features)
        bodies = ((*(make() for _ in range(n_blocks)), conv(features, features)) for make in groups)
        self.body = nn.Sequential(*(Chain(*body, residual=True) for body in bodies))
        self.conv_out = conv(features, config.out_channels * blocks)

    @property
    def size_rule(self) -> SizeRule:
        """Which heights and widths the input may have."""
        return SizeRule(self.config.size_multiple, self.config.min_size_px)

    def forward(self, image: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self._check(image)
        config = self.config
        shallow = self.conv_in(self.unshuffle(image))
        deep = self.body(shallow)
        out: Tensor = self.shuffle(self.conv_out(deep if config.image_skip else deep + shallow))
        if not config.image_skip:
            return out
        return out + (image[:, : config.in_channels] if config.noise_level else image)

    def _check(self, image: Tensor) -> None:
        config, rule = self.config, self.size_rule
        shape = tuple(image.shape)
        if len(shape) != 4 or shape[1] != config.in_planes:
            raise FrameError(f"input of shape {shape}: need (N, {config.in_planes}, H, W)")
        if not rule.allows(*shape[2:]):
            raise FrameError(
                f"input of {shape[2]}x{shape[3]} pixels: height and width must be {rule}; pad by "
                "reflection and crop the output"
            )
