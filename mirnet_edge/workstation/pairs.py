"""Pairs of pictures of one scene, the degraded and the good one, matched by their files' names."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import DataError, ImageError
from mirnet_edge.frames.images import SUFFIXES, read_image, upright_rgb

INPUT_MARK = re.compile(r"NOISY_SRGB|_real(?=$|/)|(?:^|(?<=/))low(?=/)")
TARGET_MARK = re.compile(r"GT_SRGB|_mean(?=$|/)|(?:^|(?<=/))high(?=/)")
"""What tells the two pictures of a pair apart in SIDD (``0001_NOISY_SRGB_010``,
``0001_GT_SRGB_010``), PolyU and CC (``…_real``, ``…_mean``),and LOL (``low/``, ``high/``).
"""


def matched_pairs(
    inputs: str | os.PathLike[str],
    targets: str | os.PathLike[str],
    skipped: list[str] | None = None,
) -> list[tuple[str, Path, Path]]:
    """Name, degraded picture and good picture of each pair below two folders, sorted by name.

    Files match that have one path below their folders, but for the suffix and the marks of SIDD,
    PolyU, CC and LOL. Both folders may be one, whose files then need such marks.

    Args:
        skipped: takes one line for each picture without a partner; None makes that an error.

    Raises:
        DataError: a folder is missing, no two pictures match, two pictures have one name, or one
            has no partner, each with the names.
    """
    same = Path(inputs).resolve() == Path(targets).resolve()
    given = _by_name(inputs, INPUT_MARK, marked_only=same)
    good = _by_name(targets, TARGET_MARK, marked_only=same)
    names = sorted(given.keys() & good.keys())
    alone = [f"{given[name]}: has no partner in {targets}" for name in sorted(given.keys() - good)]
    alone += [f"{good[name]}: has no partner in {inputs}" for name in sorted(good.keys() - given)]
    if not names:
        expected = " (marked as NOISY_SRGB and GT_SRGB, _real and _mean, low/ and high/)" * same
        raise DataError(
            f"no picture in {inputs} has the name of one in {targets}{expected}; "
            f"{len(given)} and {len(good)} pictures: {'; '.join(alone[:2])}"
        )
    if alone and skipped is None:
        raise DataError(f"{len(alone)} pictures without a partner: {'; '.join(alone[:3])}")
    if skipped is not None:
        skipped += alone
    return [(name, given[name], good[name]) for name in names]


def read_pair(
    input_path: str | os.PathLike[str], target_path: str | os.PathLike[str]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The degraded and the good picture, (H, W, 3) uint8 of one size; an `ImageError` where one
    cannot be read or their sizes differ."""
    degraded, good = (upright_rgb(read_image(path)) for path in (input_path, target_path))
    if degraded.shape != good.shape:
        raise ImageError(
            f"{input_path} has {degraded.shape[1]}x{degraded.shape[0]} pixels, but {target_path} "
            f"{good.shape[1]}x{good.shape[0]}: no pair"
        )
    return degraded, good


def _by_name(
    folder: str | os.PathLike[str], mark: re.Pattern[str], marked_only: bool
) -> dict[str, Path]:
    """The images below a folder by their paths in it, without suffix and mark."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        below = path.relative_to(root).with_suffix("").as_posix()
        if marked_only and not mark.search(below):
            continue
        name = mark.sub("", below).strip("/_") or below
        if name in found:
            raise DataError(f"{found[name]} and {path} both are the picture {name!r} of a pair")
        found[name] = path
    return found
