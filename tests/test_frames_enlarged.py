"""Frames enlarged region by region."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mirnet_edge as me
from mirnet_edge.frames.bicubic import resized
from mirnet_edge.frames.enlarged import enlarged, load_region
from mirnet_edge.frames.layout import FrameLayout


def planes_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((3, height, width), np.float32)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (37, 53)])
def test_it_is_the_bicubic_enlargement(scale: int, size: tuple[int, int]) -> None:
    planes = planes_of(*size)
    height, width = size
    expected = resized(planes, scale * height, scale * width)
    np.testing.assert_allclose(enlarged(planes, scale), expected, atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    scale=st.integers(2, 4),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    top=st.floats(0, 1),
    left=st.floats(0, 1),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_a_region_is_a_part_of_the_whole_to_the_last_bit(
    scale: int, height: int, width: int, top: float, left: float, size: tuple[int, int]
) -> None:
    planes = planes_of(height, width)
    frame = np.ascontiguousarray(planes.transpose(1, 2, 0))
    rows, columns = (
        slice(int(share * (scale * length - 1)), int(share * (scale * length - 1)) + side)
        for share, length, side in zip((top, left), (height, width), size)
    )
    found = np.full((3, *size), np.nan, np.float32)
    load_region(FrameLayout.of(frame), frame, (rows, columns), found, scale)
    inside = enlarged(planes, scale)[:, rows, columns]
    beyond = [(0, 0), *((0, side - length) for side, length in zip(size, inside.shape[1:]))]
    # The reflection of what is enlarged, and not the enlargement of a reflection.
    np.testing.assert_array_equal(found, np.pad(inside, beyond, mode="reflect"))


def test_scale_one_is_the_frame_as_it_is() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (9, 11), np.uint8)
    found = np.empty((3, 4, 5), np.float32)
    load_region(FrameLayout.of(frame), frame, (slice(2, 6), slice(3, 8)), found, 1)
    for plane in found:
        np.testing.assert_array_equal(plane, frame[2:6, 3:8] / np.float32(255))


def test_values_between_are_neither_cut_nor_rounded() -> None:
    """An edge rings beyond black and white, and the network is to see it."""
    step = np.repeat(np.float32([[0, 0, 0, 1, 1, 1]]), 6, axis=0)[None]
    found = enlarged(step, 2)
    assert found.min() < -0.02
    assert found.max() > 1.02


def test_a_float_frame_in_codes_is_refused() -> None:
    frame = np.full((8, 8, 3), 200, np.float32)
    with pytest.raises(me.FrameError, match="divide it by 255"):
        load_region(
            FrameLayout.of(frame), frame, (slice(0, 8), slice(0, 8)), np.empty((3, 8, 8)), 2
        )
