"""What a network pools over a frame: its vectors, and how those of tiles add up to the frame's.

A MIRNet takes means over all positions at many places, some of them weighted by a softmax. Both
kinds add up alike: a tile hands over the mean over its kept region and the *mass* that it stands
for, and the frame's mean is the mean of the tiles' weighted by mass. Of a plain mean the mass is
the region's area; of a softmax mean it is the sum of the exponentials, kept as a logarithm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import EngineError

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Pool:
    """One place where a network takes a mean over the frame.

    Attributes:
        name: of the tensor that held the mean in the plain graph.
        kind: "mean", or "softmax" for a mean weighted by the softmax of a map of logits.
        channels: of the vector.
        scale: pixels of the frame for each position of the map, along each axis.
    """

    name: str
    kind: Literal["mean", "softmax"]
    channels: int
    scale: int


@dataclass(frozen=True)
class Weights:
    """The kept region of a tile, as the gather graph takes it: equal weights of sum one inside, 0
    outside, in rows (1, 1, H, 1) and columns (1, 1, 1, W), and the region's area in pixels."""

    rows: NDArray[np.float32]
    columns: NDArray[np.float32]
    area: int

    @classmethod
    def of(cls, size: tuple[int, int], rows: slice, columns: slice) -> Weights:
        """Weigh these rows and columns of a tile of (height, width) pixels."""
        sides = []
        for length, inside in zip(size, (rows, columns)):
            weights = np.zeros(length, np.float32)
            weights[inside] = 1 / (inside.stop - inside.start)
            sides.append(weights)
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return cls(sides[0].reshape(1, 1, -1, 1), sides[1].reshape(1, 1, 1, -1), area)


@dataclass(frozen=True)
class Partial:
    """What one tile contributes.

    Attributes:
        vectors: (1, C, 1, 1) for each pool: means over the kept region.
        log_masses: of each pool; 0 for a plain mean, the logarithm of the mean exponential over
            the kept region for a softmax mean.
        area: of the kept region, in pixels of the frame.
    """

    vectors: tuple[Vector, ...]
    log_masses: tuple[float, ...]
    area: int


@dataclass(frozen=True)
class Statistics:
    """The pooled vectors of a frame, (1, C, 1, 1) float32 each, in the order of the pools."""

    vectors: tuple[Vector, ...]

    @classmethod
    def of(cls, partials: Sequence[Partial]) -> Statistics:
        """Join what the tiles of a frame, at least one, contribute; in float64, so that their
        number does not matter. An EngineError tells of a vector that is not finite."""
        # Softmax masses span hundreds of powers of e: they are added as logarithms, the largest
        # taken off first, so that no exponential overflows.
        areas = np.log([float(partial.area) for partial in partials])
        vectors = []
        for index in range(len(partials[0].vectors)):
            masses = areas + [partial.log_masses[index] for partial in partials]
            shares = np.exp(masses - masses.max())
            stack = np.stack([partial.vectors[index] for partial in partials])
            mean = np.tensordot(shares / shares.sum(), stack, axes=1)
            if not np.isfinite(mean).all():
                raise EngineError(
                    f"the engine pooled NaN or infinity at pool {index}; an FP16 overflow? Try an "
                    "FP32 model."
                )
            vectors.append(mean.astype(np.float32))
        return cls(tuple(vectors))

    def distance(self, other: Statistics) -> float:
        """Return the largest difference of an element, relative to the largest element of its
        vector in either."""
        pairs = zip(self.vectors, other.vectors, strict=True)
        shares = (np.abs(a - b).max() / max(np.abs([a, b]).max(), 1e-30) for a, b in pairs)
        return float(max(shares, default=0.0))

    def towards(self, other: Statistics, weight: float) -> Statistics:
        """Go from this (weight 0) towards ``other`` (weight 1)."""
        near, pairs = np.float32(weight), zip(self.vectors, other.vectors, strict=True)
        return Statistics(tuple(a + near * (b - a) for a, b in pairs))
