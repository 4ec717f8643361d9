"""Noise that evaluation and the demo add to clean images, always seeded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import ConfigError

CLIPPED_SHARE = 0.5
"""Of noisy training and calibration images, the share that is clamped to [0, 1] and rounded to
8 bits, as every frame of a camera is; the others keep the noise's tails, as the literature's
benchmarks do."""


def add_gaussian_noise(image: NDArray[np.uint8], sigma: float, seed: int) -> NDArray[np.float32]:
    """A uint8 image as float32 in [0, 1] with white Gaussian noise of ``sigma``/255 added, neither
    clamped nor rounded; the same for the same seed and shape on every machine."""
    if seed < 0 or sigma < 0:
        raise ConfigError(f"seed={seed}, sigma={sigma}: neither may be negative")
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(image.shape, np.float32)
    noisy: NDArray[np.float32] = unit_range(image) + np.float32(sigma / 255) * noise
    return noisy


def unit_range(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 as float32 in [0, 1]."""
    scaled: NDArray[np.float32] = np.divide(image, np.float32(255), dtype=np.float32)
    return scaled


def to_uint8(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 in [0, 1] clamped and rounded to uint8, as a camera would."""
    levels: NDArray[np.uint8] = np.rint(image.clip(0, 1) * np.float32(255)).astype(np.uint8)
    return levels
