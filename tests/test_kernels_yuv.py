"""The CUDA kernels for Y'CbCr frames, run on the host from the same source, against their NumPy
twins; and the twins' colours against other sources."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from kernel_host import HostKernels
from kernel_host import host_fixture as host_fixture
from kernel_samples import (
    assert_same,
    awkward_tiles,
    disjoint_regions,
    pitched_buffer,
    plane_shapes,
    regions_of,
    rows_in,
    some_origins,
)
from kernel_twins import (
    COLOURS,
    VALUES,
    YUV_FORMATS,
    Array,
    load_tiles_yuv,
    nonfinite_values,
    store_tiles_yuv,
    yuv_codes,
)
from PIL import Image

from mirnet_edge.tiling.geometry import Tiling

FRAME_SIZES_PX = ((2, 2), (2, 6), (6, 2), (14, 18), (24, 40))
YUYV_SIZES_PX = (*FRAME_SIZES_PX, (1, 2), (13, 18))
TILE_SIZES_PX = ((8, 8), (7, 5), (20, 28))
# Between the rows of y and before the first, and the same of cb and of cr.
GAPS_BYTES = ((0, 0, 0), (8, 4, 2), (1, 7, 3))


def sizes_of(frame_format: str) -> tuple[tuple[int, int], ...]:
    return YUYV_SIZES_PX if frame_format == "yuyv" else FRAME_SIZES_PX


def frame_of(
    random: np.random.Generator,
    size_px: tuple[int, int],
    frame_format: str,
    gaps_bytes: Sequence[int] = (0, 0, 0),
) -> tuple[list[Array], list[Array]]:
    """Buffers of random codes, and the planes that lie in them."""
    shapes = plane_shapes(size_px, frame_format)
    pairs = list(zip(shapes, gaps_bytes, strict=False))
    buffers = [pitched_buffer(random, shape, gap, np.dtype(np.uint8)) for shape, gap in pairs]
    planes = [rows_in(each, *pair) for each, pair in zip(buffers, pairs, strict=True)]
    return buffers, planes


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("frame_format", YUV_FORMATS)
def test_load_tiles_yuv(host: HostKernels, frame_format: str, value: str) -> None:
    random = np.random.default_rng(14)
    colours = itertools.cycle(COLOURS.values())
    for size_px, tile_size_px, gaps in itertools.product(
        sizes_of(frame_format), TILE_SIZES_PX, GAPS_BYTES
    ):
        _, planes = frame_of(random, size_px, frame_format, gaps)
        origins, colour = some_origins(size_px, tile_size_px), next(colours)
        actual = host.load_tiles_yuv(
            planes, frame_format, colour.to_rgb, origins, tile_size_px, value
        )
        expected = load_tiles_yuv(
            planes, frame_format, colour, origins, tile_size_px, VALUES[value]
        )
        assert_same(actual, expected, f"frame {size_px}, tile {tile_size_px}, gaps {gaps}")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("frame_format", YUV_FORMATS)
def test_store_tiles_yuv(host: HostKernels, frame_format: str, value: str) -> None:
    random = np.random.default_rng(15)
    colours = itertools.cycle(COLOURS.values())
    for size_px, tile_size_px, gaps, multiple in itertools.product(
        sizes_of(frame_format), TILE_SIZES_PX, GAPS_BYTES, (1, 2)
    ):
        buffers, planes = frame_of(random, size_px, frame_format, gaps)
        # Odd regions too: neither may the pixels beyond their last whole chroma sample change.
        origins, kept = disjoint_regions(random, size_px, tile_size_px, multiple)
        tiles = awkward_tiles(random, (len(origins), 3, *tile_size_px), VALUES[value])
        colour = next(colours)
        stored = store_tiles_yuv(planes, frame_format, colour, tiles, origins, kept)
        # The twin's buffers are compared whole: what lies between the rows must not change.
        expected = [buffer.copy() for buffer in buffers]
        for buffer, plane, gap in zip(expected, stored, gaps, strict=False):
            rows_in(buffer, plane.shape, gap)[...] = plane
        counted = host.store_tiles_yuv(planes, frame_format, colour.to_yuv, tiles, origins, kept)
        shared = (1 if frame_format == "yuyv" else 2, 2)
        assert counted == nonfinite_values(tiles, origins, kept, size_px, shared)
        for actual, twin in zip(buffers, expected, strict=True):
            assert_same(actual, twin, f"frame {size_px}, tile {tile_size_px}, gaps {gaps}")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("frame_format", YUV_FORMATS)
def test_every_code_comes_back_from_the_tiles_of_a_frame(
    host: HostKernels, frame_format: str, colour: str, value: str
) -> None:
    # Codes that no RGB in 0..1 has are among them, and no sample may be missed or written wrong
    # where regions meet.
    # Sizes and halos of multiples of 4 and of 8 pixels make whole vectors and words; 5 neither.
    for size_px, tile_size_px, halo in (
        ((58, 70), (24, 28), 5),
        ((58, 72), (24, 28), 4),
        ((58, 80), (24, 32), 8),
    ):
        _, planes = frame_of(np.random.default_rng(16), size_px, frame_format)
        origins, settled = regions_of(Tiling(tile_size_px, halo=halo).cover(*size_px))
        to_rgb, to_yuv = COLOURS[colour].to_rgb, COLOURS[colour].to_yuv
        tiles = host.load_tiles_yuv(planes, frame_format, to_rgb, origins, tile_size_px, value)
        back = [~plane for plane in planes]
        host.store_tiles_yuv(back, frame_format, to_yuv, tiles, origins, settled)
        for plane, expected in zip(back, planes, strict=True):
            assert_same(plane, expected, f"{frame_format} {colour} through {value}, halo {halo}")


@pytest.mark.parametrize("blend", [0, 4, 8])
@pytest.mark.parametrize("halo", [0, 5, 6, 7])
def test_the_regions_of_a_tiling_are_even(halo: int, blend: int) -> None:
    for length in range(2, 300, 2):
        cover = Tiling((64, 64), halo=halo, blend=blend).cover(length, length)
        borders = [span.settled for span in cover.rows]
        assert all(each.start % 2 == 0 and each.stop % 2 == 0 for each in borders), borders


def test_planes_may_lie_bottom_first(host: HostKernels) -> None:
    _, planes = frame_of(np.random.default_rng(17), (6, 10), "nv12")
    flipped = [np.ascontiguousarray(plane[::-1])[::-1] for plane in planes]
    assert [plane.strides[0] for plane in flipped] == [-10, -10]
    origins, kept = np.array([(-2, -3)], np.int32), np.array([(0, 0, 6, 10)], np.int32)
    colour = COLOURS["bt709-limited"]
    tiles = host.load_tiles_yuv(flipped, "nv12", colour.to_rgb, origins, (16, 16), "f32")
    expected = load_tiles_yuv(planes, "nv12", colour, origins, (16, 16), VALUES["f32"])
    assert_same(tiles, expected, "loaded from negative pitches")
    back = [np.zeros_like(plane)[::-1] for plane in planes]
    host.store_tiles_yuv(back, "nv12", colour.to_yuv, tiles, origins, kept)
    for plane, original in zip(back, planes, strict=True):
        assert_same(plane, original, "stored to negative pitches")


# Rounded codes of BT.601 and BT.709, limited range, as published for colour bars of 100 %.
BARS = {
    "bt601-limited": {
        (1, 1, 1): (235, 128, 128),
        (1, 1, 0): (210, 16, 146),
        (0, 1, 1): (170, 166, 16),
        (0, 1, 0): (145, 54, 34),
        (1, 0, 1): (106, 202, 222),
        (1, 0, 0): (81, 90, 240),
        (0, 0, 1): (41, 240, 110),
        (0, 0, 0): (16, 128, 128),
    },
    "bt709-limited": {
        (1, 1, 1): (235, 128, 128),
        (1, 1, 0): (219, 16, 138),
        (0, 1, 1): (188, 154, 16),
        (0, 1, 0): (173, 42, 26),
        (1, 0, 1): (78, 214, 230),
        (1, 0, 0): (63, 102, 240),
        (0, 0, 1): (32, 240, 118),
        (0, 0, 0): (16, 128, 128),
    },
}


@pytest.mark.parametrize("colour", BARS)
@pytest.mark.parametrize("frame_format", YUV_FORMATS)
def test_colour_bars_have_the_published_codes(
    host: HostKernels, frame_format: str, colour: str
) -> None:
    bars = BARS[colour]
    rgb = np.array(list(bars), np.float32).T.repeat(2, 1)
    tiles = np.ascontiguousarray(np.broadcast_to(rgb[None, :, None], (1, 3, 2, 16)))
    planes = [np.zeros(shape, np.uint8) for shape in plane_shapes((2, 16), frame_format)]
    origins, kept = np.zeros((1, 2), np.int32), np.array([(0, 0, 2, 16)], np.int32)
    host.store_tiles_yuv(planes, frame_format, COLOURS[colour].to_yuv, tiles, origins, kept)
    expected = np.array(list(bars.values()), np.uint8).repeat(2, 0)
    assert_same(yuv_codes(planes, frame_format)[1], expected, "bars")
    back = host.load_tiles_yuv(
        planes, frame_format, COLOURS[colour].to_rgb, origins, (2, 16), "f32"
    )
    # A code is rounded, by up to half a step of 1/219 in luma and 1.8/224 in chroma.
    np.testing.assert_allclose(back[0], tiles[0], atol=0.5 / 219 + 0.5 * 1.8559 / 224)


def test_full_range_bt601_is_the_colour_of_jpeg(host: HostKernels) -> None:
    pixels = np.random.default_rng(18).integers(0, 256, (16, 16, 3), np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("YCbCr")).astype(int)
    doubled = pixels.repeat(2, 0).repeat(2, 1).transpose(2, 0, 1)[None]
    tiles = np.ascontiguousarray(doubled.astype(np.float32) / np.float32(255))
    planes = [np.zeros(shape, np.uint8) for shape in plane_shapes((32, 32), "i420")]
    origins, kept = np.zeros((1, 2), np.int32), np.array([(0, 0, 32, 32)], np.int32)
    host.store_tiles_yuv(planes, "i420", COLOURS["bt601-full"].to_yuv, tiles, origins, kept)
    codes = yuv_codes(planes, "i420")[::2, ::2].astype(int)
    # Pillow computes in whole numbers, and is a code off at times.
    assert np.abs(codes - expected).max() <= 1


def test_a_value_that_is_no_number_leaves_black_or_no_colour(host: HostKernels) -> None:
    tiles = np.full((1, 3, 4, 4), 0.5, np.float32)
    tiles[0, 1, 0, 0] = np.nan
    planes = [np.full(shape, 9, np.uint8) for shape in plane_shapes((4, 4), "nv12")]
    origins, kept = np.zeros((1, 2), np.int32), np.array([(0, 0, 4, 4)], np.int32)
    host.store_tiles_yuv(planes, "nv12", COLOURS["bt709-full"].to_yuv, tiles, origins, kept)
    expected = np.full((4, 4), 128, np.uint8)
    expected[0, 0] = 0
    assert_same(planes[0], expected, "luma")
    assert (planes[1] == 128).all()
