"""Frames, tiles and regions that the tests of kernels are run on, and how results are compared."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from kernel_twins import ORDERS, SAMPLES, Array

from mirnet_edge.tiling.geometry import Cover

FORMATS = [f"{order}_{sample}" for order, sample in itertools.product(ORDERS, SAMPLES)]
"""Of interleaved frames."""


def plane_shapes(size_px: tuple[int, int], frame_format: str) -> list[tuple[int, ...]]:
    """Of the planes of a Y'CbCr frame."""
    height, width = size_px
    half = (height // 2, width // 2)
    return {
        "nv12": [(height, width), (*half, 2)],
        "i420": [(height, width), half, half],
        "yuyv": [(height, width // 2, 4)],
    }[frame_format]


def regions_of(cover: Cover) -> tuple[Array, Array]:
    """Origins and settled regions of a frame's tiles as the kernels take them."""
    origins = [(column.origin, row.origin) for row, column in cover]
    settled = [
        (row.settled.start, column.settled.start, row.settled.stop, column.settled.stop)
        for row, column in cover
    ]
    return np.array(origins, np.int32), np.array(settled, np.int32)


def ramp_of(cover: Cover, blend: int) -> Array:
    """The weights with which a tile fades in; zeros where none does."""
    fading = [span for span in (*cover.rows, *cover.columns) if span.fade_in]
    return fading[0].weights[:blend].astype(np.float32) if fading else np.zeros(blend, np.float32)


def random_samples(random: np.random.Generator, count: int, sample: np.dtype[Any]) -> Array:
    if sample.kind == "f":
        return random.normal(0.5, 1.0, count).astype(sample)
    return random.integers(0, np.iinfo(sample).max, count, sample, endpoint=True)


def rows_in(buffer: Array, shape: tuple[int, ...], gap_samples: int) -> Array:
    """The array (H, W) or (H, W, C) that begins ``gap_samples`` into a buffer and whose rows lie as
    many samples apart, so that they are aligned to a sample and to nothing more."""
    item = buffer.itemsize
    within = [int(np.prod(shape[i + 1 :])) * item for i in range(1, len(shape))]
    pitch_bytes = (int(np.prod(shape[1:])) + gap_samples) * item
    return np.lib.stride_tricks.as_strided(buffer[gap_samples:], shape, (pitch_bytes, *within))


def pitched_buffer(
    random: np.random.Generator, shape: tuple[int, ...], gap_samples: int, sample: np.dtype[Any]
) -> Array:
    """Random samples, room for an array of ``rows_in``."""
    count = gap_samples + shape[0] * (int(np.prod(shape[1:])) + gap_samples)
    return random_samples(random, count, sample)


def shape_of(size_px: tuple[int, int], frame_format: str) -> tuple[int, int, int]:
    """(H, W, C) of an interleaved frame."""
    return (*size_px, len(ORDERS[frame_format.split("_")[0]]))


def some_origins(size_px: tuple[int, int], tile_size_px: tuple[int, int]) -> Array:
    """x, y of tiles inside, over each border, and several frames away."""
    height, width = size_px
    tile_height, tile_width = tile_size_px
    return np.array(
        [
            (0, 0),
            (1, 2),
            (-3, -2),
            (width - tile_width + 3, height - tile_height + 1),
            (-5 * width - 2, 1 - height),
            (4 * width + 1, 7 * height + 3),
        ],
        np.int32,
    )


def disjoint_regions(
    random: np.random.Generator,
    size_px: tuple[int, int],
    tile_size_px: tuple[int, int],
    multiple: int = 1,
) -> tuple[Array, Array]:
    """Origins and kept regions on a grid with a cell left out, each tile up to 3 pixels off its
    region, so that every alignment of tile and frame comes up. Regions begin and end at multiples
    of ``multiple``; those in the last row and column leave the frame: the kernel must cut them."""
    sides = [tile - 3 - (tile - 3) % multiple for tile in tile_size_px]
    rows, columns = (range(0, size, side) for size, side in zip(size_px, sides, strict=True))
    cells = list(itertools.product(rows, columns))
    cells = cells[: max(1, len(cells) - 1)]
    kept = [(y, x, y + sides[0], x + sides[1]) for y, x in cells]
    halos = random.integers(0, 3, (len(cells), 2), endpoint=True)
    pairs = zip(cells, halos, strict=True)
    origins = [(x - halo_x, y - halo_y) for (y, x), (halo_y, halo_x) in pairs]
    return np.array(origins, np.int32), np.array(kept, np.int32)


def awkward_tiles(
    random: np.random.Generator, shape: tuple[int, ...], value: np.dtype[Any]
) -> Array:
    """Values inside and outside 0..1, with NaN, infinities and the ends of the range among them."""
    values = random.normal(0.5, 0.5, shape).astype(value).reshape(-1)
    values[::7] = np.resize([np.nan, np.inf, -np.inf, 0, 1, 2, -1, -0.0], len(values[::7]))
    return values.reshape(shape)


def assert_near(actual: Array, expected: Array, what: str) -> None:
    """Within 4e-6, and half a step of a float16, of numbers that are no larger than about 2."""
    step = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float64)
    allowed = 4e-6 + step / 2 * (actual.itemsize == 2)
    difference = np.abs(actual.astype(np.float64) - expected)
    assert (difference <= allowed).all(), f"{what}: {np.nanmax(difference - allowed)} too far"


def assert_same(actual: Array, expected: Array, what: str) -> None:
    same = (actual == expected) | ((actual != actual) & (expected != expected))
    if not same.all():
        where = tuple(int(i) for i in np.argwhere(~same)[0])
        raise AssertionError(
            f"{what}: {np.count_nonzero(~same)} of {same.size} differ, first at {where}: "
            f"kernel {actual[where]!r}, twin {expected[where]!r}"
        )
