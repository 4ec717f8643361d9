"""How unlike images are, and choosing those that are most unlike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARES = (np.arange(16) + 0.5) / 16
"""The quantiles that stand for a distribution."""


def describe(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What a frame looks like, as a vector whose Euclidean distances lie in [0, √3].

    Quantiles of each channel's values, quantiles of the differences between neighbours (on a
    logarithmic scale), and means over a 4 × 4 grid. Distances between quantiles are Wasserstein
    distances, so a little noise or a change of exposure moves a frame a little.
    """
    steps = [max(1, size // 128) for size in frame.shape[:2]]
    sample = frame[:: steps[0], :: steps[1]]
    colours = _quantiles(sample.reshape(-1, frame.shape[2])) / 255
    # In int16: differences of uint8 would wrap around.
    across = np.diff(frame[:: steps[0]].astype(np.int16), axis=1)[:, :: steps[1]]
    along = np.diff(frame[:, :: steps[1]].astype(np.int16), axis=0)[:: steps[0]]
    # One zero more: a frame of a single pixel has no differences.
    differences = np.abs(np.concatenate([across.ravel(), along.ravel(), np.zeros(1, np.int16)]))
    detail = np.log2(1 + _quantiles(differences)) / 8
    layout = np.resize(_cell_means(sample) / 255, (16, frame.shape[2]))
    return np.concatenate(
        [part.ravel() / math.sqrt(part.size) for part in (colours, detail, layout)]
    )


def _quantiles(values: NDArray[Any]) -> NDArray[np.float64]:
    """`np.quantile` at `SHARES` along the first axis, to the bit, in a fourth of the time: small
    integers are sorted faster than they are partitioned at so many places."""
    ordered = np.sort(values, axis=0, kind="stable")
    places = SHARES * (len(values) - 1)
    below = places.astype(int)
    share = (places - below).reshape(-1, *[1] * (values.ndim - 1))
    low, high = ordered[below], ordered[np.minimum(below + 1, len(values) - 1)]
    found: NDArray[np.float64] = np.where(
        share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share)
    )
    return found


def _cell_means(sample: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Means (cells, channels) over a 4 × 4 grid, as `np.array_split` would cut it."""
    sums = sample.astype(np.int64)
    sizes = []
    for axis, size in enumerate(sample.shape[:2]):
        cells = min(4, size)
        lengths = size // cells + (np.arange(cells) < size % cells)
        sums = np.add.reduceat(sums, np.cumsum(lengths) - lengths, axis)
        sizes.append(lengths)
    means: NDArray[np.float64] = sums / np.multiply.outer(*sizes)[:, :, None]
    return means.reshape(-1, int(sample.shape[2]))


def farthest_first(
    descriptors: NDArray[np.float64], count: int, random: np.random.Generator
) -> tuple[list[int], list[float]]:
    """Indices of up to ``count`` rows, the first drawn at random, each other one the farthest from
    all before it (Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985);
    and that distance for each but the first, in falling order."""
    chosen = [int(random.integers(len(descriptors)))]
    distances: list[float] = []
    nearest = np.full(len(descriptors), np.inf)
    while len(chosen) < min(count, len(descriptors)):
        newest = descriptors[chosen[-1]]
        nearest = np.minimum(nearest, np.linalg.norm(descriptors - newest, axis=1))
        nearest[chosen[-1]] = -np.inf  # not again
        chosen.append(int(np.argmax(nearest)))
        distances.append(float(nearest[chosen[-1]]))
    return chosen, distances
