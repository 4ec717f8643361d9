"""Codes of decoded pictures as arrays and back: exact where nothing is changed, true in colour."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_jobs import pictures_of
from video_samples import av, make_video

from mirnet_edge.stream.video.facts import Planes, VideoFacts
from mirnet_edge.stream.video.pictures import Pictures

FACTS = VideoFacts(
    width=0,
    height=0,
    time_base=Fraction(1, 25),
    rate=Fraction(25),
    codec="h264",
    pix_fmt="",
    depth=8,
    planes=None,
    matrix=1,
    primaries=1,
    transfer=1,
    full_range=False,
    range_tag=1,
    display_matrix=None,
    turn=0,
    pixel_aspect=None,
    frames=None,
    duration_s=None,
)


def pictures(pix_fmt: str, height: int, width: int, **facts: Any) -> Pictures:
    planes = Planes.of(pix_fmt)
    assert planes is not None
    known = replace(
        FACTS, planes=planes, depth=planes.depth, height=height, width=width, pix_fmt=pix_fmt,
        **facts,
    )  # fmt: skip
    return Pictures(known, planes)


def decoded(pix_fmt: str, codes: list[np.ndarray], size: tuple[int, int] | None = None) -> Any:
    """PyAV's picture of these planes; the first is of its size where none is given."""
    height, width = size or codes[0].shape
    picture = av.VideoFrame(width, height, pix_fmt)
    for plane, code in zip(picture.planes, codes, strict=True):
        rows = np.frombuffer(plane, code.dtype).reshape(-1, plane.line_size // code.itemsize)
        rows[: code.shape[0], : code.shape[1]] = code
    return picture


def random_codes(planes: Planes, height: int, width: int, full: bool) -> list[np.ndarray]:
    rng = np.random.default_rng(height * width)
    top = 1 << planes.depth
    sizes = [(height, width)]
    if not planes.is_gray:
        sizes += [(-(-height // planes.rows), -(-width // planes.columns))] * 2
    dtype = np.uint8 if planes.depth == 8 else np.uint16
    low, high = (0, top) if full else (top // 16, top * 15 // 16)
    return [rng.integers(low, high, size).astype(dtype) for size in sizes]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize(
    "pix_fmt",
    ["yuv420p", "yuv422p", "yuv440p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p12le",
     "gray", "gray10le"],
)  # fmt: skip
@pytest.mark.parametrize(("height", "width"), [(8, 12), (6, 12), (7, 11), (1, 1)])
def test_codes_that_nobody_changed_come_back(
    pix_fmt: str, matrix: int, full: bool, height: int, width: int
) -> None:
    kind = pictures(pix_fmt, height, width, matrix=matrix, full_range=full)
    codes = random_codes(kind.written, height, width, full)
    array = kind.array_of(decoded(pix_fmt, codes))
    size = kind.pixels.size_of(array.shape, array.dtype)
    even = kind.pixels.name == "i420"
    assert size == ((height + height % 2, width + width % 2) if even else (height, width))
    for one, two in zip(codes, kind.codes_of(array), strict=True):
        np.testing.assert_array_equal(one, two)
    back = kind.picture_of(array)
    assert (back.format.name, back.height, back.width) == (pix_fmt, height, width)
    np.testing.assert_array_equal(kind.array_of(back), array)


@pytest.mark.parametrize(
    ("pix_fmt", "matrix", "full", "expected"),
    [
        ("yuv420p", 1, False, ("i420", "bt709", False)),
        ("yuvj420p", 6, True, ("i420", "bt601", True)),
        ("nv12", 2, False, ("i420", "bt601", False)),
        ("yuv420p", 9, False, ("rgb", None, False)),
        ("yuv422p", 1, False, ("rgb", None, False)),
        ("yuv420p10le", 1, False, ("rgb", None, False)),
        ("p010le", 9, False, ("rgb", None, False)),
        ("gray", 2, False, ("gray", None, False)),
    ],
)
def test_only_8_bits_of_4_2_0_stay_codes(
    pix_fmt: str, matrix: int, full: bool, expected: tuple[str, str | None, bool]
) -> None:
    pixels = pictures(pix_fmt, 8, 8, matrix=matrix, full_range=full).pixels
    assert (pixels.name, pixels.standard, pixels.full_range) == expected


def test_a_matrix_that_is_not_told_goes_by_the_height() -> None:
    assert pictures("yuv420p", 576, 720, matrix=2).pixels.standard == "bt601"
    assert pictures("yuv420p", 720, 1280, matrix=2).pixels.standard == "bt709"


@pytest.mark.parametrize(
    ("codes", "rgb"),
    [
        ((940, 512, 512), (1, 1, 1)),
        ((64, 512, 512), (0, 0, 0)),
        ((250, 409, 960), (1, 0, 0)),
        ((127, 960, 471), (0, 0, 1)),
    ],
)
def test_ten_bits_of_bt709_are_the_colours_of_its_table(
    codes: tuple[int, ...], rgb: tuple[int, ...]
) -> None:
    """Colour bars of ITU-R BT.709-6, quantized by its section 3.4."""
    kind = pictures("yuv444p10le", 2, 2)
    planes = [np.full((2, 2), code, np.uint16) for code in codes]
    array = kind.array_of(decoded("yuv444p10le", planes))
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, np.broadcast_to(np.float32(rgb), (2, 2, 3)), atol=1.5e-3)


@pytest.mark.parametrize(("other", "planar"), [("nv12", "yuv420p"), ("yuyv422", "yuv422p"),
                                               ("p010le", "yuv420p10le")])  # fmt: skip
@pytest.mark.parametrize("tag", [0, 1, 2])
def test_packed_formats_hold_the_codes_of_planar_ones(other: str, planar: str, tag: int) -> None:
    kind = pictures(planar, 8, 12)
    y, u, v = codes = random_codes(kind.written, 8, 12, True)
    picture = decoded(planar, codes)
    # Packed here: FFmpeg's conversion to p010 now and then leaves rows of so small a picture out.
    if other == "yuyv422":
        planes = [np.stack((y[:, ::2], u, y[:, 1::2], v), 2).reshape(8, 24)]
    else:
        shift = 6 if other == "p010le" else 0
        planes = [y << shift, np.stack((u, v), 2).reshape(4, 12) << shift]
    packed = decoded(other, planes, (8, 12))
    packed.color_range = picture.color_range = tag
    np.testing.assert_array_equal(pictures(other, 8, 12).array_of(packed), kind.array_of(picture))


def test_pictures_without_luma_are_converted(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mkv", frames=2, codec="ffv1", pix_fmt="bgr0")
    kind, frames = pictures_of(source)
    assert (kind.pixels.name, kind.written.name) == ("rgb", "yuv444p")
    array = kind.array_of(frames[0])
    assert (array.dtype, array.shape) == (np.uint8, (48, 64, 3))
    shown = kind.picture_of(array)
    assert (int(shown.colorspace), int(shown.color_range)) == (6, 1)
    again = replace(kind.facts, planes=kind.written, matrix=6)
    back = Pictures(again, kind.written).array_of(shown)
    assert np.abs(back * 255 - array).max() < 3


def test_gray_may_have_to_be_written_in_colour() -> None:
    planes = Planes.of("yuv420p")
    assert planes is not None
    kind = replace(pictures("gray", 4, 6), written=planes)
    assert kind.pixels.name == "rgb"
    gray = np.arange(16, 40, dtype=np.uint8).reshape(4, 6)
    luma, *chroma = kind.codes_of(kind.array_of(decoded("gray", [gray])))
    np.testing.assert_array_equal(luma, gray)
    assert [(plane.shape, plane.min(), plane.max()) for plane in chroma] == [((2, 3), 128, 128)] * 2


@pytest.mark.parametrize("turn", [0, 90, -90, 180])
def test_before_is_left_of_after_as_it_is_shown(turn: int) -> None:
    kind = pictures("yuv420p", 8, 12, turn=turn)
    before = [np.full((8, 12), 50, np.uint8), *[np.full((4, 6), 100, np.uint8)] * 2]
    after = [plane + 100 for plane in before]
    luma, cb, cr = kind.side_by_side(before, after)
    upright = np.rot90(luma, turn // 90)
    half = (upright.shape[1] - 4) // 2
    assert (upright[:, :half] == 50).all()
    assert (upright[:, half : half + 4] == 235).all()
    assert (upright[:, -half:] == 150).all()
    assert cb.shape == cr.shape == (luma.shape[0] // 2, luma.shape[1] // 2)
