"""From histograms to clips: against numpy, brute force and theory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirnet_edge.quantize.ranges.histogram import (
    BINS,
    Histogram,
    entropy_clip,
    expected_error,
    mse_clip,
    percentile_clip,
)

Values = np.ndarray[Any, np.dtype[np.float32]]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], Values]] = {
    "normal": lambda random, n: random.standard_normal(n, np.float32),
    "laplace": lambda random, n: random.laplace(size=n).astype(np.float32),
    "after a ReLU": lambda random, n: np.maximum(random.standard_normal(n, np.float32), 0),
    "shifted": lambda random, n: random.standard_normal(n, np.float32) + 3,
    "uniform": lambda random, n: random.random(n, np.float32) * 7 - 1,
    "two levels": lambda random, n: random.integers(0, 2, n).astype(np.float32) * 0.3,
    "one outlier": lambda random, n: np.append(
        random.standard_normal(n - 1, np.float32), 40
    ).astype(np.float32),
}


def histogram_of(values: Values) -> Histogram:
    histogram = Histogram(float(np.abs(values).max()))
    for part in np.array_split(values, 3):
        histogram.add(part)
    return histogram


def quantization_error(values: Values, clip: float) -> float:
    """As QuantizeLinear and DequantizeLinear compute it."""
    scale = clip / 127
    levels = np.clip(np.rint(values.astype(np.float64) / scale), -128, 127)
    return float(np.mean((levels * scale - values) ** 2))


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_histogram_counts_as_numpy_does(name: str) -> None:
    values = DISTRIBUTIONS[name](generator(), 4001)
    histogram = histogram_of(values)
    amax = np.float32(np.abs(values).max())
    expected, _ = np.histogram(values, BINS, range=(-amax, amax))
    assert np.array_equal(histogram.counts, expected)
    assert histogram.counts.sum() == 4001


def test_values_beyond_the_range_count_as_its_ends() -> None:
    histogram = Histogram(1.0)
    histogram.add(np.array([-5, 0, 1.5, 2], np.float32))
    counts = histogram.counts
    assert (counts[0], counts[BINS // 2], counts[-1]) == (1, 1, 2)
    assert len(counts) == BINS


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(sorted(DISTRIBUTIONS)),
    count=st.integers(200, 5000),
    percentile=st.floats(50, 100),
    seed=st.integers(0, 100),
)
def test_percentile_is_numpys_of_the_magnitudes(
    name: str, count: int, percentile: float, seed: int
) -> None:
    values = DISTRIBUTIONS[name](generator(seed), count)
    found = percentile_clip(histogram_of(values), percentile)
    bin_width = 2 * np.abs(values).max() / BINS
    ordered = np.sort(np.abs(values))
    rank = percentile / 100 * count  # between the neighbours of this rank any value will do
    low = ordered[max(int(np.floor(rank - 1e-6)) - 1, 0)]
    high = ordered[min(int(np.ceil(rank + 1e-6)), count - 1)]
    assert low - bin_width <= found <= high + bin_width


def test_percentile_of_many_values_is_close_to_numpys() -> None:
    values = DISTRIBUTIONS["normal"](generator(), 200_000)
    histogram = histogram_of(values)
    for percentile in (90, 99, 99.9, 99.99):
        expected = np.percentile(np.abs(values), percentile)
        assert percentile_clip(histogram, percentile) == pytest.approx(expected, rel=0.002)
    assert percentile_clip(histogram, 100) == pytest.approx(np.abs(values).max(), rel=1e-6)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_clip_is_as_good_as_brute_force(name: str) -> None:
    values = DISTRIBUTIONS[name](generator(1), 30_000)
    clip = mse_clip(histogram_of(values))
    grid = np.linspace(1 / 300, 1.0, 300) * np.abs(values).max()
    best = min(quantization_error(values, candidate) for candidate in grid)
    assert quantization_error(values, clip) <= 1.02 * best + 1e-9
    assert 0 < clip <= np.abs(values).max() * (1 + 1e-6)


@pytest.mark.parametrize(("name", "clip_in_scales"), [("normal", 3.92), ("laplace", 9.89)])
def test_mse_clip_is_what_theory_says(name: str, clip_in_scales: float) -> None:
    """Optimal 8-bit clips of Banner et al., "Post training 4-bit quantization of convolutional
    networks for rapid-deployment", 2019."""
    values = DISTRIBUTIONS[name](generator(2), 2_000_000)
    assert mse_clip(histogram_of(values)) == pytest.approx(clip_in_scales, rel=0.03)


@settings(max_examples=40, deadline=None)
@given(clip=st.floats(0.003, 1.5), seed=st.integers(0, 100))
def test_expected_error_is_the_error_of_values_spread_over_their_bins(
    clip: float, seed: int
) -> None:
    counts = generator(seed).integers(0, 5, 41)
    counts[20] += 1
    edges = np.linspace(-1, 1, 42)
    within = (np.arange(4000) + 0.5) / 4000
    values = (edges[:-1, None] + np.diff(edges)[:, None] * within).ravel()
    scale = clip / 127
    errors = (np.clip(np.rint(values / scale), -128, 127) * scale - values) ** 2
    expected = counts @ errors.reshape(41, -1).mean(1) / counts.sum()
    assert expected_error(counts, edges, clip) == pytest.approx(expected, rel=0.01)


def test_entropy_clip_ignores_an_outlier_and_keeps_the_bulk() -> None:
    values = DISTRIBUTIONS["one outlier"](generator(), 100_000)
    assert 2 < entropy_clip(histogram_of(values)) < 20


def test_entropy_clip_of_few_values_is_the_largest_magnitude() -> None:
    values = DISTRIBUTIONS["one outlier"](generator(), 1000)
    assert entropy_clip(histogram_of(values)) == 40
