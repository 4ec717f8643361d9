"""Weights of a noise estimator for tests: random ones, so that nothing depends on a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mirnet_edge.frames import noise_estimator
from mirnet_edge.frames.noise_estimator import SHAPES


def random_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Of `SHAPES`, such that features neither fade nor grow from layer to layer."""
    random = np.random.default_rng(seed)
    return {
        name: (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def level_at(brightness: float) -> float:
    """What an estimator of `brightness_weights` tells of a picture: from 0.9 where it is black to
    34.7 where it is white."""
    return 50 * float(np.log1p(np.exp(4 * brightness - 4)))


def brightness_weights() -> dict[str, np.ndarray]:
    """Of an estimator whose answer can be told in advance, see `level_at`."""
    weights = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    weights["conv1.weight"][0, :, 1, 1] = 1 / 48
    for name in ("conv2", "conv3"):
        weights[f"{name}.weight"][0, 0, 1, 1] = 1
    weights["linear1.weight"][0, 0] = 1
    weights["linear2.weight"][0, 0] = 4
    weights["linear2.bias"][0] = -4
    return weights


def write_weights(folder: Path, weights: dict[str, np.ndarray] | None = None) -> Path:
    """As the package has them."""
    path = folder / "weights.npz"
    np.savez(path, **(random_weights() if weights is None else weights))
    return path


@pytest.fixture
def brightness_estimator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lets all levels be those of `level_at`."""
    return _installed(brightness_weights(), tmp_path, monkeypatch)


@pytest.fixture
def random_estimator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lets levels depend on each pixel, much."""
    weights = random_weights()
    weights["linear2.weight"] *= 30
    weights["linear2.bias"][0] = 42.5
    return _installed(weights, tmp_path, monkeypatch)


def _installed(
    weights: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    folder = tmp_path / "estimator"
    folder.mkdir()
    path = write_weights(folder, weights)
    monkeypatch.setattr(noise_estimator, "WEIGHTS", path)
    return path
