"""The kernel that writes a noise level, run on the host, on every alignment."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernel_host import GuardedTiles, HostKernels
from kernel_host import host_fixture as host_fixture
from kernel_samples import assert_same
from kernel_twins import VALUES


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("tile_size_px", [(8, 16), (7, 5), (1, 1)])
@pytest.mark.parametrize("planes", [1, 4])
def test_the_last_plane_alone_is_filled(
    host: HostKernels, planes: int, tile_size_px: tuple[int, int], value: str
) -> None:
    for guard_bytes in (16, 16 + VALUES[value].itemsize):
        batch = GuardedTiles(3, tile_size_px, value, guard_bytes, planes)
        address, *shape = batch.arguments
        level = ctypes.pointer(ctypes.c_float(0.3))
        host.launch(f"fill_plane_{value}", (2, 1, 3), (3, 1, 1), address, *shape, level)
        tiles = batch.written()
        expected = np.full((3, *tile_size_px), 0.3, VALUES[value])
        assert_same(tiles[:, -1], expected, f"tiles {tiles.shape}")
        assert (np.ascontiguousarray(tiles[:, :-1]).view(np.uint8) == 0xA5).all()
