"""Frames that several threads copy are the frames that one copies."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest

from mirnet_edge.device.host_copies import LEAST_BYTES, HostCopies


def copiers() -> int:
    return sum(each.name.startswith("mirnet-edge copies") for each in threading.enumerate())


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 64])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1081, 1919, 3), "u1"), ((1620, 1920), "u1"), ((1080, 1920, 3), "f4"), ((2, 2 << 20), "u2"),
     ((5, 7, 3), "u1"), ((0, 7, 3), "u1")],
)  # fmt: skip
def test_every_pixel_arrives_once(threads: int, shape: tuple[int, ...], dtype: str) -> None:
    source = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    around = np.full((shape[0] + 2, *shape[1:]), 77, dtype)
    with closing(HostCopies(threads)) as copies:
        for _ in range(2):
            copies.copy(around[1:-1], source)
            np.testing.assert_array_equal(around[1:-1], source)
        assert (around[[0, -1]] == 77).all()
        assert copiers() < max(threads, 2)
    assert copiers() == 0


def test_a_plane_of_a_frame_with_alpha_is_copied() -> None:
    frame = np.zeros((2048, 2048, 2), np.uint8)
    plane = np.arange(2048 * 2048, dtype=np.uint32).astype(np.uint8).reshape(2048, 2048)
    with closing(HostCopies(4)) as copies:
        copies.copy(frame[..., 0], plane)
    np.testing.assert_array_equal(frame[..., 0], plane)
    assert not frame[..., 1].any()


def test_small_frames_wake_no_thread() -> None:
    small = np.ones((2, LEAST_BYTES - 1), np.uint8)
    with closing(HostCopies(4)) as copies:
        copies.copy(np.empty_like(small), small)
        assert copiers() == 0


def test_an_error_in_any_part_is_raised() -> None:
    frozen = np.zeros((1080, 1920, 3), np.uint8)
    frozen.setflags(write=False)
    with closing(HostCopies(3)) as copies, pytest.raises(ValueError, match="read-only"):
        copies.copy(frozen, np.ones_like(frozen))
