"""A camera, as torch operations on batches: from the picture back to the light that fell on the
sensor, the sensor's noise and mosaic, and the way to the picture again.

After Brooks et al., "Unprocessing Images for Learned Raw Denoising" (CVPR 2019). All batches are
(N, 3, H, W) float32; whatever is random is drawn for each image of the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

XYZ_OF_RGB = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750),
              (0.0193339, 0.1191920, 0.9503041))  # fmt: skip
"""sRGB's primaries (IEC 61966-2-1)."""
CAMERA_OF_XYZ = (
    ((1.0234, -0.2969, -0.2266), (-0.5625, 1.6328, -0.0469), (-0.0703, 0.2188, 0.6406)),
    ((0.4913, -0.0541, -0.0202), (-0.6130, 1.3513, 0.2906), (-0.1564, 0.2151, 0.7183)),
    ((0.8380, -0.2630, -0.0639), (-0.2887, 1.0725, 0.2496), (-0.0627, 0.1427, 0.5438)),
    ((0.6596, -0.2079, -0.0562), (-0.4782, 1.3016, 0.1933), (-0.0970, 0.1581, 0.5181)),
)
"""Colour matrices of four cameras, from the metadata of their DNG files."""
BAYER = (((1, 0), (0, 0)), ((0, 1), (1, 0)), ((0, 0), (0, 1)))
"""Where a sensor sees red, green, and blue."""
LUMA = (0.299, 0.587, 0.114)
YCC_OF_RGB = (LUMA, (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""BT.601, as JPEG has it."""


@cache
def constant(values: Any, device: torch.device) -> Tensor:
    """Nested tuples as a float32 tensor, copied to a device once: a copy may wait for it."""
    return torch.tensor(values, dtype=torch.float32, device=device)


class Draw:
    """Draws numbers for the images of a batch, shaped (N, 1, 1, 1), on the generator's device."""

    def __init__(self, count: int, generator: Generator) -> None:
        self.count, self.generator, self.device = count, generator, generator.device

    def uniform(self, low: float, high: float) -> Tensor:
        shape = (self.count, 1, 1, 1)
        return low + (high - low) * torch.rand(shape, device=self.device, generator=self.generator)

    def log_uniform(self, low: float, high: float) -> Tensor:
        return self.uniform(math.log(low), math.log(high)).exp()

    def normal(self) -> Tensor:
        return torch.randn((self.count, 1, 1, 1), device=self.device, generator=self.generator)

    def chance(self, share: float) -> Tensor:
        """1 for about ``share`` of the images, 0 for the others."""
        return (self.uniform(0, 1) < share).float()

    def noise_like(self, batch: Tensor) -> Tensor:
        return torch.randn(batch.shape, device=self.device, generator=self.generator)


@dataclass(frozen=True)
class Development:
    """What a camera does to the light: one tensor for each image of a batch.

    Attributes:
        to_rgb: (N, 3, 3), from the sensor's colours to linear sRGB.
        gains: (N, 3, 1, 1), of the white balance and the exposure.
    """

    to_rgb: Tensor
    gains: Tensor

    @classmethod
    def drawn(cls, draw: Draw) -> Development:
        """A camera between the known ones, under light of some colour."""
        xyz, cameras = (constant(m, draw.device) for m in (XYZ_OF_RGB, CAMERA_OF_XYZ))
        share = torch.cat([draw.uniform(1e-8, 1) for _ in CAMERA_OF_XYZ], 1)[:, :, 0]  # (N, 4, 1)
        mixed = (cameras[None] * (share / share.sum(1, keepdim=True))[..., None]).sum(1)
        from_rgb = mixed @ xyz
        from_rgb = from_rgb / from_rgb.sum(2, keepdim=True)  # white stays white
        exposure = 1 / (0.8 + 0.1 * draw.normal()).clamp(0.5, 1.1)
        gains = torch.cat((draw.uniform(1.9, 2.4), torch.ones_like(exposure),
                           draw.uniform(1.5, 1.9)), 1)  # fmt: skip
        return cls(_inverse_3x3(from_rgb), gains * exposure)

    def undone(self, picture: Tensor) -> Tensor:
        """The light on the sensor that gives this picture."""
        linear = unrendered(picture)
        sensed = _mixed(_inverse_3x3(self.to_rgb), linear)
        # Where the picture is white its light is not divided as much: what was cut off there is
        # unknown, and a gain below one would make grey of it.
        gray = sensed.mean(1, keepdim=True)
        mask = ((gray - 0.9).clamp(min=0) / 0.1) ** 2
        inverse = 1 / self.gains
        safe = torch.maximum(mask + (1 - mask) * inverse, inverse)
        return (sensed * safe).clamp(0, 1)

    def done(self, light: Tensor) -> Tensor:
        """The picture of this light."""
        balanced = (light * self.gains).clamp(0, 1)
        return rendered(_mixed(self.to_rgb, balanced))


def unrendered(picture: Tensor) -> Tensor:
    """Linear light of a picture: the tone curve (3x² - 2x³) and the gamma undone."""
    curve = 0.5 - torch.sin(torch.asin((1 - 2 * picture).clamp(-1, 1)) / 3)
    return curve.clamp(min=1e-8) ** 2.2


def rendered(linear: Tensor) -> Tensor:
    """Gamma and tone curve."""
    gamma = linear.clamp(1e-8, 1) ** (1 / 2.2)
    return 3 * gamma**2 - 2 * gamma**3


def sensor_noise(light: Tensor, shot: Tensor, read: Tensor, draw: Draw) -> Tensor:
    """Light with noise of the variance ``shot`` * light + ``read``."""
    return light + draw.noise_like(light) * (shot * light + read).clamp(min=0).sqrt()


def shot_and_read(draw: Draw, low: float = 1e-4, high: float = 0.012) -> tuple[Tensor, Tensor]:
    """Variances as sensors have them together (paper, section 3.1)."""
    shot = draw.log_uniform(low, high)
    read = (2.18 * shot.log() + 1.20 + 0.26 * draw.normal()).exp()
    return shot, read


def mosaicked(light: Tensor) -> Tensor:
    """What a Bayer sensor (RGGB) sees of (N, 3, H, W), and bilinear interpolation of the rest; H
    and W even."""
    n, _, height, width = light.shape
    seen = constant(BAYER, light.device).repeat(1, height // 2, width // 2)
    tent = constant((0.5, 1.0, 0.5), light.device)
    kernel = (tent[:, None] * tent)[None, None].repeat(3, 1, 1, 1)
    # Reflected without the edge pixel, which keeps the mosaic's phase.
    padded = F.pad(torch.cat((light * seen, seen.expand(n, -1, -1, -1)), 1), (1,) * 4, "reflect")
    near = F.conv2d(padded, kernel.repeat(2, 1, 1, 1), groups=6)
    return near[:, :3] / near[:, 3:]


def blurred(batch: Tensor, sigma: Tensor, radius: int = 4) -> Tensor:
    """Gaussian blur, ``sigma`` (N, 1, 1, 1) or (N, C, 1, 1) pixels."""
    n, channels, height, width = batch.shape
    if n == 0:  # which a reflection does not take
        return batch
    steps = torch.arange(-radius, radius + 1, device=batch.device, dtype=torch.float32)
    sigma = sigma.expand(n, channels, 1, 1).reshape(-1, 1).clamp(min=0.05)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    # A filter for each plane: they become the groups of one convolution.
    planes = F.pad(batch.reshape(1, n * channels, height, width), (radius,) * 4, "reflect")
    lines = F.conv2d(planes, weights[:, None, None, :], groups=n * channels)
    return F.conv2d(lines, weights[:, None, :, None], groups=n * channels).view_as(batch)


def to_ycc(rgb: Tensor) -> Tensor:
    """Luma and two colour differences (BT.601), neither cut nor offset."""
    return _mixed(constant(YCC_OF_RGB, rgb.device), rgb)


def from_ycc(ycc: Tensor) -> Tensor:
    """Undo `to_ycc`."""
    return _mixed(_inverse_3x3(constant(YCC_OF_RGB, ycc.device)), ycc)


def gray_of(rgb: Tensor) -> Tensor:
    """The luma in all three planes."""
    weights = constant(LUMA, rgb.device).view(1, 3, 1, 1)
    return (rgb * weights).sum(1, keepdim=True).expand_as(rgb)


def eight_bit(picture: Tensor) -> Tensor:
    """Cut to [0, 1] and rounded to 256 levels."""
    return (picture.clamp(0, 1) * 255).round() / 255


def _mixed(matrix: Tensor, batch: Tensor) -> Tensor:
    """(3, 3) or (N, 3, 3) times the colours of each pixel."""
    return (matrix @ batch.flatten(2)).view_as(batch)


def _inverse_3x3(matrix: Tensor) -> Tensor:
    """By cofactors: torch.linalg.inv waits for the GPU."""
    a, b, c = matrix.unbind(-2)
    columns = (torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b))
    determinant = (a * columns[0]).sum(-1)[..., None, None]
    inverse: Tensor = torch.stack(columns, -1) / determinant
    return inverse
