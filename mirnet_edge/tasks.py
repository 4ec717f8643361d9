"""What a network is trained to undo: synthetic degradations of clean images, always seeded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import ConfigError

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Denoise:
    """Blind denoising of additive white Gaussian noise.

    Attributes:
        sigma: least and greatest standard deviation, in units of 1/255; each patch draws its own.
        clipped: fraction of the patches that are clamped to [0, 1] and rounded to 8 bits after the
            noise was added, as every frame of a camera is; the others keep the noise's tails, as
            the literature's benchmarks do.
    """

    sigma: tuple[float, float] = (0.0, 50.0)
    clipped: float = 0.5

    def degrade(self, clean: Tensor, generator: Generator) -> Tensor:
        """(N, C, H, W) in [0, 1] to the same with noise. ``generator`` on the same device."""
        import torch

        def draw(n: int) -> Tensor:
            return torch.rand((n, 1, 1, 1), device=clean.device, generator=generator)

        low, high = (sigma / 255 for sigma in self.sigma)
        sigma = low + (high - low) * draw(len(clean))
        noise = torch.randn(clean.shape, device=clean.device, generator=generator)
        noisy = clean + sigma * noise
        as_camera = (noisy.clamp(0, 1) * 255).round() / 255
        return torch.where(draw(len(clean)) < self.clipped, as_camera, noisy)


TASKS = {"denoise": Denoise()}


def task_named(name: str) -> Denoise:
    """The training task called ``name``.

    Raises:
        ConfigError: there is none; the message lists them.
    """
    if name not in TASKS:
        raise ConfigError(f"no task {name!r} can be trained yet; there are: {', '.join(TASKS)}")
    return TASKS[name]


def add_gaussian_noise(image: NDArray[np.uint8], sigma: float, seed: int) -> NDArray[np.float32]:
    """A uint8 image as float32 in [0, 1] with white Gaussian noise of ``sigma``/255 added, neither
    clamped nor rounded; the same for the same seed and shape on every machine.

    Raises:
        ConfigError: a negative seed or sigma.
    """
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
