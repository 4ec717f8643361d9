"""Denoising of additive white Gaussian noise, for the literature's tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from mirnet_edge.model.config import Config
from mirnet_edge.workstation.tasks.batch import Batch, edge_network, with_level

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Gaussian:
    """White noise in all channels, neither cut nor rounded, its level told.

    Attributes:
        sigma: least and greatest standard deviation, in units of 1/255; each patch draws its own.
    """

    sigma: tuple[float, float] = (0.0, 55.0)

    name: ClassVar[str] = "gaussian"
    restores: ClassVar[str] = "denoise"
    scale: ClassVar[int] = 1

    def network(self, config: Config) -> Config:
        """With a noise level."""
        return replace(edge_network(config, self.name), noise_level=True)

    def degrade(self, clean: Tensor, generator: Generator) -> Batch:
        """See `Task.degrade`."""
        from mirnet_edge.workstation.tasks.camera import Draw

        draw = Draw(len(clean), generator)
        level = draw.uniform(*self.sigma) / 255
        return Batch(with_level(clean + level * draw.noise_like(clean), level), clean)
