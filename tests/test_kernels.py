"""The CUDA kernels for interleaved frames, run on the host from the same source, against their
NumPy twins.

Both sides do the same float32 operations in the same order, so the comparisons ask for equal bits:
the one rounding step that the kernels are allowed is not needed on the host.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernel_host import HostKernels, pointer
from kernel_host import host_fixture as host_fixture
from kernel_samples import (
    FORMATS,
    assert_same,
    awkward_tiles,
    disjoint_regions,
    pitched_buffer,
    random_samples,
    rows_in,
    shape_of,
    some_origins,
)
from kernel_twins import SAMPLES, VALUES, load_tiles, nonfinite_values, reflected, store_tiles

# Height and width of frames and of tiles, odd ones and tiles larger than the frame on purpose.
FRAME_SIZES_PX = ((1, 1), (1, 6), (5, 1), (2, 3), (13, 17), (24, 40))
TILE_SIZES_PX = ((8, 8), (7, 5), (20, 28))
# Between rows, and before the first.
GAPS_SAMPLES = (0, 1, 7)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_twins_reflection_is_that_of_numpy(size: int) -> None:
    expected = np.pad(np.arange(size), 25, mode="reflect")
    assert [reflected(i, size) for i in range(-25, size + 25)] == expected.tolist()


def test_host_halves_are_those_of_numpy(host: HostKernels) -> None:
    every = np.arange(65536, dtype=np.uint16)
    floats = np.empty(65536, np.float32)
    host.library.floats_of(pointer(every), pointer(floats), 65536)
    assert_same(floats, every.view(np.float16).astype(np.float32), "half to float")

    # Each half, the middles between halves (ties), a bit to either side of those, and overflow.
    finite = np.sort(floats[np.isfinite(floats)])
    middles = (finite[:-1] + finite[1:]) / np.float32(2)
    above, below = np.nextafter(middles, np.float32(9e9)), np.nextafter(middles, np.float32(-9e9))
    extremes = np.array([65519.99, 65520, -65520, 1e9, 1e-9, -1e-30], np.float32)
    values = np.concatenate([floats, middles, above, below, extremes])
    halves = np.empty(len(values), np.float16)
    host.library.halves_of(pointer(values), pointer(halves), len(values))
    with np.errstate(over="ignore"):
        assert_same(halves, values.astype(np.float16), "float to half")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("frame_format", FORMATS)
def test_load_tiles(host: HostKernels, frame_format: str, value: str) -> None:
    random = np.random.default_rng(4)
    order, sample = frame_format.split("_")[0], SAMPLES[frame_format.split("_")[1]]
    for size_px, tile_size_px, gap in itertools.product(
        FRAME_SIZES_PX, TILE_SIZES_PX, GAPS_SAMPLES
    ):
        shape = shape_of(size_px, frame_format)
        frame = rows_in(pitched_buffer(random, shape, gap, sample), shape, gap)
        origins = some_origins(size_px, tile_size_px)
        # Behind 16 bytes the batch is aligned for whole vectors; behind a value more it is not.
        guard_bytes = 16 if gap == 0 else 16 + VALUES[value].itemsize
        actual = host.load_tiles(frame, order, origins, tile_size_px, value, guard_bytes)
        expected = load_tiles(frame, order, origins, tile_size_px, VALUES[value])
        assert_same(actual, expected, f"frame {size_px}, tile {tile_size_px}, gap {gap}")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("frame_format", FORMATS)
def test_store_tiles(host: HostKernels, frame_format: str, value: str) -> None:
    random = np.random.default_rng(5)
    order, sample = frame_format.split("_")[0], SAMPLES[frame_format.split("_")[1]]
    for size_px, tile_size_px, gap in itertools.product(
        FRAME_SIZES_PX, TILE_SIZES_PX, GAPS_SAMPLES
    ):
        shape = shape_of(size_px, frame_format)
        buffer = pitched_buffer(random, shape, gap, sample)
        frame = rows_in(buffer, shape, gap)
        other = rows_in(pitched_buffer(random, shape, 2, sample), shape, 2)
        origins, kept = disjoint_regions(random, size_px, tile_size_px)
        tiles = awkward_tiles(random, (len(origins), 3, *tile_size_px), VALUES[value])
        wrong = nonfinite_values(tiles, origins, kept, size_px)
        for alpha in (frame, other, None):
            # The twin's buffer is compared whole: what lies between the rows must not change.
            expected = buffer.copy()
            rows_in(expected, shape, gap)[...] = store_tiles(
                frame, order, tiles, origins, kept, alpha
            )
            counted = host.store_tiles(frame, order, tiles, origins, kept, alpha)
            assert_same(buffer, expected, f"frame {size_px}, tile {tile_size_px}, gap {gap}")
            assert counted == wrong


def test_rows_may_lie_bottom_first(host: HostKernels) -> None:
    frame = np.random.default_rng(7).integers(0, 256, (9, 11, 3), np.uint8)
    flipped = np.ascontiguousarray(frame[::-1])[::-1]
    assert flipped.strides[0] == -33
    origins, kept = np.array([(-2, -3)], np.int32), np.array([(0, 0, 9, 11)], np.int32)
    tiles = host.load_tiles(flipped, "rgb", origins, (16, 16), "f16")
    expected = load_tiles(frame, "rgb", origins, (16, 16), VALUES["f16"])
    assert_same(tiles, expected, "loaded from a negative pitch")
    back = np.zeros_like(frame)[::-1]
    host.store_tiles(back, "rgb", tiles, origins, kept, None)
    assert_same(back, frame, "stored to a negative pitch")


def test_a_kept_region_is_cut_to_its_tile(host: HostKernels) -> None:
    frame = np.full((9, 11, 3), 7, np.uint8)
    everything = np.array([(-100, -100, 100, 100)], np.int32)
    host.store_tiles(
        frame,
        "rgb",
        np.ones((1, 3, 4, 4), np.float32),
        np.array([(5, 3)], np.int32),
        everything,
        None,
    )
    expected = np.full((9, 11, 3), 7, np.uint8)
    expected[3:7, 5:9] = 255
    assert_same(frame, expected, "region of 200 x 200 pixels, tile of 4 x 4")


def test_an_empty_region_stores_nothing(host: HostKernels) -> None:
    frame = np.full((8, 8, 4), 7, np.uint8)
    tiles = np.ones((3, 3, 8, 8), np.float32)
    origins = np.array([(0, 0), (0, 0), (50, 0)], np.int32)
    kept = np.array([(2, 2, 2, 6), (5, 5, 3, 3), (0, 50, 8, 58)], np.int32)
    host.store_tiles(frame, "rgba", tiles, origins, kept, None)
    assert (frame == 7).all()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("sample", ["u8", "u16"])
def test_every_sample_is_divided_as_numpy_divides(
    host: HostKernels, sample: str, value: str
) -> None:
    count = np.iinfo(SAMPLES[sample]).max + 1
    frame = np.arange(count).astype(SAMPLES[sample]).reshape(-1, 256, 1)
    tiles = host.load_tiles(frame, "gray", np.zeros((1, 2), np.int32), frame.shape[:2], value)
    quotient = frame[..., 0].astype(np.float32) / np.float32(count - 1)
    assert_same(tiles[0, 0], quotient.astype(VALUES[value]), sample)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("frame_format", ["gray_u8", "rgb_u8", "gray_u16", "rgb_u16", "rgb_f32"])
def test_every_half_is_stored_as_the_twin_stores_it(
    host: HostKernels, frame_format: str, value: str
) -> None:
    order, sample = frame_format.split("_")[0], SAMPLES[frame_format.split("_")[1]]
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(256, 256)
    halves[np.isnan(halves)] = np.nan  # quiet ones, of which NumPy does not warn
    tiles = np.stack([halves, halves.T, halves[::-1]])[None].astype(VALUES[value])
    origins, kept = np.zeros((1, 2), np.int32), np.array([(0, 0, 256, 256)], np.int32)
    frame = np.zeros(shape_of((256, 256), frame_format), sample)
    expected = store_tiles(frame, order, tiles, origins, kept, None)
    host.store_tiles(frame, order, tiles, origins, kept, None)
    assert_same(frame, expected, frame_format)


@pytest.mark.parametrize("sample", ["u8", "u16"])
def test_samples_round_to_nearest_with_ties_to_even(host: HostKernels, sample: str) -> None:
    maximum = np.float32(np.iinfo(SAMPLES[sample]).max)
    levels = np.arange(0, 256, dtype=np.float32)
    values = (levels + np.float32(0.5)) / maximum
    ties = values * maximum == levels + np.float32(0.5)
    assert np.count_nonzero(ties) > 100, "too few exact ties to tell one rounding from another"
    tiles = np.broadcast_to(values.reshape(16, 16), (1, 3, 16, 16)).copy()
    frame = np.zeros((16, 16, 3), SAMPLES[sample])
    kept = np.array([(0, 0, 16, 16)], np.int32)
    host.store_tiles(frame, "rgb", tiles, np.zeros((1, 2), np.int32), kept, None)
    even = (2 * np.round((levels + 0.5) / 2)).reshape(16, 16)[ties.reshape(16, 16)]
    assert_same(frame[..., 1][ties.reshape(16, 16)], np.minimum(even, maximum), "ties")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("order", ["gray", "rgb"])
def test_float32_samples_are_cut(host: HostKernels, order: str, value: str) -> None:
    given = np.array([np.nan, np.inf, -np.inf, -1, -0.0, 0.25, 1, 2], VALUES[value])
    tiles = np.broadcast_to(given, (1, 3, 1, 8)).copy()
    frame = np.full(shape_of((1, 8), order), 7, np.float32)
    kept = np.array([(0, 0, 1, 8)], np.int32)
    host.store_tiles(frame, order, tiles, np.zeros((1, 2), np.int32), kept, None)
    for channel in range(frame.shape[2]):
        assert frame[0, :, channel].tolist() == [0, 1, 0, 0, 0, 0.25, 1, 1]


@pytest.mark.parametrize(
    ("frame_format", "value"),
    [
        ("rgb_u8", "f16"),
        ("bgra_u8", "f16"),
        ("gray_u8", "f16"),
        ("bgr_u16", "f32"),
        ("rgba_f32", "f32"),
    ],
)
def test_a_frame_comes_back_from_its_tiles(
    host: HostKernels, frame_format: str, value: str
) -> None:
    # Everything a multiple of 4, as an engine has it: the path of whole vectors and words.
    order = frame_format.split("_")[0]
    shape, sample = shape_of((24, 36), frame_format), SAMPLES[frame_format.split("_")[1]]
    frame = random_samples(np.random.default_rng(6), int(np.prod(shape)), sample).reshape(shape)
    kept = np.array(
        [(y, x, y + 12, x + 12) for y in range(0, 24, 12) for x in range(0, 36, 12)], np.int32
    )
    origins = np.ascontiguousarray(kept[:, 1::-1] - 4)
    tiles = host.load_tiles(frame, order, origins, (20, 20), value)
    back, expected = np.zeros_like(frame), frame.copy()
    if sample.kind == "f":
        expected[..., :3] = frame[..., :3].clip(0, 1)  # alpha is copied as it is
    host.store_tiles(back, order, tiles, origins, kept, frame)
    assert_same(back, expected, f"{frame_format} through {value}")
