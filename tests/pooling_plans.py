"""Tiles, pooled vectors and comparisons for tests of plans with pooling; see `fake_tensorrt`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from fake_gpu import FakeGpu

from mirnet_edge.engines.graph_engine import OnnxStatistics
from mirnet_edge.pooling.vectors import Partial, Statistics, Weights

TILE = (16, 24)
REGION = Weights.of(TILE, slice(4, 16), slice(0, 20))
WHOLE = Weights.of(TILE, slice(0, 16), slice(0, 24))
WritePlans = Callable[..., Path]


def random_tiles(count: int, seed: int = 0) -> np.ndarray:
    """Each brighter than the one before, so that their statistics differ."""
    tiles = np.random.default_rng(seed).random((count, 3, *TILE), np.float32)
    return tiles * np.linspace(0.4, 1, count + 1, dtype=np.float32)[1:, None, None, None]


def some_statistics(portable: OnnxStatistics, seed: int = 9) -> Statistics:
    _, partial = portable.gather(random_tiles(1, seed), WHOLE, None)
    return Statistics(partial.vectors)


def assert_close(found: np.ndarray, expected: np.ndarray, error: float = 1e-5) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=error * np.ptp(expected) + 1e-9)


def assert_alike(found: Partial, expected: Partial, error: float = 1e-5) -> None:
    assert found.area == expected.area
    np.testing.assert_allclose(found.log_masses, expected.log_masses, atol=10 * error)
    for vector, wanted in zip(found.vectors, expected.vectors, strict=True):
        assert vector.shape == wanted.shape
        np.testing.assert_allclose(vector, wanted, rtol=0, atol=error * np.abs(wanted).max())


def floats(gpu: FakeGpu, address: int, count: int) -> np.ndarray:
    return gpu.bytes_at(address, 4 * count).view(np.float32)


def put(gpu: FakeGpu, address: int, values: np.ndarray) -> None:
    floats(gpu, address, values.size)[...] = values.reshape(-1)
