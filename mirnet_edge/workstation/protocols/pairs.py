"""Pairs: pictures of which both halves are there, as taken and as wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mirnet_edge.errors import DataError
from mirnet_edge.frames.noise import unit_range
from mirnet_edge.workstation.protocols.sample import (
    BRIGHT_TITLES,
    BRIGHTNESS,
    RGB_TITLES,
    Figures,
    Frame,
    Picture,
    Sample,
    brightness_matched_psnr,
    level_between,
    measure_rgb,
)


@dataclass(frozen=True)
class Pairs:
    """Pictures that come in two halves: as it was taken, and as it should be.

    Attributes:
        brightness: measure PSNR after the mean brightness was matched as well, as some papers on
            low light do; it tells apart what a network makes of the picture and of its exposure.
    """

    brightness: bool = False

    @property
    def name(self) -> str:
        """Short, for tables."""
        return "pairs"

    @property
    def sentence(self) -> str:
        """What is done to a picture and how the result is measured."""
        return f"pairs as they are; {BRIGHTNESS if self.brightness else 'PSNR and SSIM over RGB'}"

    @property
    def titles(self) -> Mapping[str, str]:
        """Of the figures."""
        return BRIGHT_TITLES if self.brightness else RGB_TITLES

    def sample(
        self,
        clean: Picture,
        seed: int,  # noqa: ARG002 - every protocol takes it, and here nothing is drawn
        given: Picture | None = None,
    ) -> Sample:
        """Take a pair as it is; see `Protocol.sample`.

        Raises:
            DataError: one half is missing, or the two differ in size.
        """
        if given is None:
            raise DataError("pairs need a given picture for each wanted one; name both folders")
        if given.shape != clean.shape:
            raise DataError(
                f"the given picture has {given.shape[1]}x{given.shape[0]} pixels and the "
                f"wanted one {clean.shape[1]}x{clean.shape[0]}; a pair has one size"
            )
        shown, reference = unit_range(given), unit_range(clean)
        return Sample(shown, reference, shown, level_between(shown, reference))

    def measure(self, image: Frame, sample: Sample, with_ssim: bool = True) -> Figures:
        """PSNR and SSIM over RGB, and PSNR after the mean brightness was matched if so asked."""
        figures = measure_rgb(image, sample.reference, with_ssim)
        if self.brightness:
            figures["psnr_bright"] = brightness_matched_psnr(image, sample.reference)
        return figures
