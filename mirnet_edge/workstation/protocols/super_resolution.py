"""Super-resolution: pictures made small, to be made large again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from mirnet_edge.errors import ConfigError, DataError
from mirnet_edge.frames.bicubic import resized
from mirnet_edge.frames.noise import add_gaussian_noise, to_uint8, unit_range
from mirnet_edge.metrics import matlab_luma, psnr
from mirnet_edge.workstation.coding import check_jpeg, jpeg_coded
from mirnet_edge.workstation.protocols.sample import (
    Figures,
    Frame,
    Picture,
    Sample,
    measure_rgb,
    refuse_given,
    without_false_colour,
)


@dataclass(frozen=True)
class SuperResolution:
    """A picture made small, to be made large again.

    As it stands, the literature's: cut to a multiple of ``scale``, downscaled as MATLAB's
    ``imresize`` does (bicubic, antialiased), rounded to 8 bits; PSNR and SSIM of the luma that
    MATLAB's ``rgb2ycbcr`` makes of 8-bit pixels, without a border of ``scale`` pixels. A picture
    without colour is a gray frame, whose pixels are its luma. PSNR over RGB stands beside.

    Attributes:
        scale: 2, 3 or 4.
        jpeg: quality of a JPEG file (4:2:0) that the small picture goes through.
        sigma: of white Gaussian noise in the small picture, in units of 1/255, before JPEG.
    """

    scale: int
    jpeg: int | None = None
    sigma: float = 0.0

    titles: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"psnr": "dB, Y", "ssim": "SSIM, Y", "psnr_rgb": "dB, RGB"}
    )

    def __post_init__(self) -> None:
        if self.scale not in (2, 3, 4):
            raise ConfigError(f"scale={self.scale}: super-resolution is by 2, 3 or 4")
        if not 0 <= self.sigma <= 255:
            raise ConfigError(f"sigma={self.sigma}: noise has a level of 0 to 255")
        check_jpeg(self.jpeg)

    @property
    def name(self) -> str:
        """Short, for tables."""
        parts = [f"×{self.scale}"] + [f"σ {self.sigma:g}"] * bool(self.sigma)
        return ", ".join(parts + [f"JPEG q{self.jpeg}"] * bool(self.jpeg))

    @property
    def sentence(self) -> str:
        """What is done to a picture and how the result is measured."""
        worse = f", noise of σ = {self.sigma:g}" if self.sigma else ""
        worse += f", JPEG of quality {self.jpeg} in 4:2:0" if self.jpeg else ""
        return (
            f"downscaled by {self.scale} as MATLAB's imresize does, rounded to 8 bits{worse}; PSNR "
            f"and SSIM of MATLAB's 8-bit luma without a border of {self.scale} pixels"
        )

    def sample(self, clean: Picture, seed: int, given: Picture | None = None) -> Sample:
        """Make a picture small; see `Protocol.sample`.

        Raises:
            DataError: the picture is too small for that.
        """
        refuse_given(self, given)
        clean = without_false_colour(clean)
        height, width = (side // self.scale for side in clean.shape[:2])
        if min(height, width) * self.scale <= 2 * self.scale:
            raise DataError(
                f"a picture of {clean.shape[1]}x{clean.shape[0]} pixels is too small for scale "
                f"{self.scale}: nothing is left of it inside the border"
            )
        clean = clean[: height * self.scale, : width * self.scale]
        reference = unit_range(clean)
        small = to_uint8(_resized(reference, height, width))
        if self.sigma:
            small = to_uint8(add_gaussian_noise(small, self.sigma, seed))
        if self.jpeg:
            small = jpeg_coded(small, self.jpeg)
        enlarged = _resized(unit_range(small), *clean.shape[:2]).clip(0, 1)
        return Sample(unit_range(small), reference, enlarged)

    def measure(self, image: Frame, sample: Sample, with_ssim: bool = True) -> Figures:
        """PSNR and SSIM of the luma, and PSNR over RGB, all inside the border."""
        inside = np.s_[self.scale : -self.scale, self.scale : -self.scale]
        pixels = [to_uint8(picture)[inside] for picture in (image, sample.reference)]
        luma, luma_wanted = (unit_range(matlab_luma(picture)) for picture in pixels)
        figures = measure_rgb(luma, luma_wanted, with_ssim)
        return {**figures, "psnr_rgb": psnr(*map(unit_range, pixels))}


def _resized(image: Frame, height: int, width: int) -> Frame:
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    return np.ascontiguousarray(resized(planes, height, width).transpose(1, 2, 0))
