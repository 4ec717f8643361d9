"""How far a MIRNet sees through its convolutions alone (global pools frozen).

All operations of both networks are separable in their support, so one dimension is enough: a
signal carries, for each of its positions, the first and the last input position it depends on,
and each operation takes minima and maxima of its neighbours'. Exact, phases of the strided
operations included; checked against gradients in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.facts import SizeRule
from mirnet_edge.model.config import Config, MIRNetConfig, MIRNetV2Config

_Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Reach:
    """First and last input position that each position of a one-dimensional signal depends on."""

    first: _Positions
    last: _Positions

    @classmethod
    def of_input(cls, length: int) -> Reach:
        """The input itself: each of ``length`` positions depends on itself alone."""
        positions = np.arange(length)
        return cls(positions, positions)

    def _gather(self, *sources: _Positions) -> Reach:
        """A signal whose position ``i`` depends on this one's positions ``source[i]``."""
        inside = [np.clip(source, 0, len(self.first) - 1) for source in sources]
        return Reach(
            np.minimum.reduce([self.first[source] for source in inside]),
            np.maximum.reduce([self.last[source] for source in inside]),
        )

    def __or__(self, other: Reach) -> Reach:
        """The sum or concatenation of two signals."""
        return Reach(np.minimum(self.first, other.first), np.maximum(self.last, other.last))

    def conv(self, size: int) -> Reach:
        """A convolution of odd ``size`` that keeps the length."""
        here = np.arange(len(self.first))
        return self._gather(*(here + offset for offset in range(-(size // 2), size // 2 + 1)))

    def mean_half(self) -> Reach:
        """Mean of pairs: half the length."""
        even = np.arange(0, len(self.first), 2)
        return self._gather(even, even + 1)

    def blur_half(self) -> Reach:
        """Three-tap blur at every second position: half the length."""
        even = np.arange(0, len(self.first), 2)
        return self._gather(even - 1, even, even + 1)

    def bilinear_double(self) -> Reach:
        """Bilinear interpolation, corners not aligned: twice the length."""
        here = np.arange(2 * len(self.first))
        return self._gather(here // 2, here // 2 + np.where(here % 2, 1, -1))

    def transposed_double(self) -> Reach:
        """Transposed convolution of size 3, stride 2, padding 1, output padding 1: twice the
        length."""
        here = np.arange(2 * len(self.first))
        return self._gather(here // 2, here // 2 + here % 2)


def reach_px(config: Config) -> tuple[int, int]:
    """How many pixels left and right of an output pixel the convolutions look at most."""
    length = 1024
    while True:
        signal = Reach.of_input(length)
        if isinstance(config, MIRNetConfig):
            signal = _mirnet(signal, config)
        else:
            signal = _mirnet_v2(signal, config)
        middle = np.arange(length // 2 - 32, length // 2 + 32)
        left = int((middle - signal.first[middle]).max())
        right = int((signal.last[middle] - middle).max())
        if max(left, right) < length // 2 - 64:
            return left, right
        length *= 2


def local_support_px(config: Config) -> int:
    """The larger reach, rounded up to the size multiple: the exact halo (pixels)."""
    rule = SizeRule(config.size_multiple, config.min_size_px)
    return rule.up(max(reach_px(config)))


def _mirnet(signal: Reach, config: MIRNetConfig) -> Reach:
    features = signal.conv(3)
    for _ in range(config.n_rrg):
        deep = features
        for _ in range(config.n_msrb):
            deep = _mirnet_block(deep, config) | deep
        features = deep.conv(3) | features
    return features.conv(3) | signal


def _mirnet_block(features: Reach, config: MIRNetConfig) -> Reach:
    height = len(config.channels)
    streams = [_attention_unit(features)]
    for _ in range(1, height):
        streams.append(_attention_unit(_residual_half(streams[-1])))
    for _ in range(1, config.width):
        streams = [
            _attention_unit(_union([_resample(f, s, t) for s, f in enumerate(streams)]))
            for t in range(height)
        ]
    return _union([_resample(f, s, 0) for s, f in enumerate(streams)]).conv(3)


def _attention_unit(features: Reach) -> Reach:
    return features.conv(3).conv(3).conv(5) | features


def _residual_half(features: Reach) -> Reach:
    return features.conv(3).blur_half() | features.blur_half()


def _resample(features: Reach, source: int, target: int) -> Reach:
    for _ in range(source, target):
        features = _residual_half(features)
    for _ in range(target, source):
        features = features.transposed_double() | features.bilinear_double()
    return features


def _union(signals: list[Reach]) -> Reach:
    total = signals[0]
    for signal in signals[1:]:
        total = total | signal
    return total


def _mirnet_v2(signal: Reach, config: MIRNetV2Config) -> Reach:
    features = signal.conv(3)
    for _ in config.groups:
        deep = features
        for _ in range(config.n_mrb):
            deep = _mirnet_v2_block(deep) | deep
        features = deep.conv(3) | features
    return features.conv(3) | signal


def _mirnet_v2_block(top: Reach) -> Reach:
    mid = top.mean_half()
    bot = mid.mean_half()
    for _ in range(2):
        top, mid, bot = (stream.conv(3).conv(3) for stream in (top, mid, bot))
        mid = mid | bot.bilinear_double()
        top = top | mid.bilinear_double()
    return top
