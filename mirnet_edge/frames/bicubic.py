"""Bicubic interpolation as the literature of super-resolution means it: MATLAB's ``imresize``.

Keys' kernel (IEEE TASSP 1981) with a = -0.5; positions at the centres of pixels; at the borders the
frame goes on mirrored, its last pixel repeated; where an image becomes smaller, the kernel is
stretched so that it takes in all that a pixel of the result covers (antialiasing).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TAPS = 4
"""Pixels that reach one pixel of an enlarged frame along one axis."""


def keys_kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight of a sample at ``distance``, 0 from 2 on."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def bicubic_taps(
    length: int, new_length: int, positions: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which samples of an axis of ``length`` make which of its ``new_length`` resized ones.

    Args:
        positions: of the resized samples wanted; None takes all.

    Returns:
        Indices and weights, both (positions, taps); the weights of each sum to one.
    """
    if positions is None:
        positions = np.arange(new_length)
    scale = new_length / length
    stretch = min(scale, 1.0)
    centres = (positions + 0.5) / scale - 0.5
    taps = TAPS if scale >= 1 else int(np.ceil(TAPS / stretch)) + 2
    first = np.floor(centres - 2 / stretch).astype(np.int64) + 1
    indices = first[:, None] + np.arange(taps)
    weights = keys_kernel((centres[:, None] - indices) * stretch)
    weights /= weights.sum(1, keepdims=True)
    return mirrored(indices, length), weights.astype(np.float32)


def mirrored(positions: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Positions mirrored into an axis of ``length`` samples, whose first and last are repeated."""
    folded = positions % (2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)


def bicubic_matrix(length: int, new_length: int) -> NDArray[np.float32]:
    """The same as a matrix (new_length, length)."""
    indices, weights = bicubic_taps(length, new_length)
    matrix = np.zeros((new_length, length), np.float32)
    np.add.at(matrix, (np.arange(new_length)[:, None], indices), weights)
    return matrix


def resized(planes: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """(C, H, W) float32 to (C, height, width), neither clamped nor rounded."""
    rows = bicubic_matrix(planes.shape[1], height)
    columns = bicubic_matrix(planes.shape[2], width)
    result: NDArray[np.float32] = rows @ planes @ columns.T
    return result
