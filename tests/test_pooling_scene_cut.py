"""Scene cuts: the grid of luma, and how far frames of one scene are from each other."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_twins import luma_sums as twin

from mirnet_edge.frames.noise import add_gaussian_noise
from mirnet_edge.pooling.passes import StatisticsSettings
from mirnet_edge.pooling.scene_cut import difference, luma_grid


@pytest.mark.parametrize("size", [(3, 70), (13, 17), (37, 90), (64, 64)])
def test_the_luma_grid_is_that_of_the_device(size: tuple[int, int]) -> None:
    height, width = size
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    rows = [len(range(i * height // 8, (i + 1) * height // 8, 4)) for i in range(8)]
    columns = [(i + 1) * width // 8 - i * width // 8 for i in range(8)]
    pixels = np.maximum(np.outer(rows, columns), 1)
    for given_frame, order in ((frame, "rgb"), (frame[..., :1], "gray")):
        expected = twin(given_frame, order, 4) / (256 * 255 * pixels)
        np.testing.assert_allclose(luma_grid(given_frame), expected, atol=1e-6)


def test_noise_and_motion_are_no_scene_cut(photo: np.ndarray) -> None:
    cut = StatisticsSettings().cut
    moved = difference(luma_grid(photo[:, 8:]), luma_grid(photo[:, :-8]))
    noisy = difference(luma_grid(photo), luma_grid(add_gaussian_noise(photo, 25, 0)))
    assert max(moved, noisy) < cut
    assert difference(luma_grid(photo), luma_grid(photo[::-1, ::-1])) > cut
