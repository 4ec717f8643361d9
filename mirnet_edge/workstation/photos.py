"""The pictures that training reads: whole folders, by all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirnet_edge.errors import DataError, ImageError
from mirnet_edge.frames.images import find_images, read_image, upright_rgb
from mirnet_edge.workstation.pairs import matched_pairs, read_pair

Picture = NDArray[np.uint8]
Item = TypeVar("Item")


def read_photos(
    folders: Sequence[str | os.PathLike[str]],
    least_px: int,
    factors: Sequence[float],
    skipped: list[str],
) -> list[list[Picture]]:
    """The photos of some folders, each as (H, W, 3) uint8 copies, antialiased, by ``factors``;
    copies with a side below ``least_px`` are left out.

    Args:
        skipped: takes one line for each file that cannot be read, and for each photo that is too
            small.

    Raises:
        DataError: a folder is missing or without images, or no photo is left.
    """
    try:
        paths = find_images(folders)
    except ImageError as error:
        raise DataError(str(error)) from error

    def read(path: Path) -> list[Picture]:
        return _copies(upright_rgb(read_image(path)), path.name, least_px, factors)

    return _all_read(read, paths, skipped, f"{', '.join(map(str, folders))}: no image to train on")


def read_pairs(
    inputs: str | os.PathLike[str],
    targets: str | os.PathLike[str],
    least_px: int,
    skipped: list[str],
) -> list[list[Picture]]:
    """Pairs as (H, W, 6) uint8, the degraded picture's channels first; errors as `read_photos`. Not
    made smaller: noise would be other noise."""
    pairs = matched_pairs(inputs, targets, skipped)

    def read(pair: tuple[str, Path, Path]) -> list[Picture]:
        name, *paths = pair
        return _copies(np.concatenate(read_pair(*paths), 2), name, least_px, (1.0,))

    return _all_read(read, pairs, skipped, f"{inputs} and {targets}: no pair to train on")


def _all_read(
    read: Callable[[Item], list[Picture]], items: Iterable[Item], skipped: list[str], nothing: str
) -> list[list[Picture]]:
    def attempt(item: Item) -> list[Picture] | str:
        try:
            return read(item)
        except ImageError as error:
            return str(error)

    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(attempt, items):
            if isinstance(result, str):
                skipped.append(result)
            else:
                found.append(result)
    if not found:
        raise DataError(f"{nothing}; {len(skipped)} left out: {'; '.join(skipped[:3])}")
    return found


def _copies(picture: Picture, name: str, least_px: int, factors: Sequence[float]) -> list[Picture]:
    height, width = picture.shape[:2]
    if min(height, width) < least_px:
        raise ImageError(f"{name}: {width}x{height}, smaller than a patch of {least_px}")
    sizes = [(round(width * factor), round(height * factor)) for factor in factors]
    # The photo itself, where all of its copies are too small.
    sizes = [size for size in sizes if min(size) >= least_px] or [(width, height)]
    return [
        picture
        if size == (width, height)
        else np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
        for size in sizes
    ]
