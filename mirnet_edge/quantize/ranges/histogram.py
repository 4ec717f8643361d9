"""From a histogram of a tensor's values to the symmetric range that INT8 quantization clips to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require

ENTROPY_BINS = 1023
BINS = 7 * ENTROPY_BINS
"""Of a histogram, both signs together; odd, so that zeros lie in the middle of a bin. The search
for the least divergence is quadratic in them (0.13 s a tensor with 1023, 0.5 with 2047; one core),
so it gets coarser ones."""
PERCENTILE = 99.99
LEVELS = 255  # -127 to 127
FEWEST_VALUES = 100 * LEVELS
"""With fewer, empty bins rule the divergence: the pooled vectors of edge-s, 64 values a tile, came
out at a quarter of their largest magnitude."""
SMALLEST_CLIP = 2.0**-12
"""Of the largest magnitude: below it, a clip would be a single bin's guess."""


@dataclass(eq=False)
class Histogram:
    """How often which values occurred in one tensor.

    Attributes:
        amax: the largest magnitude there will be, positive.
        counts: (BINS,) over equal bins of [-amax, amax].
    """

    amax: float
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: NDArray[np.float32]) -> None:
        """Count an array of any shape; magnitudes beyond ``amax`` count as it."""
        # In float32 as the values are: the largest of them lies on the last edge, not beyond it.
        end = np.float32(self.amax)
        self.counts += np.histogram(values.clip(-end, end), BINS, range=(-end, end))[0]

    @property
    def edges(self) -> NDArray[np.float64]:
        """(BINS + 1,) between the bins."""
        return np.linspace(-self.amax, self.amax, BINS + 1)


def percentile_clip(histogram: Histogram, percentile: float = PERCENTILE) -> float:
    """The magnitude that ``percentile`` % of the values do not exceed, interpolated in its bin."""
    counts, middle = histogram.counts, BINS // 2
    folded = counts[middle:] + np.concatenate([[0], counts[:middle][::-1]])
    bounds = np.concatenate([[0.0], histogram.edges[middle + 1 :]])
    below = np.concatenate([[0], np.cumsum(folded)])
    return float(np.interp(percentile / 100 * below[-1], below, bounds))


def entropy_clip(histogram: Histogram) -> float:
    """The clip whose quantized histogram has the least Kullback-Leibler divergence from the whole
    one (Migacz, "8-bit Inference with TensorRT", GTC 2017), by ONNX Runtime's search; ``amax``
    where there are too few values to tell."""
    counts = histogram.counts.reshape(ENTROPY_BINS, -1).sum(1)
    if counts.sum() < FEWEST_VALUES:
        return histogram.amax
    edges = histogram.edges[:: BINS // ENTROPY_BINS].astype(np.float32)
    calibrate = require("onnxruntime.quantization.calibrate", "calibration")
    # For its search alone: its histograms take the width of their bins from the first tile.
    collector = calibrate.HistogramCollector("entropy", True, ENTROPY_BINS, LEVELS, 100.0, "same")
    whole = (counts, edges, edges[0], edges[-1])
    low, high = collector.get_entropy_threshold(whole, LEVELS)
    return max(-float(low), float(high))


def mse_clip(histogram: Histogram) -> float:
    """The clip whose INT8 quantization has the least expected squared error, rounding and clipping
    together (Nagel et al., "A White Paper on Neural Network Quantization", arXiv 2106.08295, MSE
    under "Quantization range setting"); found on a grid of clips, then on a finer one around the
    best."""
    counts, edges = histogram.counts, histogram.edges
    grid = np.geomspace(SMALLEST_CLIP, 1, 49) * histogram.amax
    for _ in range(2):
        errors = [expected_error(counts, edges, clip) for clip in grid]
        index = int(np.argmin(errors))
        best = grid[index]
        grid = np.linspace(grid[max(index - 1, 0)], grid[min(index + 1, len(grid) - 1)], 33)
    return float(best)


def expected_error(counts: NDArray[np.int64], edges: NDArray[np.float64], clip: float) -> float:
    """Mean squared error of quantizing to round(x / s) · s with s = clip / 127, saturating at -128
    and 127, for values that are uniform within each bin.

    Exact for these: the square error of one cell of the quantizer integrates to s³/12, and that
    from a level to x to r³/3, where r is the distance; beyond the last level it is r³/3 as well.
    """
    scale = clip / 127
    level = np.clip(np.rint(edges / scale), -128, 127)
    integral = level * scale**3 / 12 + (edges - level * scale) ** 3 / 3
    return float(counts @ np.diff(integral) / (edges[1] - edges[0]) / max(counts.sum(), 1))
