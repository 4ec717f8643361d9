"""How unlike images are, and choosing those that are most unlike."""

from __future__ import annotations

import math

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
    colours = np.quantile(sample, SHARES, axis=(0, 1)) / 255
    # In int16: differences of uint8 would wrap around.
    across = np.diff(frame[:: steps[0]].astype(np.int16), axis=1)[:, :: steps[1]]
    along = np.diff(frame[:, :: steps[1]].astype(np.int16), axis=0)[:: steps[0]]
    # One zero more: a frame of a single pixel has no differences.
    differences = np.abs(np.concatenate([across.ravel(), along.ravel(), np.zeros(1, np.int16)]))
    detail = np.log2(1 + np.quantile(differences, SHARES)) / 8
    rows = np.array_split(sample, min(4, len(sample)))
    cells = [cell for row in rows for cell in np.array_split(row, min(4, row.shape[1]), axis=1)]
    layout = np.resize([cell.mean((0, 1)) / 255 for cell in cells], (16, frame.shape[2]))
    return np.concatenate(
        [part.ravel() / math.sqrt(part.size) for part in (colours, detail, layout)]
    )


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
