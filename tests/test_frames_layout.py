"""Frames of every layout become planes and come back exactly; all others are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mirnet_edge.errors import EngineError, FrameError
from mirnet_edge.frames.layout import MAXIMUM, FrameLayout, reflected

DTYPES = [np.uint8, np.uint16, np.float32]
SHAPES = [(1, 1), (3, 5), (3, 5, 1), (3, 5, 2), (3, 5, 3), (3, 5, 4), (1, 7, 3), (7, 1, 4)]


def random_frame(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    if dtype == np.float32:
        return rng.random(shape, dtype=np.float32)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def loaded(frame: NDArray[Any], height: int = 0, width: int = 0, channels: int = 3) -> Any:
    """The whole frame, or more, as planes."""
    height, width = height or frame.shape[0], width or frame.shape[1]
    planes = np.full((channels, height, width), np.nan, np.float32)
    region = (slice(0, height), slice(0, width))
    FrameLayout.of(frame, channels).load(frame, region, planes)
    return planes


def whole(frame: NDArray[Any]) -> tuple[slice, slice]:
    return slice(0, frame.shape[0]), slice(0, frame.shape[1])


# ---------------------------------------------------------------- FrameLayout.of


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_layout_of_every_frame(shape: tuple[int, ...], dtype: Any) -> None:
    layout = FrameLayout.of(np.zeros(shape, dtype))
    channels = shape[2] if len(shape) == 3 else 1
    assert (layout.height, layout.width, layout.dtype) == (*shape[:2], np.dtype(dtype))
    assert layout.colours == {1: 1, 2: 1, 3: 3, 4: 3}[channels]
    assert layout.alpha is (channels in (2, 4))
    assert layout.maximum == {"u1": 255, "u2": 65535, "f4": 1}[np.dtype(dtype).str[1:]]


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_networks_of_other_channels_take_their_own_only(channels: int) -> None:
    layout = FrameLayout.of(np.zeros((3, 5, channels), np.uint8), channels)
    assert (layout.colours, layout.alpha) == (channels, False)
    for shape in [(3, 5), (3, 5, 3), (3, 5, channels + 1)]:
        with pytest.raises(FrameError, match=f"this network takes {channels} channels"):
            FrameLayout.of(np.zeros(shape, np.uint8), channels)


def test_gray_networks_take_gray_only() -> None:
    assert FrameLayout.of(np.zeros((3, 5), np.uint8), 1).colours == 1
    assert FrameLayout.of(np.zeros((3, 5, 2), np.uint8), 1).alpha
    for channels in (3, 4):
        with pytest.raises(FrameError, match=r"\(3, 5, .\): this network takes gray frames"):
            FrameLayout.of(np.zeros((3, 5, channels), np.uint8), 1)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (None, "must be a numpy array, not NoneType"),
        ([[1, 2], [3, 4]], "must be a numpy array, not list"),
        ("photo.png", "must be a numpy array, not str"),
        (np.uint8(3), "must be a numpy array, not uint8"),
        (np.zeros((), np.uint8), r"shape \(\): need \(height, width\)"),
        (np.zeros(5, np.uint8), r"shape \(5,\): need"),
        (np.zeros((1, 5, 5, 3), np.uint8), r"shape \(1, 5, 5, 3\): need"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\) has no pixels"),
        (np.zeros((5, 0), np.float32), "has no pixels"),
        (np.zeros((5, 5, 0), np.uint8), "has no pixels"),
        (np.zeros((3, 50, 60), np.uint8), r"60 channels; need .*\(C, H, W\) array must be transp"),
        (np.zeros((5, 5, 5), np.uint8), "5 channels; need 1"),
    ],
)
def test_what_is_no_frame(frame: Any, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        FrameLayout.of(frame)


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "int16", "int64", "uint32", "float16", "float64", ">u2", ">f4", "O"]
)
def test_other_dtypes(dtype: str) -> None:
    with pytest.raises(FrameError, match=f"dtype {np.dtype(dtype)}: need one of uint8, uint16, fl"):
        FrameLayout.of(np.zeros((4, 4, 3), dtype))


# ---------------------------------------------------------------- load, store


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [3, 4])
def test_colour_comes_back_exactly(channels: int, dtype: Any) -> None:
    frame = random_frame((41, 67, channels), dtype)
    planes = loaded(frame)
    reference = frame[..., :3].astype(np.float64) / MAXIMUM[frame.dtype]
    np.testing.assert_allclose(planes, reference.transpose(2, 0, 1), rtol=1e-7)
    out = np.full_like(frame, 99)
    FrameLayout.of(frame).store(planes, out, whole(frame))
    np.testing.assert_array_equal(out[..., :3], frame[..., :3])
    assert (out[..., 3:] == 99).all(), "alpha is the caller's"


@pytest.mark.parametrize("network_channels", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(41, 67), (41, 67, 1), (41, 67, 2)])
def test_gray_comes_back(shape: tuple[int, ...], dtype: Any, network_channels: int) -> None:
    """Exactly; but for the last bit of the mean of three float32."""
    frame = random_frame(shape, dtype)
    planes = loaded(frame, channels=network_channels)
    assert (planes == planes[0]).all()
    gray = frame.reshape(41, 67, -1)[..., 0]
    out = np.full_like(frame, 99)
    FrameLayout.of(frame, network_channels).store(planes, out, whole(frame))
    stored = out.reshape(41, 67, -1)
    if dtype == np.float32 and network_channels == 3:
        np.testing.assert_array_max_ulp(stored[..., 0], gray, maxulp=1)
    else:
        np.testing.assert_array_equal(stored[..., 0], gray)
    assert (stored[..., 1:] == 99).all(), "alpha is the caller's"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_integer_comes_back(dtype: Any) -> None:
    values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(16, -1)
    for frame in (values, np.repeat(values[:, :, None], 3, axis=2)):
        planes = loaded(frame)
        assert planes.min() == 0
        assert planes.max() == 1
        out = np.zeros_like(frame)
        FrameLayout.of(frame).store(planes, out, whole(frame))
        np.testing.assert_array_equal(out, frame)


def test_six_channels_come_back_exactly() -> None:
    frame = random_frame((9, 11, 6), np.uint16)
    planes = loaded(frame, channels=6)
    out = np.zeros_like(frame)
    FrameLayout.of(frame, 6).store(planes, out, whole(frame))
    np.testing.assert_array_equal(out, frame)


def test_gray_of_three_unequal_planes_is_their_mean() -> None:
    planes = random_frame((3, 9, 11), np.float32)
    mean = planes.astype(np.float64).mean(axis=0)
    out = np.zeros((9, 11), np.uint8)
    FrameLayout.of(out).store(planes, out, whole(out))
    np.testing.assert_array_equal(out, np.rint(255 * mean))


def test_a_region_is_read_and_written_where_it_lies() -> None:
    frame = random_frame((20, 30, 3), np.uint8)
    layout = FrameLayout.of(frame)
    region = (slice(4, 13), slice(7, 30))
    planes = np.empty((3, 9, 23), np.float32)
    layout.load(frame, region, planes)
    expected = frame[region].transpose(2, 0, 1).astype(np.float32) / 255
    np.testing.assert_array_equal(planes, expected)
    out = np.zeros_like(frame)
    layout.store(planes, out, region)
    np.testing.assert_array_equal(out[region], frame[region])
    out[region] = 0
    assert not out.any()


@pytest.mark.parametrize("view", ["reversed", "strided", "transposed", "read-only"])
def test_views_are_read_as_they_look(view: str) -> None:
    frame = random_frame((12, 20, 3), np.uint8)
    seen = {
        "reversed": frame[::-1, ::-1],
        "strided": frame[::2, ::3],
        "transposed": frame.transpose(1, 0, 2),
        "read-only": frame.copy(),
    }[view]
    seen.flags.writeable = False
    before = frame.copy()
    np.testing.assert_array_equal(loaded(seen), loaded(np.ascontiguousarray(seen)))
    np.testing.assert_array_equal(frame, before)


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    below=st.integers(0, 20),
    right=st.integers(0, 20),
    channels=st.sampled_from([0, 1, 2, 3, 4]),
)
def test_beyond_the_border_is_numpys_reflection(
    height: int, width: int, below: int, right: int, channels: int
) -> None:
    frame = random_frame((height, width, channels) if channels else (height, width), np.uint8)
    planes = loaded(frame, height + below, width + right)
    colours = frame.reshape(height, width, -1)[..., : 3 if channels >= 3 else 1]
    padded = np.pad(colours, ((0, below), (0, right), (0, 0)), mode="reflect")
    expected = np.broadcast_to(padded, (*padded.shape[:2], 3)).transpose(2, 0, 1)
    np.testing.assert_array_equal(planes, expected.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(("top", "left"), [(5, 0), (0, 6), (5, 6)])
def test_a_region_that_starts_inside_is_reflected_too(top: int, left: int) -> None:
    frame = random_frame((11, 13, 3), np.uint16)
    region = (slice(top, 14), slice(left, 16))
    planes = np.empty((3, 14 - top, 16 - left), np.float32)
    FrameLayout.of(frame).load(frame, region, planes)
    padded = np.pad(frame, ((0, 3), (0, 3), (0, 0)), mode="reflect")[region]
    np.testing.assert_array_equal(
        planes, padded.transpose(2, 0, 1).astype(np.float32) / np.float32(65535)
    )


@pytest.mark.parametrize(("dtype", "maximum"), [(np.uint8, 255), (np.uint16, 65535)])
def test_halves_are_rounded_to_even(dtype: Any, maximum: int) -> None:
    steps = np.arange(maximum, dtype=np.float32) + np.float32(0.5)
    levels = steps / np.float32(maximum)
    exact = levels * np.float32(maximum) == steps
    assert exact.sum() > 100, "of the halves that float32 holds exactly"
    out = np.zeros((1, maximum), dtype)
    FrameLayout.of(out, 1).store(levels.reshape(1, 1, -1).copy(), out, whole(out))
    below = np.arange(maximum)
    even = below + below % 2
    np.testing.assert_array_equal(out[0, exact], even[exact])


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_clamped(dtype: Any) -> None:
    values = np.array([-1e30, -1.0, -1e-7, 0.0, 1.0, 1.0001, 2.0, 3e38], np.float32)
    out = np.full((1, 8, 3), 7, dtype)
    layout = FrameLayout.of(out)
    layout.store(np.tile(values, (3, 1, 1)), out, whole(out))
    top = dtype(layout.maximum)
    np.testing.assert_array_equal(out[0, :, 1], [0, 0, 0, 0, top, top, top, top])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_is_refused(dtype: Any, bad: float) -> None:
    out = np.zeros((30, 40, 3), dtype)
    planes = np.zeros((3, 4, 6), np.float32)
    planes[2, 3, 5] = bad
    region = (slice(8, 12), slice(16, 22))
    with pytest.raises(EngineError, match="NaN or infinity in rows 8-12, columns 16-22"):
        FrameLayout.of(out).store(planes, out, region)
    assert not out.any()


def test_both_infinities_do_not_cancel() -> None:
    out = np.zeros((1, 2), np.uint8)
    planes = np.array([[[np.inf, -np.inf]]], np.float32)
    with pytest.raises(EngineError, match="NaN or infinity"), np.errstate(invalid="ignore"):
        FrameLayout.of(out, 1).store(planes, out, whole(out))


@pytest.mark.parametrize("sigma", [15, 25, 50, 75])
def test_noise_that_is_not_clamped_is_taken(sigma: int) -> None:
    noise = np.random.default_rng(sigma).standard_normal((1000, 1000, 3), np.float32)
    frame = random_frame((1000, 1000, 3), np.float32) + np.float32(sigma / 255) * noise
    np.testing.assert_array_equal(loaded(frame), frame.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (255, r"values from .* to 25\d.* in rows 0-20, columns 0-30, but .*divide it by 255"),
        (65535, r"divide it by 65535"),
        (-255, r"values from -25\d.* to -?\d"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_float_frame_of_other_units_is_refused(scale: float, message: str, channels: int) -> None:
    frame = np.linspace(0, 1, 20 * 30 * channels, dtype=np.float32).reshape(20, 30, channels)
    with pytest.raises(FrameError, match=message):
        loaded(frame * np.float32(scale))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_is_told_from_units(bad: float) -> None:
    frame = np.full((4, 5, 3), 200, np.float32)
    frame[2, 3, 1] = bad
    with pytest.raises(FrameError, match="holds NaN or infinity in rows 0-4, columns 0-5"):
        loaded(frame)


# ---------------------------------------------------------------- reflected


@pytest.mark.parametrize("size", range(1, 10))
def test_reflected_is_numpys(size: int) -> None:
    padded = np.pad(np.arange(size), 100, mode="reflect")
    positions = np.arange(-100, size + 100)
    before = positions.copy()
    np.testing.assert_array_equal(reflected(positions, size), padded)
    np.testing.assert_array_equal(positions, before)


@given(position=st.integers(-(10**12), 10**12), size=st.integers(1, 5000))
def test_reflected_stays_inside_and_repeats(position: int, size: int) -> None:
    period = max(2 * (size - 1), 1)
    (here, there, mirror) = reflected(
        np.array([position, position + period, -position], np.int64), size
    )
    assert 0 <= here < size
    assert here == there == mirror
    if 0 <= position < size:
        assert here == position
