"""Pixel formats: what is one, where its planes lie, and its colours, against the kernels' twins."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from kernel_twins import (
    COLOURS,
    ORDERS,
    YUV_FORMATS,
    load_tiles_yuv,
    store_tiles_yuv,
)
from numpy.typing import NDArray

from mirnet_edge.engines.fake import FakeEngine
from mirnet_edge.errors import FrameError
from mirnet_edge.frames.pixel_formats import (
    KERNEL_SAMPLES,
    PixelFormat,
    from_rgb,
    kernel_format,
    pixel_format,
    rgb_to_yuv_matrix,
    to_rgb,
    yuv_to_rgb_matrix,
)
from mirnet_edge.restore import Restorer

SIZES = {"nv12": [(2, 2), (6, 10), (14, 2)], "i420": [(2, 2), (6, 10), (10, 6), (14, 2)]}
SIZES["yuyv"] = [(1, 2), (7, 10), (13, 2)]
INTERLEAVED_SIZES = [(1, 1), (3, 5), (7, 1), (1, 9)]
SAMPLES = list(KERNEL_SAMPLES)


def yuv_shape(name: str, size: tuple[int, int]) -> tuple[int, ...]:
    height, width = size
    return (height, width, 2) if name == "yuyv" else (height * 3 // 2, width)


def random_frame(shape: tuple[int, ...], dtype: Any, seed: int = 3) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    if np.dtype(dtype) == np.float32:
        return random.normal(0.5, 1, shape).astype(np.float32)
    return random.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def planes_in(frame: NDArray[Any], name: str, size: tuple[int, int]) -> list[NDArray[Any]]:
    """The planes as the twins have them, found by another way: byte by byte, with offsets."""
    height, width = size
    if name == "yuyv":
        return [frame.reshape(height, width // 2, 4)]
    flat, luma = frame.reshape(-1), height * width
    if name == "nv12":
        return [
            flat[:luma].reshape(height, width),
            flat[luma:].reshape(height // 2, width // 2, 2),
        ]
    chroma = luma // 4
    return [
        flat[:luma].reshape(height, width),
        flat[luma : luma + chroma].reshape(height // 2, width // 2),
        flat[luma + chroma :].reshape(height // 2, width // 2),
    ]


def yuv_cases() -> list[Any]:
    return [
        pytest.param(name, size, colour, id=f"{name}-{size[0]}x{size[1]}-{colour}")
        for name in YUV_FORMATS
        for size in SIZES[name]
        for colour in COLOURS
    ]


def yuv_format(name: str, colour: str) -> PixelFormat:
    standard, value_range = colour.split("-")
    return pixel_format(name, standard=standard, full_range=value_range == "full")


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", [*ORDERS, *YUV_FORMATS])
def test_every_name(name: str) -> None:
    pixels = pixel_format(name, standard="bt601", full_range=True)
    assert pixels.name == name
    assert pixels.is_yuv is (name in YUV_FORMATS)
    expected = ("bt601", True) if name in YUV_FORMATS else (None, False)
    assert (pixels.standard, pixels.full_range) == expected
    assert kernel_format(pixels, "uint8") == f"{name}_u8"


def test_video_is_the_default() -> None:
    assert pixel_format("nv12") == PixelFormat("nv12", "bt709", False)


@pytest.mark.parametrize("name", ["NV12", "yuv", "", "nv21"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(FrameError, match=rf"no pixel format '{name}'.*gray, rgb.*i420, yuyv$"):
        pixel_format(name)


def test_unknown_standard() -> None:
    with pytest.raises(FrameError, match="no colour standard 'bt2020'; known are bt601, bt709"):
        pixel_format("nv12", standard="bt2020")


def test_kernel_formats() -> None:
    names = [kernel_format(pixel_format("bgra"), dtype) for dtype in SAMPLES]
    assert names == ["bgra_u8", "bgra_u16", "bgra_f32"]


def test_other_dtypes() -> None:
    for name, dtype in [("nv12", np.uint16), ("yuyv", np.float32), ("rgb", np.float16)]:
        with pytest.raises(FrameError, match=f"{name} frame of dtype {np.dtype(dtype)}: need uint"):
            pixel_format(name).size_of((6, 6, 3), dtype)


# ---------------------------------------------------------------- size_of, planes_of


@pytest.mark.parametrize(
    ("name", "shape", "size"),
    [
        ("gray", (5, 7), (5, 7)),
        ("gray", (5, 7, 1), (5, 7)),
        ("bgr", (5, 7, 3), (5, 7)),
        ("rgba", (1, 1, 4), (1, 1)),
        ("nv12", (9, 10), (6, 10)),
        ("i420", (3, 2), (2, 2)),
        ("yuyv", (5, 6, 2), (5, 6)),
    ],
)
def test_sizes(name: str, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    assert pixel_format(name).size_of(shape, np.uint8) == size


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "message"),
    [
        ("rgb", (5, 7, 4), "u1", r"\(5, 7, 4\) is not rgb, which is \(height, width, 3\)"),
        ("bgra", (5, 7, 3), "u1", r"is not bgra, which is \(height, width, 4\)"),
        ("rgb", (5, 7), "u1", "is not rgb"),
        ("gray", (5, 7, 3), "u1", r"is not gray, which is \(height, width\) or"),
        ("gray", (5,), "u1", "is not gray"),
        ("rgb", (1, 5, 7, 3), "u1", "is not rgb"),
        ("nv12", (9, 10, 1), "u1", r"is not nv12, which is \(height \* 3 / 2, width\)"),
        ("i420", (9, 10, 3), "u1", "is not i420"),
        ("yuyv", (9, 20), "u1", "is not yuyv"),
        ("nv12", (10, 10), "u1", r"\(10, 10\): 10 rows are not height \* 3 / 2"),
        ("i420", (8, 10), "u1", "8 rows are not"),
        ("nv12", (9, 11), "u1", "its width 11 is odd"),
        ("i420", (9, 1), "u1", "its width 1 is odd"),
        ("yuyv", (5, 7, 2), "u1", "its width 7 is odd"),
        ("rgb", (0, 7, 3), "u1", "has no pixels"),
        ("nv12", (9, 0), "u1", "has no pixels"),
        ("rgb", (5, 7, 3), "f8", "rgb frame of dtype float64: need uint8, uint16, float32"),
        ("rgb", (5, 7, 3), ">u2", "dtype >u2"),
        ("nv12", (9, 10), "u2", "nv12 frame of dtype uint16: need uint8;"),
        ("yuyv", (9, 10, 2), "f4", "yuyv frame of dtype float32: need uint8;"),
    ],
)
def test_what_is_no_frame(name: str, shape: tuple[int, ...], dtype: str, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        pixel_format(name).size_of(shape, dtype)


def test_planes() -> None:
    nv12, i420 = pixel_format("nv12"), pixel_format("i420")
    assert nv12.planes_of((9, 10), (10, 1), "u1") == ((0, 10), (60, 10))
    assert nv12.planes_of((9, 10), (64, 1), "u1") == ((0, 64), (384, 64))
    assert nv12.planes_of((9, 10), (-10, 1), "u1") == ((0, -10), (-60, -10))
    assert i420.planes_of((9, 10), (10, 1), "u1") == ((0, 10), (60, 5), (75, 5))
    assert pixel_format("yuyv").planes_of((5, 6, 2), (-99, 2, 1), "u1") == ((0, -99),)
    assert pixel_format("rgb").planes_of((5, 7, 3), (96, 12, 4), "f4") == ((0, 96),)
    assert pixel_format("rgb").planes_of((5, 1, 3), (96, 77, 4), "f4") == ((0, 96),)
    assert pixel_format("gray").planes_of((5, 7), (16, 2), "u2") == ((0, 16),)


@pytest.mark.parametrize("dtype", SAMPLES)
@pytest.mark.parametrize("size", INTERLEAVED_SIZES)
@pytest.mark.parametrize("name", ORDERS)
def test_crops_and_flips_are_planes(name: str, size: tuple[int, int], dtype: Any) -> None:
    height, width = size
    large = np.zeros((height + 4, width + 3, len(ORDERS[name])), dtype)
    pitch = (width + 3) * len(ORDERS[name]) * large.itemsize
    crop = large[1 : height + 1, 2 : width + 2]
    one_row = width * len(ORDERS[name]) * large.itemsize  # nothing to say of one row's distance
    for frame, expected in [(crop, pitch), (crop[::-1], -pitch), (crop[::2], 2 * pitch)]:
        planes = pixel_format(name).planes_of(frame.shape, frame.strides, dtype)
        assert planes == ((0, expected if len(frame) > 1 else one_row),)


@pytest.mark.parametrize("size", SIZES["i420"])
def test_the_planes_of_i420_hold_its_planes(size: tuple[int, int]) -> None:
    frame = random_frame(yuv_shape("i420", size), np.uint8)
    shapes = [plane.shape for plane in planes_in(frame, "i420", size)]
    places = pixel_format("i420").planes_of(frame.shape, frame.strides, np.uint8)
    for expected, shape, (offset, pitch) in zip(
        planes_in(frame, "i420", size), shapes, places, strict=True
    ):
        found = np.ndarray(shape, np.uint8, frame, offset, (pitch, 1))
        np.testing.assert_array_equal(found, expected)


def test_planes_that_no_kernel_reads() -> None:
    def planes(name: str, frame: NDArray[Any]) -> Any:
        return pixel_format(name).planes_of(frame.shape, frame.strides, frame.dtype)

    rgb = np.zeros((5, 14, 3), np.uint16)
    for frame in (rgb[:, ::2], rgb[:, ::-1], rgb[..., ::-1], rgb.transpose(1, 0, 2)):
        with pytest.raises(FrameError, match=r"strides \(.*must lie side by side.*\.contiguous"):
            planes("rgb", frame)
    with pytest.raises(FrameError, match=r"strides \(.*a multiple of 2 apart"):
        planes("rgb", np.ndarray((5, 7, 3), np.uint16, bytes(999), 0, (45, 6, 2)))
    padded = np.zeros((9, 16), np.uint8)[:, :10]
    assert planes("nv12", padded) == ((0, 16), (96, 16))
    with pytest.raises(FrameError, match=r"rows are 16 bytes apart, .* needs 10; .*take nv12"):
        planes("i420", padded)
    assert planes("i420", padded[:3]) == ((0, 16), (32, 5), (37, 5)), "one row of chroma"
    with pytest.raises(FrameError, match="rows are -10 bytes apart"):
        planes("i420", np.zeros((9, 10), np.uint8)[::-1])


# ---------------------------------------------------------------- colours


@pytest.mark.parametrize("colour", COLOURS)
def test_matrices_are_those_of_the_twins(colour: str) -> None:
    pixels = yuv_format("nv12", colour)
    assert pixels.standard is not None
    to_rgb_matrix = yuv_to_rgb_matrix(pixels.standard, pixels.full_range)
    to_yuv_matrix = rgb_to_yuv_matrix(pixels.standard, pixels.full_range)
    np.testing.assert_array_equal(np.float32(to_rgb_matrix), COLOURS[colour].to_rgb)
    np.testing.assert_array_equal(np.float32(to_yuv_matrix), COLOURS[colour].to_yuv)
    assert all(type(value) in (int, float) for value in (*to_rgb_matrix, *to_yuv_matrix))


def test_colours_that_the_standards_name() -> None:
    """Codes of 8 bits for primaries: BT.601 limited and BT.709 limited, from their colour bars."""
    bars = np.float32([[[1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]]])
    for standard, codes in [
        ("bt601", [235, 128, 128, 81, 90, 240, 41, 240, 110]),
        ("bt709", [235, 128, 128, 63, 102, 240, 32, 240, 118]),
    ]:
        out = np.zeros((1, 6, 2), np.uint8)
        from_rgb(bars, pixel_format("yuyv", standard=standard), out)
        y, cb, cr = codes[::3], codes[1::3], codes[2::3]
        expected = [
            [code for luma, b, r in zip(y, cb, cr) for code in ((luma, b), (luma, r))],
        ]
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(("name", "size", "colour"), yuv_cases())
def test_yuv_against_the_twin(name: str, size: tuple[int, int], colour: str) -> None:
    pixels = yuv_format(name, colour)
    frame = random_frame(yuv_shape(name, size), np.uint8)
    planes = planes_in(frame, name, size)
    origins = np.zeros((1, 2), int)
    rgb = to_rgb(frame, pixels)
    tiles = load_tiles_yuv(planes, name, COLOURS[colour], origins, size, np.dtype("f4"))
    assert rgb.dtype == np.float32
    np.testing.assert_array_equal(rgb, tiles[0].transpose(1, 2, 0))

    noisy = rgb + np.random.default_rng(5).normal(0, 0.2, rgb.shape).astype(np.float32)
    out = np.full_like(frame, 77)
    from_rgb(noisy, pixels, out)
    whole = np.array([[0, 0, *size]])
    expected = store_tiles_yuv(
        planes, name, COLOURS[colour], noisy.transpose(2, 0, 1)[None], origins, whole
    )
    for found, plane in zip(planes_in(out, name, size), expected, strict=True):
        np.testing.assert_array_equal(found, plane)
    assert (out != frame).mean() > 0.2, "the noise changed nothing"


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("name", YUV_FORMATS)
def test_every_code_passes_through(name: str, colour: str) -> None:
    """All luma codes with all chroma codes, those that no colour has among them."""
    pixels = yuv_format(name, colour)
    frame = random_frame(yuv_shape(name, (258, 514)), np.uint8)
    out = np.zeros_like(frame)
    from_rgb(to_rgb(frame, pixels), pixels, out)
    np.testing.assert_array_equal(out, frame)


@pytest.mark.parametrize("name", YUV_FORMATS)
def test_arrays_of_any_strides(name: str) -> None:
    shape = yuv_shape(name, (6, 10))
    packed = random_frame(shape, np.uint8)
    pixels = pixel_format(name)
    for view in (
        np.zeros((shape[0] * 2, *shape[1:]), np.uint8)[::2],
        np.zeros((shape[0], shape[1] + 3, *shape[2:]), np.uint8)[::-1, 3:],
        np.zeros(shape[::-1], np.uint8).T,
    ):
        view[...] = packed
        np.testing.assert_array_equal(to_rgb(view, pixels), to_rgb(packed, pixels))
        rgb = to_rgb(packed, pixels).copy()
        view[...] = 9
        from_rgb(rgb, pixels, view)
        np.testing.assert_array_equal(view, packed)


def test_what_is_not_finite_has_no_colour() -> None:
    rgb = np.zeros((1, 6, 3), np.float32)
    rgb[0, 0, 0], rgb[0, 2, 1], rgb[0, 4] = np.nan, np.inf, -np.inf
    yuyv = np.zeros((1, 6, 2), np.uint8)
    from_rgb(rgb, pixel_format("yuyv"), yuyv)
    expected = [[(0, 128), (16, 128), (255, 0), (16, 0), (0, 128), (16, 128)]]
    np.testing.assert_array_equal(yuyv, expected)


@pytest.mark.parametrize("dtype", SAMPLES)
@pytest.mark.parametrize("name", ORDERS)
def test_interleaved_frames_are_restored_in_their_order(name: str, dtype: Any) -> None:
    """As the same picture in RGB, or gray, is without a format; alpha stays."""

    def unequal(tiles: NDArray[Any]) -> NDArray[Any]:
        return tiles * np.float32([0.9, 0.5, 0.2]).reshape(1, 3, 1, 1)

    random = np.random.default_rng(3).random((37, 53, len(ORDERS[name])), np.float32)
    scale = 1 if np.dtype(dtype) == np.float32 else np.iinfo(dtype).max
    frame = (random * np.float32(scale)).astype(dtype)
    order = [2, 1, 0] if name in ("bgr", "bgra") else slice(0, 3)
    options = {"tile": 32, "halo": 4}
    expected = frame.copy()
    with Restorer(FakeEngine(unequal), **options) as restore:
        expected[..., order] = restore(np.ascontiguousarray(frame[..., order]))
    with Restorer(FakeEngine(unequal), pixels=name, **options) as restore:
        np.testing.assert_array_equal(restore(frame), expected)
        out = np.zeros_like(frame)
        assert restore(frame[::-1], out=out) is out
        assert out.any()
        with pytest.raises(FrameError, match=f"is not {name}, which is"):
            restore(np.zeros((5, 6, 5), np.uint8))


def test_other_arrays_are_refused() -> None:
    with pytest.raises(FrameError, match="is not nv12"):
        to_rgb(np.zeros((5, 6, 3), np.uint8), pixel_format("nv12"))
    with pytest.raises(FrameError, match="is not yuyv"):
        from_rgb(np.zeros((5, 8, 3), np.float32), pixel_format("yuyv"), np.zeros((5, 8), np.uint8))


def test_formats_are_values() -> None:
    every = [
        pixel_format(name, standard=standard, full_range=full)
        for name, standard, full in itertools.product(
            [*ORDERS, *YUV_FORMATS], ["bt601", "bt709"], [False, True]
        )
    ]
    assert len(set(every)) == len(ORDERS) + 4 * len(YUV_FORMATS)


def test_a_format_made_by_hand_needs_its_standard() -> None:
    with pytest.raises(FrameError, match="nv12 with the colour standard None"):
        PixelFormat("nv12")
    with pytest.raises(FrameError, match="rgb with the colour standard bt709"):
        PixelFormat("rgb", "bt709")
