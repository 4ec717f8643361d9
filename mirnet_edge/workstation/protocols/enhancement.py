"""Enhancement: pictures darkened, to be made light again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import ConfigError
from mirnet_edge.frames.noise import to_uint8, unit_range
from mirnet_edge.workstation.protocols.sample import (
    BRIGHT_TITLES,
    BRIGHTNESS,
    Figures,
    Frame,
    Picture,
    Sample,
    brightness_matched_psnr,
    measure_rgb,
    refuse_given,
)


@dataclass(frozen=True)
class Enhancement:
    """A picture taken with too little light: darkened in linear light, with a sensor's noise.

    Synthetic, to see whether a network does anything; real pairs tell how good it is (`Pairs`).

    Attributes:
        exposure: share of the light that is left, in linear light (sRGB's curve undone).
        shot: variance of the noise, in linear light, for a pixel of full brightness.
        read: standard deviation of the noise that is there without light.
    """

    exposure: float = 0.1
    shot: float = 1e-4
    read: float = 1e-3

    titles: ClassVar[Mapping[str, str]] = BRIGHT_TITLES

    def __post_init__(self) -> None:
        if not 0 < self.exposure <= 1 or min(self.shot, self.read) < 0:
            raise ConfigError(
                f"exposure={self.exposure}, shot={self.shot}, read={self.read}: exposure is above "
                "0 and at most 1, and noise not negative"
            )

    @property
    def name(self) -> str:
        """Short, for tables."""
        return f"exposure {self.exposure:g}"

    @property
    def sentence(self) -> str:
        """What is done to a picture and how the result is measured."""
        return (
            f"darkened to {self.exposure:g} of the light, with noise of variance {self.shot:g} of "
            f"it and of deviation {self.read:g}, rounded to 8 bits; {BRIGHTNESS}"
        )

    def sample(self, clean: Picture, seed: int, given: Picture | None = None) -> Sample:
        """Darken a picture; see `Protocol.sample`."""
        refuse_given(self, given)
        reference = unit_range(clean)
        light = self.exposure * _linear(reference)
        noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(clean.shape, np.float32)
        dark = light + np.sqrt(self.shot * light + self.read**2) * noise
        shown = unit_range(to_uint8(_srgb(dark.clip(0, 1)).astype(np.float32)))
        return Sample(shown, reference, shown)

    def measure(self, image: Frame, sample: Sample, with_ssim: bool = True) -> Figures:
        """PSNR and SSIM over RGB, and PSNR after the mean brightness was matched."""
        figures = measure_rgb(image, sample.reference, with_ssim)
        return {**figures, "psnr_bright": brightness_matched_psnr(image, sample.reference)}


def _linear(srgb: Frame) -> NDArray[np.float64]:
    """sRGB's transfer function undone (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _srgb(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
