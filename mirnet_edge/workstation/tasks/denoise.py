"""Denoising: what training adds to clean patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mirnet_edge.frames.noise import CLIPPED_SHARE

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Denoise:
    """Blind denoising of additive white Gaussian noise.

    Attributes:
        sigma: least and greatest standard deviation, in units of 1/255; each patch draws its own.
        clipped: fraction of the patches that are clamped to [0, 1] and rounded to 8 bits after the
            noise was added (see `CLIPPED_SHARE`).
    """

    sigma: tuple[float, float] = (0.0, 50.0)
    clipped: float = CLIPPED_SHARE
    name: ClassVar[str] = "denoise"

    def degrade(self, clean: Tensor, generator: Generator) -> Tensor:
        """(N, C, H, W) in [0, 1] to the same with noise. ``generator`` on the same device."""
        import torch  # the command line lists the tasks on machines without it too

        def draw(n: int) -> Tensor:
            return torch.rand((n, 1, 1, 1), device=clean.device, generator=generator)

        low, high = (sigma / 255 for sigma in self.sigma)
        sigma = low + (high - low) * draw(len(clean))
        noise = torch.randn(clean.shape, device=clean.device, generator=generator)
        noisy = clean + sigma * noise
        as_camera = (noisy.clamp(0, 1) * 255).round() / 255
        return torch.where(draw(len(clean)) < self.clipped, as_camera, noisy)
