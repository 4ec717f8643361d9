"""What all protocols are and share: a sample, its figures, and how two pictures are compared."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import DataError
from mirnet_edge.metrics import bt601_luma, psnr, ssim

Frame = NDArray[np.float32]
Picture = NDArray[np.uint8]
Figures = dict[str, float]
"""By name: "psnr" in dB and "ssim" of the protocol's own kind, and what it measures beside."""
RGB_TITLES: Mapping[str, str] = MappingProxyType({"psnr": "dB", "ssim": "SSIM"})
BRIGHT_TITLES: Mapping[str, str] = MappingProxyType(
    {"psnr": "dB", "ssim": "SSIM", "psnr_bright": "dB, brightness matched"}
)
BRIGHTNESS = "PSNR and SSIM over RGB, and PSNR after the mean brightness was matched"


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture as a protocol asks for it.

    Attributes:
        given: (h, w, C) float32, what the network gets; noise may leave [0, 1].
        reference: (H, W, C) float32 in [0, 1], what it should return.
        before: (H, W, C) float32, ``given`` as it is compared with the reference: itself, or
            enlarged bicubically where the network is to enlarge.
        noise: how noisy ``given`` is, in units of 1/255; None where it is not for noise.
    """

    given: Frame
    reference: Frame
    before: Frame
    noise: float | None = None


class Protocol(typing.Protocol):
    """What all protocols are.

    Attributes:
        name: short, for tables.
        sentence: what is done to a picture and how the result is measured.
        titles: of the figures, in the order of a table's columns.
    """

    @property
    def name(self) -> str: ...
    @property
    def sentence(self) -> str: ...
    @property
    def titles(self) -> Mapping[str, str]: ...

    def sample(self, clean: Picture, seed: int, given: Picture | None = None) -> Sample:
        """Make a test of a picture.

        Args:
            clean: (H, W, 3) uint8, three equal channels for a gray picture.
            seed: of what is drawn; the same seed and picture give the same sample everywhere.
            given: the picture's other half, for `Pairs` alone, of which it is needed.
        """

    def measure(self, image: Frame, sample: Sample, with_ssim: bool = True) -> Figures:
        """Compare ``image`` with the reference of a sample; both (H, W, C)."""


def measure_rgb(image: Frame, reference: Frame, with_ssim: bool) -> Figures:
    """PSNR, and SSIM if so asked, over all channels."""
    figures = {"psnr": psnr(image, reference)}
    if with_ssim:
        figures["ssim"] = ssim(image, reference)
    return figures


def without_false_colour(image: Picture) -> Picture:
    """(H, W, 1) where three equal channels hold a gray picture."""
    # Noise of three colours over a gray picture is what no gray camera delivers, and averaging the
    # channels alone would then count as denoising.
    return image[..., :1] if (image == image[..., :1]).all() else image


def level_between(noisy: Frame, clean: Frame) -> float:
    """The noise level as networks are told it: the root of the mean squared difference, in units of
    1/255."""
    difference = noisy.astype(np.float64) - clean
    return float(255 * np.sqrt(np.mean(difference * difference)))


def brightness_matched_psnr(image: Frame, reference: Frame) -> float:
    """PSNR of ``image`` times the number that gives its luma the reference's mean, clamped."""
    mean, wanted = float(bt601_luma(image).mean()), float(bt601_luma(reference).mean())
    matched = image * np.float32(wanted / mean) if mean > 0 else image
    return psnr(matched.clip(0, 1), reference)


def refuse_given(protocol: Protocol, given: Picture | None) -> None:
    """Check that a protocol on clean pictures got no pair."""
    if given is not None:
        raise DataError(f"the test {protocol.name} makes its own inputs; take Pairs for pairs")
