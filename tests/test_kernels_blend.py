"""The CUDA kernels that blend tiles, run on the host from the same source, against their NumPy twin
and against `Seams`."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_host import HostKernels
from kernel_host import host_fixture as host_fixture
from kernel_samples import assert_same, ramp_of, regions_of
from kernel_twins import VALUES, Array, blend_tiles

from mirnet_edge.host.seams import Seams
from mirnet_edge.tiling.geometry import Cover, Tiling

# Frames of one tile, one row, one column, several of each; last tiles that overlap much and little.
FRAMES_PX = ((20, 20), (20, 75), (71, 24), (45, 70), (61, 93))
TILE_PX = (32, 36)


def cut(height: int, width: int, blend: int) -> tuple[Cover, Array, Array, Array]:
    """A cover of the frame; its origins, settled regions and ramp as the kernel takes them."""
    cover = Tiling(TILE_PX, halo=3, blend=blend).cover(height, width)
    return cover, *regions_of(cover), ramp_of(cover, blend)


def tiles_of(cover: Cover, value: str) -> Array:
    shape = (len(cover), 3, cover.rows[0].size, cover.columns[0].size)
    return np.random.default_rng(24).normal(0.5, 0.3, shape).astype(VALUES[value])


def blended(
    host: HostKernels,
    tiles: Array,
    cover: Cover,
    arrays: tuple[Array, Array, Array],
    batch: int,
) -> Array:
    """All tiles of a frame, blended a batch at a time in the smallest ring that is allowed."""
    origins, settled, ramp = arrays
    columns = len(cover.columns)
    # The last launch may reach beyond the last tile: rows that are there, regions that are empty.
    beyond = ((0, -len(tiles) % batch), (0, 0))
    origins, settled = (np.pad(array, beyond) for array in (origins, settled))
    ring = np.full((columns + 1 + batch, *tiles.shape[1:]), np.nan, tiles.dtype)
    out = np.empty_like(tiles)
    for cursor in range(len(origins) // batch):
        indices = np.arange(len(tiles))[cursor * batch :][:batch]
        ring[indices % len(ring)] = tiles[indices]
        host.blend_tiles(ring, origins, settled, cursor, batch, columns, ramp)
        out[indices] = ring[indices % len(ring)]
    return out


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("blend", [2, 4, 6])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_blend_tiles(host: HostKernels, batch: int, blend: int, value: str) -> None:
    for size_px in FRAMES_PX:
        cover, origins, settled, ramp = cut(*size_px, blend)
        tiles = tiles_of(cover, value)
        actual = blended(host, tiles, cover, (origins, settled, ramp), batch)
        expected = blend_tiles(tiles, origins, settled, len(cover.columns), ramp)
        assert_same(actual, expected, f"frame {size_px}")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("blend", [2, 6])
def test_settled_regions_are_those_of_seams(host: HostKernels, blend: int, value: str) -> None:
    for size_px in FRAMES_PX:
        cover, origins, settled, ramp = cut(*size_px, blend)
        tiles = tiles_of(cover, value)
        actual = blended(host, tiles, cover, (origins, settled, ramp), 2)
        seams = Seams(cover, 3)
        for tile, before, (row, column) in zip(actual, tiles, cover, strict=True):
            expected = seams.settle(before.astype(np.float32), row, column)
            ours = tile[:, row.kept, column.kept][:, : expected.shape[1], : expected.shape[2]]
            # One step of the tile's type, beside the few of float32 that the order of sums makes.
            step = np.spacing(np.abs(expected).astype(VALUES[value])).astype(np.float32)
            assert (np.abs(ours.astype(np.float32) - expected) <= step + 3e-7).all(), size_px


def test_a_frame_stored_from_blended_tiles_has_no_step_at_a_cut(host: HostKernels) -> None:
    # Tiles of two levels, as a chessboard: the frame is their ramp, monotonous across each seam.
    cover, origins, settled, ramp = cut(61, 93, 6)
    tiles = np.empty((len(cover), 3, *TILE_PX), np.float32)
    for index in range(len(cover)):
        tiles[index] = sum(divmod(index, len(cover.columns))) % 2
    ready = blended(host, tiles, cover, (origins, settled, ramp), 4)
    frame = np.zeros((61, 93, 3), np.uint8)
    host.store_tiles(frame, "rgb", ready, origins, settled, None)
    steps = np.abs(np.diff(frame[..., 0].astype(int), axis=1)).max()
    assert steps <= np.ceil(255 * np.diff(ramp).max()), steps
