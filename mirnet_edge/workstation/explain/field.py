"""The receptive field: on which pixels of the input one pixel of the output depends, how much, and
by which of two ways: through the convolutions near it, or through the means over the frame.

The first way ends at a distance that the architecture tells (`model.support`). How much of it a
trained network uses is told by the gradient, as in Luo et al., "Understanding the Effective
Receptive Field in Deep Convolutional Neural Networks", NeurIPS 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mirnet_edge.model.layers import Network
from mirnet_edge.model.support import reach_px
from mirnet_edge.workstation.explain.hooks import Array, given

POINTS = ((0, 0), (1, 2), (2, 1), (3, 3))
"""From the middle of the frame: several places in the network's grid of blocks and halvings, which
do not see equally far."""


@dataclass(frozen=True)
class Field:
    """Gradients of the mean colour of an output pixel, averaged over `POINTS`.

    Attributes:
        local: (2 R + 1, 2 R + 1): absolute gradient with respect to the input around the pixel,
            summed over colours, pooled vectors held; R is the larger ``reach``, or half the frame
            where that is less.
        reach: how many pixels before and after itself a pixel can see at most, exactly.
        farthest: the largest distance at which a gradient was found.
        through_means: (H, W): the absolute gradient through pooled vectors.
        share_of_means: its sum, as a share of the sum of both.
        brightening: by how much the pixel rises where the whole input rises by one, through the
            convolutions and through the means: the sums of both, with their signs.
    """

    local: NDArray[np.float64]
    reach: tuple[int, int]
    farthest: int
    through_means: NDArray[np.float64]
    share_of_means: float
    brightening: tuple[float, float]

    @property
    def within(self) -> NDArray[np.float64]:
        """The share of ``local`` within distance 0, 1, 2, … R (the larger of both axes')."""
        distance = _distance(self.local.shape[0] // 2)
        sums = np.bincount(distance.ravel(), weights=self.local.ravel())
        shares: NDArray[np.float64] = np.cumsum(sums) / max(float(sums.sum()), 1e-300)
        return shares

    def radius(self, share: float) -> int:
        """The least distance within which this share of ``local`` is."""
        return int(np.searchsorted(self.within, share))

    def beyond(self, pixels: int) -> float:
        """The share of ``local`` that is farther away."""
        within = self.within
        return float(1 - within[min(pixels, len(within) - 1)])


def receptive_field(network: Network, tensor: Array, vectors: list[Array]) -> Field:
    """Measure it in the middle of a picture.

    Args:
        tensor: (1, planes, H, W), what the network is given.
        vectors: what its pools make of it, in their order.
    """
    with given(network, vectors):
        direct = _gradients(network, tensor)
    pooled = _gradients(network, tensor) - direct
    reach = reach_px(network.config)
    height, width = tensor.shape[2:]
    radius = min(max(reach), height // 2, width // 2)
    window = np.zeros((2 * radius + 1, 2 * radius + 1))
    for gradient, (row, column) in zip(np.abs(direct).sum(1), POINTS, strict=True):
        middle = height // 2 + row, width // 2 + column
        padded = np.pad(gradient, radius)
        window += padded[
            middle[0] : middle[0] + 2 * radius + 1, middle[1] : middle[1] + 2 * radius + 1
        ]
    through_means = np.abs(pooled).sum((0, 1)) / len(POINTS)
    found = np.argwhere(window > 0)
    both = float(np.abs(direct).sum() + np.abs(pooled).sum())
    return Field(
        local=window / len(POINTS),
        reach=reach,
        farthest=int(np.abs(found - radius).max(initial=0)),
        through_means=through_means,
        share_of_means=float(np.abs(pooled).sum()) / max(both, 1e-300),
        brightening=(float(direct.sum()) / len(POINTS), float(pooled.sum()) / len(POINTS)),
    )


def _gradients(network: Network, tensor: Array) -> NDArray[np.float64]:
    """(points, colours, H, W): of each point's mean colour with respect to the frame's planes; a
    plane that tells the noise level is left out."""
    image = torch.from_numpy(tensor.copy()).requires_grad_()
    height, width = tensor.shape[2:]
    with torch.enable_grad():
        output = network(image)
        found = [
            torch.autograd.grad(
                output[0, :, height // 2 + row, width // 2 + column].mean(),
                image,
                retain_graph=True,
            )[0]
            for row, column in POINTS
        ]
    gradients: NDArray[np.float64] = torch.cat(found).double().numpy()
    return gradients[:, : network.config.in_channels]


def _distance(radius: int) -> NDArray[np.int64]:
    """(2 radius + 1, 2 radius + 1): of each position from the middle, along the farther axis."""
    offsets = np.abs(np.arange(-radius, radius + 1))
    distance: NDArray[np.int64] = np.maximum(offsets[:, None], offsets[None])
    return distance
