"""What JPEG and video codecs lose, as torch operations on batches."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mirnet_edge.workstation.tasks.camera import constant, eight_bit, from_ycc, to_ycc

LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99), (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)  # fmt: skip
"""Steps of quantization (ITU-T T.81, annex K)."""
PAIRS = 2
"""Of shots, whose mean `mean_jpeg` takes."""


def jpeg(batch: Tensor, quality: Tensor, flat: Tensor, offset: Tensor | None = None) -> Tensor:
    """(N, 3, H, W) in [0, 1], H and W multiples of 16, as a 4:2:0 JPEG gives it back.

    Args:
        quality: (N, 1, 1, 1), of the IJG's scale, 1 to 100.
        flat: (N, 1, 1, 1), 1 where all frequencies have the step that the lowest has, as video
            codecs quantize; 0 for JPEG's tables.
        offset: (2,) int64, where the grid of blocks begins; None is at the corner.
    """
    shifted = batch if offset is None else _rolled(batch, offset)
    factor = torch.where(quality < 50, 50 / quality, 2 - quality / 50)  # of the tables
    ycc = to_ycc(shifted.clamp(0, 1) * 255)
    luma = _quantized(ycc[:, :1] - 128, LUMINANCE, factor, flat)
    chroma = _quantized(F.avg_pool2d(ycc[:, 1:], 2), CHROMINANCE, factor, flat)
    # As decoders enlarge chroma: three parts of the near sample, one of the far.
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")
    decoded = from_ycc(torch.cat((luma + 128, chroma), 1)) / 255
    picture = (decoded.clamp(0, 1) * 255).round() / 255
    return picture if offset is None else _rolled(picture, -offset)


def mean_jpeg(
    clean: Tensor,
    noise: Tensor,
    quality: Tensor,
    flat: Tensor,
    offset: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """What JPEG leaves of clean pictures on the average of noisy shots of them.

    Noise dithers the steps of quantization, so that the mean of many frames keeps detail that the
    JPEG of a clean frame has lost; and that mean is what a camera's pairs have as their clean half
    (PolyU: Xu et al., arXiv 1804.02603). `PAIRS` of them are made here with the pictures' own
    noise, moved so that it is not where it was, and the second of each pair with its negative, so
    that of the noise itself little is left.

    Args:
        clean, noise: (N, 3, H, W), of which the sum is what the camera coded.
        quality, flat, offset: as `jpeg` takes them.
    """
    total = torch.zeros_like(clean)
    for _ in range(PAIRS):
        by = torch.randint(1, clean.shape[3], (2,), device=clean.device, generator=generator)
        moved = _rolled(noise, by)
        for shot in (clean + moved, clean - moved):
            total += jpeg(eight_bit(shot), quality, flat, offset)
    return total / (2 * PAIRS)


def _rolled(batch: Tensor, offset: Tensor) -> Tensor:
    """(N, C, H, W) moved by ``offset``, (2,) int64, around the borders: torch.roll over rows and
    columns, which the host would have to tell by how much."""
    rows, columns = (
        (torch.arange(side, device=batch.device) - by) % side
        for side, by in zip(batch.shape[2:], offset)
    )
    return batch[:, :, rows[:, None], columns]


def _quantized(planes: Tensor, table: tuple[tuple[int, ...], ...], factor: Tensor,
               flat: Tensor) -> Tensor:  # fmt: skip
    basis = _dct_basis(planes.device)
    steps = constant(table, planes.device)
    steps = flat * steps[0, 0] + (1 - flat) * steps  # (N, 1, 8, 8)
    steps = (steps * factor).round().clamp(1, 255)[:, :, None, None]
    n, channels, height, width = planes.shape
    blocks = planes.view(n, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    frequencies = basis @ blocks @ basis.T
    kept = (frequencies / steps).round() * steps
    return (basis.T @ kept @ basis).transpose(3, 4).reshape_as(planes)


def _dct_basis(device: torch.device) -> Tensor:
    """The orthonormal DCT-II of length 8: rows are frequencies."""
    k = torch.arange(8, device=device, dtype=torch.float32)
    basis = torch.cos(math.pi / 8 * (k[None] + 0.5) * k[:, None]) / 2
    basis[0] /= math.sqrt(2)
    return basis
