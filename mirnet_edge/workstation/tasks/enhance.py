"""Low-light enhancement: pictures that were exposed far too shortly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from mirnet_edge.model.config import Config
from mirnet_edge.workstation.tasks.batch import Batch, edge_network

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Enhance:
    """Pictures of too little light, in which a camera's noise shows; what is asked back is the
    picture, its exposure drawn towards the middle.

    Attributes:
        exposure: least and greatest share of the light that is left; each patch draws its own.
        middle: the mean of luma that targets are drawn to.
        drawn: how far: 0 keeps each picture's own exposure, 1 gives all the same.
        power: least and greatest power of about half of the dark pictures: cameras that render less
            than a gamma leave the darker parts of a picture darker still. 2.2 is linear light shown
            as it is, which is what the pairs of LOL look like.
    """

    exposure: tuple[float, float] = (0.005, 0.25)
    middle: float = 0.5
    drawn: float = 0.8
    power: tuple[float, float] = (1.0, 2.4)

    name: ClassVar[str] = "enhance"
    restores: ClassVar[str] = "enhance"
    scale: ClassVar[int] = 1

    def network(self, config: Config) -> Config:
        """With context blocks: how dark a frame is shows in its means, not around a pixel."""
        return replace(edge_network(config, self.name), context=True)

    def degrade(self, clean: Tensor, generator: Generator) -> Batch:
        """See `Task.degrade`."""
        import torch

        from mirnet_edge.workstation.tasks.camera import (
            LUMA,
            Draw,
            blurred,
            constant,
            eight_bit,
            rendered,
            sensor_noise,
            shot_and_read,
            unrendered,
        )

        draw = Draw(len(clean), generator)
        weights = constant(LUMA, clean.device).view(1, 3, 1, 1)
        mean = (clean * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True).clamp(0.02, 0.98)
        # The power that takes the mean, seen as one grey, to the middle.
        middle = (torch.log(torch.full_like(mean, self.middle)) / mean.log()).clamp(0.4, 2.5)
        target = clean.clamp(min=1e-6) ** (middle**self.drawn)

        # Some cameras render with a tone curve that deepens shadows, others with gamma alone: what
        # is dark gains contrast by the one and keeps it by the other.
        curved = draw.chance(0.3) > 0
        deep = torch.where(draw.chance(0.7) > 0, draw.uniform(*self.power), 1.0)
        deep = torch.where(curved, 1.0, deep)
        light = torch.where(curved, unrendered(target), target**2.2)
        # What the power takes from the light is no longer the exposure's to take.
        light = light * draw.log_uniform(*self.exposure) ** (1 / deep)
        # A camera's white balance is wrong in little light.
        cast = torch.cat([draw.normal() for _ in range(3)], 1)
        light = light * (0.06 * cast).exp()
        shot, read = shot_and_read(draw, 2e-5, 1e-3)
        noisy = sensor_noise(light, shot, read, draw).clamp(1e-8, 1)
        share = draw.uniform(0.5, 1.0)
        gamma = noisy ** (deep / 2.2)
        dark = torch.where(curved, share * rendered(noisy) + (1 - share) * gamma, gamma)
        # Noise reduction, most of it in the camera's smallest detail.
        dark = torch.where(draw.chance(0.5) > 0, blurred(dark, draw.uniform(0.3, 1.0)), dark)
        return Batch(eight_bit(dark), target)
