"""Random training patches, cut on the device the network trains on, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from mirnet_edge.workstation.tasks.batch import Batch, Task, noise_of, with_level

Draw = Callable[[int, int, Generator], Batch]
"""Makes a batch of (patches, side in pixels, generator); nothing waits for the device."""


class PatchSampler:
    """Holds all images, (H, W, C) uint8, on one device and cuts batches of square patches, each
    turned or mirrored by one of the eight symmetries of the square. All pixels of the images that
    are as large as a patch are equally likely.

    A batch costs one gather: images lie end to end in one uint8 tensor, and a patch is a grid of
    positions in it.
    """

    def __init__(self, images: Sequence[NDArray[np.uint8]], device: torch.device) -> None:
        self.device = device
        sizes = torch.tensor([image.shape[:2] for image in images])
        self._areas, self._least_sides = sizes.prod(1), sizes.amin(1)
        ends = self._areas.cumsum(0)
        self._pixels = torch.empty(
            (int(ends[-1]), images[0].shape[2]), dtype=torch.uint8, device=device
        )
        for image, end in zip(images, ends.tolist()):
            pixels = torch.tensor(image.reshape(-1, image.shape[2]))
            self._pixels[end - len(pixels) : end] = pixels
        self._heights, self._widths = sizes.to(device).unbind(1)
        self._starts = (ends - self._areas).to(device)
        self._choices: dict[int, tuple[Tensor, int, float]] = {}

    def draw(self, batch: int, patch_px: int, generator: Generator) -> Tensor:
        """(batch, C, patch, patch) float32 in [0, 1]; at least one image must be as large."""

        def uniform(limit: Tensor | float) -> Tensor:
            # In float32, the product of a value just below 1 and a limit can round up to the limit.
            values = torch.rand(batch, device=self.device, generator=generator, dtype=torch.float64)
            return values * limit

        area_ends, last, whole = self._choice(patch_px)
        chosen = torch.searchsorted(area_ends, uniform(whole), right=True).clamp(max=last)
        top = uniform(self._heights[chosen] - patch_px + 1).long()
        left = uniform(self._widths[chosen] - patch_px + 1).long()
        y, x = self._grid(patch_px, uniform(8).long())
        y, x = y + top[:, None, None], x + left[:, None, None]
        positions = self._starts[chosen, None, None] + y * self._widths[chosen, None, None] + x
        return self._pixels[positions].permute(0, 3, 1, 2).float().div(255).contiguous()

    def _choice(self, patch_px: int) -> tuple[Tensor, int, float]:
        """Where the areas of the images that are large enough end, the last of these images, and
        the whole area."""
        if patch_px not in self._choices:
            fits = self._least_sides >= patch_px
            ends = (self._areas * fits).cumsum(0).double()
            last = int(fits.nonzero().max())
            self._choices[patch_px] = (ends.to(self.device), last, float(ends[-1]))
        return self._choices[patch_px]

    def _grid(self, patch_px: int, symmetry: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column, within the patch, of each pixel of each turned patch."""
        last = patch_px - 1
        line = torch.arange(patch_px, device=self.device)
        y, x = torch.meshgrid(line, line, indexing="ij")
        mirror_y, mirror_x, transpose = ((symmetry >> bit & 1)[:, None, None] for bit in range(3))
        y, x = torch.where(mirror_y == 1, last - y, y), torch.where(mirror_x == 1, last - x, x)
        return torch.where(transpose == 1, x, y), torch.where(transpose == 1, y, x)


def degraded_patches(sampler: PatchSampler, task: Task, noise_level: bool) -> Draw:
    """Clean patches, and what the task makes of them; without the level that it tells of their
    noise, where the network takes none."""

    def draw(batch: int, patch_px: int, generator: Generator) -> Batch:
        clean = sampler.draw(batch, patch_px, generator)
        degraded = task.degrade(clean, generator)
        if noise_level:
            return degraded
        return Batch(degraded.given[:, : clean.shape[1]], degraded.target)

    return draw


def paired_patches(sampler: PatchSampler, noise_level: bool) -> Draw:
    """Patches of pairs, whose six channels are the degraded and the good picture; told, where the
    network takes a noise level, the root mean square of their difference."""

    def draw(batch: int, patch_px: int, generator: Generator) -> Batch:
        degraded, good = sampler.draw(batch, patch_px, generator).chunk(2, 1)
        told = noise_of(degraded, good)
        return Batch(with_level(degraded, told) if noise_level else degraded, good)

    return draw
