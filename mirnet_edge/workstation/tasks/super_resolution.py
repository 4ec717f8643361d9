"""Super-resolution: what a small picture does not hold, and bicubic interpolation cannot make."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from mirnet_edge.errors import ConfigError
from mirnet_edge.frames.bicubic import bicubic_matrix
from mirnet_edge.model.config import Config
from mirnet_edge.workstation.tasks.batch import Batch, edge_network

if TYPE_CHECKING:
    from torch import Generator, Tensor, device


@dataclass(frozen=True)
class SuperResolution:
    """Pictures made smaller by MATLAB's bicubic interpolation, and enlarged by it again.

    Attributes:
        scale: 2, 3 or 4.
        clean: fraction of the patches that are as the literature's tests have them; the others
            have noise of a camera, and the losses of JPEG, at the small size.
        sigma: greatest standard deviation of that noise, in units of 1/255.
    """

    scale: int = 2
    clean: float = 0.4
    sigma: float = 8.0

    name: ClassVar[str] = "super-resolution"
    restores: ClassVar[str] = "super-resolution"

    def __post_init__(self) -> None:
        if self.scale not in (2, 3, 4):
            raise ConfigError(f"scale={self.scale}: need 2, 3 or 4")

    def network(self, config: Config) -> Config:
        """On blocks of ``scale`` x ``scale`` pixels, so that it works at the small size."""
        return replace(edge_network(config, self.name), shuffle=self.scale)

    def degrade(self, clean: Tensor, generator: Generator) -> Batch:
        """See `Task.degrade`."""
        import torch

        from mirnet_edge.workstation.tasks.camera import Draw, blurred, eight_bit
        from mirnet_edge.workstation.tasks.codec import jpeg
        from mirnet_edge.workstation.tasks.denoise import grained

        draw = Draw(len(clean), generator)
        height, width = clean.shape[2:]
        small = height // self.scale, width // self.scale

        def resized(batch: Tensor, size: tuple[int, int]) -> Tensor:
            rows, columns = (
                _matrix(old, new, clean.device) for old, new in zip(batch.shape[2:], size)
            )
            return rows @ batch @ columns.T

        exact = draw.chance(self.clean) > 0
        # Lenses blur before sensors sample; the literature's tests have no lens.
        sharp = exact | (draw.chance(0.5) > 0)
        lens = blurred(clean, draw.uniform(0.1, 0.35 * self.scale))
        shrunk = eight_bit(resized(torch.where(sharp, clean, lens), small))
        noisy = eight_bit(grained(shrunk, draw, most=self.sigma))
        coded = jpeg(
            noisy,
            draw.uniform(60, 100),
            torch.zeros(len(clean), 1, 1, 1, device=clean.device),
            torch.randint(16, (2,), device=clean.device, generator=generator),
        )
        degraded = torch.where(draw.chance(0.6) > 0, coded, noisy)
        small_picture = torch.where(exact, shrunk, degraded)
        return Batch(resized(small_picture, (height, width)), clean)


@cache
def _matrix(length: int, new_length: int, on: device) -> Tensor:
    """`bicubic_matrix` on a device, copied there once."""
    import torch

    return torch.from_numpy(bicubic_matrix(length, new_length)).to(on)
