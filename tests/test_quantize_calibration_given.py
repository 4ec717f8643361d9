"""What a network is given of clean pictures: noise and its level, or fewer pixels enlarged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import RawGraph
from PIL import Image
from scenes import scene

import mirnet_edge as me
from mirnet_edge.facts import NOISE_UNIT, ModelFacts
from mirnet_edge.quantize import TOLD_SIGMAS, open_images, quantize_onnx
from mirnet_edge.quantize.calibration import CalibrationSet

TILE = (48, 72)
FRAMES = [scene(seed, 96, 120) for seed in range(8)]


def opened(**options: object) -> CalibrationSet:
    return CalibrationSet.open(FRAMES, tile=TILE, count=8, **options)  # type: ignore[arg-type]


def test_the_plane_tells_the_noise_that_was_added() -> None:
    found = opened(sigma=(5.0, 40.0), noise_level=True)
    assert found.targets is not None
    assert (found.tiles.shape, found.targets.shape) == ((8, 4, *TILE), (8, 3, *TILE))
    for index, (tile, target) in enumerate(zip(found.tiles, found.targets)):
        level = 255 * np.sqrt(np.mean(np.square(tile[:3] - target, dtype=np.float64)))
        np.testing.assert_allclose(tile[3], level / NOISE_UNIT, rtol=1e-4)
        # Clamped, a frame has less noise than was added.
        assert 0.6 * (5, 40)[index % 2] < level < 1.05 * (5, 40)[index % 2]
    plain = opened(sigma=(5.0, 40.0))
    np.testing.assert_array_equal(plain.tiles, found.tiles[:, :3])


def test_unknown_noise_is_told_at_all_levels() -> None:
    found = opened(noise_level=True)
    assert found.targets is None
    np.testing.assert_array_equal(found.tiles[:, :3], opened().tiles)
    levels = found.tiles[:, 3]
    np.testing.assert_allclose(levels[:, 0, 0], (np.arange(8) + 0.5) / 8)
    assert np.ptp(levels, axis=(1, 2)).max() == 0


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_network_that_enlarges_is_given_fewer_pixels_enlarged(scale: int) -> None:
    found = opened(scale=scale)
    assert found.targets is not None
    np.testing.assert_array_equal(found.targets, opened().tiles)
    for tile, target in zip(found.tiles, found.targets):
        small = (TILE[1] // scale, TILE[0] // scale)
        for given, clean in zip(tile, target):
            # The same kernel, but at the borders; in float, rounded between as a frame is.
            less = np.asarray(Image.fromarray(clean).resize(small, Image.Resampling.BICUBIC))
            rounded = np.rint(less.clip(0, 1) * 255).astype(np.float32) / 255
            size = (TILE[1], TILE[0])
            again = np.asarray(Image.fromarray(rounded).resize(size, Image.Resampling.BICUBIC))
            inside = (slice(5 * scale, -5 * scale),) * 2
            assert np.abs(given - again)[inside].max() <= 1.6 / 255


def test_noise_of_a_smaller_frame_is_added_before_it_is_enlarged() -> None:
    clean, noisy = opened(scale=2), opened(scale=2, sigma=20.0, noise_level=True)
    assert noisy.tiles.shape[1] == 4
    differences = (noisy.tiles[:, :3] - clean.tiles)[::2] * 255
    assert 12 < differences.std() < 18, "smoother than what was added"
    np.testing.assert_allclose(noisy.tiles[::2, 3] * NOISE_UNIT, 20, rtol=0.05)
    np.testing.assert_array_equal(noisy.targets, clean.targets)


def test_a_tile_that_the_scale_does_not_divide_is_refused() -> None:
    with pytest.raises(me.CalibrationError, match=r"multiples of scale=3"):
        CalibrationSet.open(FRAMES, tile=(64, 72), scale=3)


def test_bundled_images_are_what_the_network_restores() -> None:
    told = open_images(ModelFacts(task="denoise", noise_level=True), TILE)
    assert told.targets is not None
    levels = told.tiles[::2, 3, 0, 0] * NOISE_UNIT
    wanted = np.resize(TOLD_SIGMAS, len(told.tiles))[::2]
    np.testing.assert_allclose(levels, wanted, rtol=0.05)
    enlarged = open_images(ModelFacts(task="super-resolution", scale=2), TILE)
    assert enlarged.targets is not None
    assert enlarged.tiles.shape == enlarged.targets.shape
    lifted = open_images(ModelFacts(task="enhance"), TILE)
    assert lifted.targets is None


def test_tiles_that_the_network_does_not_take_are_refused(
    raw_graph: RawGraph, tmp_path: Path
) -> None:
    with pytest.raises(me.CalibrationError, match=r"3 planes, but the network takes 4; .*=True"):
        open_images(ModelFacts(noise_level=True), TILE, opened())
    onnx.save(raw_graph("edge-x4"), tmp_path / "x.onnx")
    with pytest.raises(me.GraphError, match=r"tile 36x44: .*multiples of 16 .* next is 48x48"):
        quantize_onnx(tmp_path / "x.onnx", tmp_path / "y.onnx", tile=(36, 44))
