"""The plugins' kernels in NumPy: what each computes, in double precision, rounded once.

Maps are (N, C, H, W), as graphs have them; `channels_last` lays them as the kernels read them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kernel_twins.rows import Array

OCTET = 8


def channels_last(maps: Array) -> Array:
    """(N, C, H, W) to (N, H, W, C rounded up to octets) of zeros beyond."""
    images, channels, height, width = maps.shape
    out = np.zeros((images, height, width, -(-channels // OCTET) * OCTET), maps.dtype)
    out[..., :channels] = maps.transpose(0, 2, 3, 1)
    return out


def channels_first(maps: Array, channels: int) -> Array:
    return np.ascontiguousarray(maps[..., :channels].transpose(0, 3, 1, 2))


def leaky(values: Array, slope: float) -> Array:
    return np.where(values > 0, values, np.float32(slope).astype(np.float64) * values)


def residual_sum(
    branch: Array, skip: Array, slope: float, context: Array | None = None
) -> tuple[Array, Array]:
    """The sum, and its mean over the frame (N, C); ``context`` (N, C) is added to the branch."""
    added = 0.0 if context is None else context.astype(np.float64)[..., None, None]
    total = leaky(branch.astype(np.float64) + added, slope) + skip
    return total, total.mean((2, 3))


def context_rows(x: Array, mask: Array) -> Array:
    """One row (N, 1, C + 4): sums of e_p x_p, the largest logit, the sum of e_p, two zeros."""
    logits = np.einsum("nchw,c->nhw", x.astype(np.float64), mask.astype(np.float64))
    largest = logits.max((1, 2))
    shares = np.exp(logits - largest[:, None, None])
    sums = np.einsum("nhw,nchw->nc", shares, x.astype(np.float64))
    rest = np.stack([largest, shares.sum((1, 2)), 0 * largest, 0 * largest], 1)
    return np.concatenate([sums, rest], 1)[:, None]


def context_vector(rows: Array, squeeze: Array, expand: Array, slope: float) -> Array:
    """What is added to each channel, (N, C), of rows (N, rows, C + 4)."""
    channels = expand.shape[1]
    largest = rows[..., channels].astype(np.float64)
    weights = np.exp(largest - largest.max(1, keepdims=True))
    sums = np.einsum("nr,nrc->nc", weights, rows[..., : channels + 2])
    mean = sums[:, :channels] / sums[:, channels + 1 :]
    vector = leaky(mean @ squeeze.astype(np.float64), slope)
    result: Array = vector @ expand.astype(np.float64)
    return result


def convolved(maps: Array, weights: Array) -> Array:
    """3 x 3, zeros beyond the border; weights (9, out, in), the row of the tap first."""
    height, width = maps.shape[2:]
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    parts = [padded[:, :, t // 3 : t // 3 + height, t % 3 : t % 3 + width] for t in range(9)]
    result: Array = sum(np.einsum("oi,niyx->noyx", w, p) for w, p in zip(weights, parts))
    return result


def residual_block(
    x: Array, first: Array, second: Array, slope: float, last_slope: float, half: bool = True
) -> tuple[Array, Array]:
    """The block's output and its mean; with ``half`` what FP16 holds is rounded to it."""
    rounded = (lambda a: a.astype(np.float16).astype(np.float64)) if half else np.float64
    between = leaky(convolved(x.astype(np.float64), rounded(first)), slope)
    branch = convolved(rounded(between), rounded(second))
    return residual_sum(branch, x, last_slope)


def attention_pools(y: Array) -> tuple[Array, Array]:
    """The largest and the mean channel (N, 2, H, W), and the mean over the frame (N, C)."""
    values = y.astype(np.float64)
    return np.stack([values.max(1), values.mean(1)], 1), values.mean((2, 3))


def channel_gate(rows: Array, squeeze: Array, expand: Array, slope: float) -> Array:
    """The weights of channels, (N, C), of rows (N, rows, C) that add up to the mean."""
    vector = leaky(rows.astype(np.float64).sum(1) @ squeeze.astype(np.float64), slope)
    result: Array = 1 / (1 + np.exp(-(vector @ expand.astype(np.float64))))
    return result


def dual_gate(y: Array, planes: Array, spatial: Array, gate: Array) -> Array:
    """y weighted by position, and y weighted by channel, (N, 2 C, H, W)."""
    height, width = y.shape[2:]
    padded = np.pad(planes.astype(np.float64), ((0, 0), (0, 0), (2, 2), (2, 2)))
    logits = sum(
        np.einsum("c,ncyx->nyx", spatial[:, i, j].astype(np.float64),
                  padded[:, :, i : i + height, j : j + width])
        for i in range(5)
        for j in range(5)
    )  # fmt: skip
    shares = 1 / (1 + np.exp(-logits))
    values = y.astype(np.float64)
    return np.concatenate([values * shares[:, None], values * gate[..., None, None]], 1)


def fusion_gate(
    large: Array, small: Array, mix: Array, squeeze: Array, expand: Array, slope: float
) -> tuple[Array, Array]:
    """The gate and the fused mean, (N, C) each, of rows (N, rows, C) that add up to means."""
    first = large.astype(np.float64).sum(1)
    second = small.astype(np.float64).sum(1) @ mix.astype(np.float64)
    vector = leaky((first + second) @ squeeze.astype(np.float64), slope)
    gate = 1 / (1 + np.exp(-(vector @ expand.astype(np.float64))))
    return gate, second + gate * (first - second)


def doubled(maps: Array) -> Array:
    """Bilinear, corners not aligned."""
    for axis in (2, 3):
        size = maps.shape[axis]
        at = (np.arange(2 * size) + 0.5) / 2 - 0.5
        low = np.floor(at).astype(int)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
        before, after = (maps.take(np.clip(i, 0, size - 1), axis) for i in (low, low + 1))
        maps = (1 - share) * before + share * after
    return maps


def gated_sum(x: Array, small: Array, gate: Array) -> Array:
    u = doubled(small.astype(np.float64))
    result: Array = u + gate.reshape(*gate.shape[:2], 1, 1).astype(np.float64) * (x - u)
    return result


def mean_of_sum(maps: Sequence[Array]) -> Array:
    """Of three maps, (N, C)."""
    result: Array = sum(features.astype(np.float64) for features in maps).mean((2, 3))
    return result


def select_gate(rows: Array, squeeze: Array, expand: Array, slope: float) -> Array:
    """Three gates, (3, N, C), of rows (N, rows, C) that add up to means; expand (3, Z, C)."""
    mean = rows.astype(np.float64).sum(1)
    vector = leaky(mean @ squeeze.astype(np.float64), slope)
    logits = vector @ expand.astype(np.float64)
    powers = np.exp(logits - logits.max(0))
    result: Array = powers / powers.sum(0)
    return result


def select_sum(maps: Sequence[Array], gates: Sequence[Array]) -> Array:
    """Of maps times gates (N, C)."""
    pairs = zip(maps, gates)
    result: Array = sum(x * gate[..., None, None].astype(np.float64) for x, gate in pairs)
    return result


def unshuffle(image: Array, side: int) -> Array:
    images, planes, height, width = image.shape
    blocks = image.reshape(images, planes, height // side, side, width // side, side)
    return blocks.transpose(0, 1, 3, 5, 2, 4).reshape(
        images, planes * side**2, height // side, width // side
    )


def shuffle(blocks: Array, side: int) -> Array:
    images, channels, height, width = blocks.shape
    pixels = blocks.reshape(images, channels // side**2, side, side, height, width)
    return pixels.transpose(0, 1, 4, 2, 5, 3).reshape(images, -1, height * side, width * side)
