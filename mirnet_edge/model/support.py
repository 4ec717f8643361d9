"""How far a MIRNet sees through its convolutions alone (global pools frozen).

All operations of both networks are separable in their support, so one dimension is enough. From one
position of the output back to the input, each operation turns the span of positions that are needed
after it into the span that is needed before it. Exact, phases of the strided operations included;
checked against gradients in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mirnet_edge.facts import SizeRule
from mirnet_edge.model.config import Config, MIRNetConfig

Span = tuple[int, int]
"""First and last position. What lies between need not be needed; only the ends count."""


def local_support_px(config: Config) -> int:
    """The larger reach, rounded up to the size multiple: the exact halo (pixels)."""
    return SizeRule(config.size_multiple).up(max(reach_px(config)))


def reach_px(config: Config) -> tuple[int, int]:
    """How many pixels left and right of an output pixel the convolutions look at most."""
    phases = range(config.size_multiple)
    spans = [_network(config, (phase, phase)) for phase in phases]
    return (
        max(phase - first for phase, (first, _) in zip(phases, spans)),
        max(last - phase for phase, (_, last) in zip(phases, spans)),
    )


def _network(config: Config, output: Span) -> Span:
    block: Callable[[Span], Span] = _v2_block
    if isinstance(config, MIRNetConfig):
        n_groups, n_blocks, block = config.n_rrg, config.n_msrb, partial(_v1_block, config)
    else:
        n_groups, n_blocks = len(config.groups), config.n_mrb
    # No skip connection shows here: the way round a convolution sees less than the way through it.
    side = config.shuffle
    features = _grown((output[0] // side, output[1] // side), 1)
    for _ in range(n_groups):
        features = _grown(features, 1)
        for _ in range(n_blocks):
            features = block(features)
    first, last = _grown(features, 1)
    return side * first, side * last + side - 1


def _v1_block(config: MIRNetConfig, output: Span) -> Span:
    height = len(config.channels)
    streams = [_resampled(_grown(output, 1), source, 0) for source in range(height)]
    for _ in range(1, config.width):
        fused = [_grown(stream, _UNIT) for stream in streams]
        streams = [
            _union(*(_resampled(fused[target], source, target) for target in range(height)))
            for source in range(height)
        ]
    for stream in range(height - 1, 0, -1):
        source = _resampled(_grown(streams[stream], _UNIT), stream - 1, stream)
        streams[stream - 1] = _union(streams[stream - 1], source)
    return _grown(streams[0], _UNIT)


_UNIT = 1 + 1 + 2
"""Pixels on each side of a dual attention unit: two 3x3 convolutions, then 5x5."""


def _v2_block(output: Span) -> Span:
    top, mid, bot = output, _doubled(output), _doubled(_doubled(output))
    for _ in range(2):
        mid = _union(mid, _doubled(top))
        bot = _union(bot, _doubled(mid))
        top, mid, bot = (_grown(stream, 2) for stream in (top, mid, bot))
    # Means of pairs, whose first and last members are the even and the odd one.
    mid = _union(mid, (2 * bot[0], 2 * bot[1] + 1))
    return _union(top, (2 * mid[0], 2 * mid[1] + 1))


def _resampled(span: Span, source: int, target: int) -> Span:
    for _ in range(source, target):  # a 3x3 convolution, then a blur of three at every second
        span = 2 * span[0] - 2, 2 * span[1] + 2
    for _ in range(target, source):
        span = _doubled(span)
    return span


def _doubled(span: Span) -> Span:
    """Before bilinear interpolation to twice the length, which also covers what a transposed
    convolution of size 3 sees."""
    return span[0] // 2 - (1 - span[0] % 2), span[1] // 2 + span[1] % 2


def _grown(span: Span, pixels: int) -> Span:
    return span[0] - pixels, span[1] + pixels


def _union(*spans: Span) -> Span:
    return min(first for first, _ in spans), max(last for _, last in spans)
