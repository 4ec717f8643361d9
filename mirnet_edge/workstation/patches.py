"""Random training patches, cut on the device the network trains on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class PatchSampler:
    """Holds all images, (H, W, 3) and none smaller than a patch, on one device and cuts batches of
    square patches, each turned or mirrored by one of the eight symmetries of the square.

    A batch costs one gather: images lie end to end in one uint8 tensor, and a patch is a grid of
    positions in it.
    """

    def __init__(
        self, images: Sequence[NDArray[np.uint8]], patch_px: int, device: torch.device
    ) -> None:
        self.patch_px, self.device = patch_px, device
        pixels = np.concatenate([image.reshape(-1, 3) for image in images])
        self._pixels = torch.from_numpy(pixels).to(device)
        sizes = torch.tensor([image.shape[:2] for image in images])
        ends = sizes.prod(1).cumsum(0)
        self._heights, self._widths = sizes.to(device).unbind(1)
        self._starts = (ends - sizes.prod(1)).to(device)

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """(batch, 3, patch, patch) float32 in [0, 1]."""
        size = self.patch_px

        def uniform(limit: Tensor | int) -> Tensor:
            # In float32, the product of a value just below 1 and a limit can round up to the limit.
            values = torch.rand(batch, device=self.device, generator=generator, dtype=torch.float64)
            return (values * limit).long()

        chosen = uniform(len(self._starts))
        top = uniform(self._heights[chosen] - size + 1)
        left = uniform(self._widths[chosen] - size + 1)
        symmetry = uniform(8)
        y, x = self._grid(symmetry)
        y, x = y + top[:, None, None], x + left[:, None, None]
        positions = self._starts[chosen, None, None] + y * self._widths[chosen, None, None] + x
        return self._pixels[positions].permute(0, 3, 1, 2).float().div(255).contiguous()

    def _grid(self, symmetry: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column, within the patch, of each pixel of each turned patch."""
        last = self.patch_px - 1
        line = torch.arange(self.patch_px, device=self.device)
        y, x = torch.meshgrid(line, line, indexing="ij")
        mirror_y, mirror_x, transpose = ((symmetry >> bit & 1)[:, None, None] for bit in range(3))
        y, x = torch.where(mirror_y == 1, last - y, y), torch.where(mirror_x == 1, last - x, x)
        return torch.where(transpose == 1, x, y), torch.where(transpose == 1, y, x)
