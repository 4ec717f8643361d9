"""PSNR and SSIM of a model on a folder of clean images with seeded noise."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge.errors import DataError, ImageError
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
    """Scores of each image and their mean, and the images left out with the reason."""

    sigma: float
    seed: int
    scores: tuple[Score, ...]
    mean: Score
    skipped: tuple[str, ...] = ()


def evaluate_model(
    restorer: Restorer,
    data: str | os.PathLike[str] | Sequence[NDArray[np.uint8]],
    sigma: float = 25.0,
    seed: int = 0,
    with_ssim: bool = True,
    quantize: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Add noise to clean images, restore, compare.

    The literature's protocol: noise of ``sigma``/255 is neither clamped nor rounded; restored
    images are clamped to [0, 1], not rounded; PSNR over RGB of each image, then the mean. The
    noisy input is scored as the network sees it. Image ``i`` takes the noise of seed
    ``seed + i``.

    Args:
        data: a folder, file or glob pattern of clean images, or (H, W, 3) uint8 arrays.
        quantize: clamp and round the noisy image to 8 bits first, as a camera would.
        progress: called with (images done, images).

    Raises:
        DataError: no image can be read.
        MissingDependencyError: SSIM is asked for and scikit-image is not installed.
    """
    if with_ssim:
        require("skimage.metrics", "SSIM")
    skipped: list[str] = []
    if isinstance(data, (str, os.PathLike)):
        paths = _paths(data)
        count, images = len(paths), _read(paths, skipped)
    else:
        count = len(data)
        images = ((f"image {index}", image) for index, image in enumerate(data))
    scores: list[Score] = []
    for name, clean in images:
        noisy = add_gaussian_noise(clean, sigma, seed + len(scores))
        if quantize:
            noisy = unit_range(to_uint8(noisy))
        restored = restorer(noisy)
        reference = unit_range(clean)
        scores.append(
            Score(
                name,
                psnr(noisy, reference),
                psnr(restored, reference),
                ssim(noisy, reference) if with_ssim else None,
                ssim(restored, reference) if with_ssim else None,
            )
        )
        if progress:
            progress(len(scores) + len(skipped), count)
    if not scores:
        raise DataError(f"{data}: no image can be read; {'; '.join(skipped)}")
    return Evaluation(sigma, seed, tuple(scores), _mean(scores), tuple(skipped))


def load_images(
    data: str | os.PathLike[str], skipped: list[str]
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Name and (H, W, 3) uint8 pixels of each image; those that cannot be read are described in
    ``skipped``.

    Raises:
        DataError: there is no image file.
    """
    return _read(_paths(data), skipped)


def _paths(data: str | os.PathLike[str]) -> list[Path]:
    try:
        return find_images([data])
    except ImageError as error:
        raise DataError(str(error)) from error


def _read(paths: list[Path], skipped: list[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for path in paths:
        try:
            yield path.name, upright_rgb(read_image(path))
        except ImageError as error:
            skipped.append(str(error))


def _mean(scores: Sequence[Score]) -> Score:
    def mean(name: str) -> float | None:
        values = [getattr(score, name) for score in scores]
        if None in values:
            return None
        known = [value for value in values if not np.isnan(value)]
        return float(np.mean(known)) if known else math.nan

    return Score(
        "mean",
        mean("noisy_psnr") or 0.0,
        mean("psnr") or 0.0,
        mean("noisy_ssim"),
        mean("ssim"),
    )
