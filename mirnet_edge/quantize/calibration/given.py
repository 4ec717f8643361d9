"""What a network is given of a clean picture: noise and its level, or fewer pixels enlarged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.facts import NOISE_UNIT
from mirnet_edge.frames.bicubic import resized
from mirnet_edge.frames.layout import FrameLayout
from mirnet_edge.frames.noise import CLIPPED_SHARE, add_gaussian_noise, to_uint8, unit_range


@dataclass(frozen=True)
class Given:
    """How the tiles that a network is given are made of clean ones.

    Attributes:
        sigmas: of the white Gaussian noise added, in units of 1/255, in turn from tile to tile;
            none leaves the pictures as they are.
        scale: the picture is made smaller by it, rounded to 8 bits, and enlarged to its old size.
        noise_level: whether one more plane tells the level of the noise: the RMS of what was added.
            Where none was, nobody knows what noise there is: the tiles tell levels evenly spaced
            over all that can be told, so that ranges hold for whatever a user asks for.
        seed: of the noise.
    """

    sigmas: Sequence[float] = ()
    scale: int = 1
    noise_level: bool = False
    seed: int = 0

    @property
    def has_targets(self) -> bool:
        """Whether what is given is another picture than the clean one."""
        return len(self.sigmas) > 0 or self.scale > 1

    def tile(
        self, crop: NDArray[np.uint8], target: NDArray[np.float32], index: int, count: int
    ) -> NDArray[np.float32]:
        """What is given as the tile ``index`` of ``count``: (planes, H, W) float32.

        Args:
            crop: (h, w, C) clean pixels, at most a tile.
            target: (C, H, W), the crop as a tile.
        """
        height, width = target.shape[1:]
        small = (height // self.scale, width // self.scale)
        picture = crop if self.scale == 1 else to_uint8(resized(target, *small).transpose(1, 2, 0))
        shown = unit_range(picture)
        level = NOISE_UNIT * (index + 0.5) / count
        if self.sigmas:
            noisy = self._noisy(picture, index)
            level = 255 * math.sqrt(float(np.mean(np.square(noisy - shown, dtype=np.float64))))
            shown = noisy
        planes = planes_of(shown, small)
        if self.scale > 1:
            planes = resized(planes, height, width)
        if not self.noise_level:
            return planes
        plane = np.full((1, height, width), level / NOISE_UNIT, np.float32)
        return np.concatenate([planes, plane])

    def _noisy(self, picture: NDArray[np.uint8], index: int) -> NDArray[np.float32]:
        """With noise; clamped and rounded where the running share `CLIPPED_SHARE` says so."""
        sigma = self.sigmas[index % len(self.sigmas)]
        noisy = add_gaussian_noise(picture, sigma, self.seed + index)
        clipped = math.floor((index + 1) * CLIPPED_SHARE) > math.floor(index * CLIPPED_SHARE)
        return unit_range(to_uint8(noisy)) if clipped else noisy


def planes_of(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """(C, H, W) float32 of this size, as `Restorer` makes it of a frame that is these pixels."""
    planes = np.empty((pixels.shape[2], *size), np.float32)
    whole = (slice(0, size[0]), slice(0, size[1]))
    FrameLayout.of(pixels, pixels.shape[2]).load(pixels, whole, planes)
    return planes
