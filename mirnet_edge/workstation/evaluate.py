"""PSNR and SSIM of a model on a folder of clean images with seeded noise."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import DataError, ImageError
from mirnet_edge.frame_path import Progress
from mirnet_edge.frames.images import find_images, read_image, upright_rgb
from mirnet_edge.frames.noise import add_gaussian_noise, to_uint8, unit_range
from mirnet_edge.metrics import psnr, ssim
from mirnet_edge.restore import Restorer


@dataclass(frozen=True)
class Score:
    """Of one image, or the mean of many: dB for PSNR, 1 is equal for SSIM (NaN, and left out of the
    mean, for an image smaller than its window)."""

    name: str
    noisy_psnr: float
    psnr: float
    noisy_ssim: float | None = None
    ssim: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """Scores of each image and their mean, the images left out with the reason, and why there is no
    SSIM where it was asked for and there is none."""

    sigma: float
    seed: int
    scores: tuple[Score, ...]
    mean: Score
    skipped: tuple[str, ...] = ()
    note: str = ""


def evaluate_model(
    restorer: Restorer,
    data: str | os.PathLike[str] | Sequence[NDArray[np.uint8]],
    sigma: float = 25.0,
    seed: int = 0,
    with_ssim: bool = True,
    quantize: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Add noise to clean images, restore, compare.

    The literature's protocol: noise of ``sigma``/255 is neither clamped nor rounded; restored
    images are clamped to [0, 1], not rounded; PSNR over RGB of each image, then the mean. The
    noisy input is scored as the network sees it. Image ``i`` takes the noise of seed
    ``seed + i``. A picture without colour is a gray frame, and so is its noise.

    Args:
        data: a folder, file or glob pattern of clean images, or (H, W, 3) uint8 arrays.
        with_ssim: SSIM too, where scikit-image is installed.
        quantize: clamp and round the noisy image to 8 bits first, as a camera would.
        progress: called with (images done, images).

    Raises:
        DataError: no image can be read.
    """
    note = ""
    if with_ssim and find_spec("skimage") is None:
        with_ssim = False
        note = "no SSIM: scikit-image is not installed; for it, pip install scikit-image"
    skipped: list[str] = []
    if isinstance(data, (str, os.PathLike)):
        count, images = load_images(data, skipped)
    else:
        count = len(data)
        images = ((f"image {index}", image) for index, image in enumerate(data))
    scores: list[Score] = []
    for name, image in images:
        clean = _without_false_colour(image)
        noisy = add_gaussian_noise(clean, sigma, seed + len(scores))
        if quantize:
            noisy = unit_range(to_uint8(noisy))
        restored, reference = restorer(noisy), unit_range(clean)
        scores.append(
            Score(
                name=name,
                noisy_psnr=psnr(noisy, reference),
                psnr=psnr(restored, reference),
                noisy_ssim=ssim(noisy, reference) if with_ssim else None,
                ssim=ssim(restored, reference) if with_ssim else None,
            )
        )
        if progress:
            progress(len(scores) + len(skipped), count)
    if not scores:
        raise DataError(f"{data}: no image can be read; {'; '.join(skipped)}")
    return Evaluation(sigma, seed, tuple(scores), _mean(scores), tuple(skipped), note)


def load_images(
    data: str | os.PathLike[str], skipped: list[str]
) -> tuple[int, Iterator[tuple[str, NDArray[np.uint8]]]]:
    """How many image files there are, and name and (H, W, 3) uint8 pixels of one after another;
    those that cannot be read are described in ``skipped``."""
    try:
        paths = find_images([data])
    except ImageError as error:
        raise DataError(str(error)) from error

    def read() -> Iterator[tuple[str, NDArray[np.uint8]]]:
        for path in paths:
            try:
                yield path.name, upright_rgb(read_image(path))
            except ImageError as error:
                skipped.append(str(error))

    return len(paths), read()


def _without_false_colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 1) where three equal channels hold a gray picture."""
    # Noise of three colours over a gray picture is what no gray camera delivers, and averaging the
    # channels alone would then count as denoising.
    return image[..., :1] if (image == image[..., :1]).all() else image


def _mean(scores: Sequence[Score]) -> Score:
    def mean(values: list[float | None]) -> float | None:
        if None in values:
            return None
        known = [value for value in values if value is not None and not math.isnan(value)]
        return float(np.mean(known)) if known else math.nan

    return Score(
        name="mean",
        noisy_psnr=float(np.mean([score.noisy_psnr for score in scores])),
        psnr=float(np.mean([score.psnr for score in scores])),
        noisy_ssim=mean([score.noisy_ssim for score in scores]),
        ssim=mean([score.ssim for score in scores]),
    )
