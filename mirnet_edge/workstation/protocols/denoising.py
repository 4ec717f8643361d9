"""Denoising: noise added to clean pictures, and what cameras and codecs make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mirnet_edge.errors import ConfigError, DataError
from mirnet_edge.frames.noise import add_gaussian_noise, to_uint8, unit_range
from mirnet_edge.metrics import bt601_luma
from mirnet_edge.workstation.coding import check_jpeg, h264_coded, jpeg_coded
from mirnet_edge.workstation.protocols.sample import (
    RGB_TITLES,
    Figures,
    Frame,
    Picture,
    Sample,
    level_between,
    measure_rgb,
    refuse_given,
    without_false_colour,
)

CODED_FRAMES = 8
"""Frames of the video of which one is given: enough for it to be predicted from others."""


@dataclass(frozen=True)
class Denoising:
    """White Gaussian noise, and what a camera's software makes of it.

    As it stands, the literature's: noise of ``sigma``/255 in every channel, neither clamped nor
    rounded; PSNR and SSIM over RGB. A picture without colour is a gray frame, and so is its noise.

    Attributes:
        sigma: standard deviation of the noise, in units of 1/255.
        gray: the picture as its luma (BT.601), one channel, with noise of that channel.
        jpeg: quality, 1 to 100; the noisy picture is clamped, rounded and goes through a JPEG file.
        subsampling: of that file's chroma.
        quantize: clamp and round the noisy picture to 8 bits, as a camera does.
        codec: "h264": the noisy picture, clamped and rounded, is the middle one of `CODED_FRAMES`
            frames, each with noise of its own, of a video at x264's CRF 23 in 4:2:0; cut to an even
            height and width.
    """

    sigma: float = 25.0
    gray: bool = False
    jpeg: int | None = None
    subsampling: str = "4:2:0"
    quantize: bool = False
    codec: str | None = None

    titles: ClassVar[Mapping[str, str]] = RGB_TITLES

    def __post_init__(self) -> None:
        if not 0 <= self.sigma <= 255:
            raise ConfigError(f"sigma={self.sigma}: noise has a level of 0 to 255")
        check_jpeg(self.jpeg, self.subsampling)
        if self.codec not in (None, "h264"):
            raise ConfigError(f"codec={self.codec!r}: there is 'h264', or None for no video")
        if self.codec and (self.gray or self.jpeg):
            raise ConfigError("codec='h264' goes with neither gray nor jpeg: test them apart")

    @property
    def name(self) -> str:
        """Short, for tables."""
        parts = [f"σ {self.sigma:g}" if self.sigma else "clean"]
        parts += ["gray"] * self.gray + ["8 bits"] * (self.quantize and not self._coded)
        parts += [f"JPEG q{self.jpeg}"] * bool(self.jpeg) + ["H.264"] * bool(self.codec)
        return ", ".join(parts)

    @property
    def sentence(self) -> str:
        """What is done to a picture and how the result is measured."""
        noise = f"white Gaussian noise of σ = {self.sigma:g}" if self.sigma else "no noise"
        then = "clamped and rounded to 8 bits" if self._rounded else "neither clamped nor rounded"
        if self.jpeg:
            then += f", JPEG of quality {self.jpeg} in {self.subsampling}"
        if self.codec:
            then += f", one of {CODED_FRAMES} frames of an H.264 video (CRF 23, 4:2:0)"
        kind = "the gray picture" if self.gray else "RGB"
        return f"{noise}, {then}; PSNR and SSIM over {kind}"

    @property
    def _coded(self) -> bool:
        return bool(self.jpeg or self.codec)

    @property
    def _rounded(self) -> bool:
        return self.quantize or self._coded

    def sample(self, clean: Picture, seed: int, given: Picture | None = None) -> Sample:
        """Add noise to a picture; see `Protocol.sample`."""
        refuse_given(self, given)
        clean = _gray_of(clean) if self.gray else without_false_colour(clean)
        if self.codec:
            clean = clean[: clean.shape[0] // 2 * 2, : clean.shape[1] // 2 * 2]
            if clean.size == 0:
                raise DataError("a picture of one row or column cannot be a frame of H.264")
        noisy = add_gaussian_noise(clean, self.sigma, seed)
        reference = unit_range(clean)
        if not self._rounded:
            return Sample(noisy, reference, noisy, self.sigma)
        rounded = to_uint8(noisy)
        if self.jpeg:
            rounded = jpeg_coded(rounded, self.jpeg, self.subsampling)
        if self.codec:
            rounded = self._frame_of_video(clean, rounded, seed)
        noisy = unit_range(rounded)
        return Sample(noisy, reference, noisy, level_between(noisy, reference))

    def _frame_of_video(self, clean: Picture, noisy: Picture, seed: int) -> Picture:
        middle = CODED_FRAMES // 2
        # Seeds of the frames around it: far from those of the other pictures, which count upwards.
        around = [10**6 * (1 + number) + seed for number in range(CODED_FRAMES)]
        frames = [to_uint8(add_gaussian_noise(clean, self.sigma, other)) for other in around]
        frames[middle] = noisy
        in_colour = [np.broadcast_to(frame, (*frame.shape[:2], 3)).copy() for frame in frames]
        return h264_coded(in_colour)[middle][..., : clean.shape[2]]

    def measure(self, image: Frame, sample: Sample, with_ssim: bool = True) -> Figures:
        """PSNR and SSIM over all channels."""
        return measure_rgb(image, sample.reference, with_ssim)


def _gray_of(image: Picture) -> Picture:
    return to_uint8(bt601_luma(unit_range(image)))
