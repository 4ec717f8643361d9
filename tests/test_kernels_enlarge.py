"""The kernels that enlarge a frame bicubically, run on the host from the same source, against their
NumPy twins and the package's own interpolation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernel_host import HostKernels
from kernel_host import host_fixture as host_fixture
from kernel_samples import assert_near, assert_same, random_samples, some_origins
from kernel_twins import SAMPLES, VALUES, Array, enlarge_alpha, enlarge_tiles, enlarged

from mirnet_edge.frames.bicubic import resized

FRAME_SIZES_PX = ((1, 1), (1, 7), (5, 2), (3, 4), (13, 18), (24, 40))
SCALES = (2, 3, 4)


def random_planes(size_px: tuple[int, int], value: str, extra: int = 0) -> Array:
    """(3, H, W + extra), around 0..1; what does not count is no number."""
    height, width = size_px
    planes = np.random.default_rng(9).normal(0.5, 0.4, (3, height, width + extra))
    planes[..., width:] = np.nan
    return planes.astype(VALUES[value])


@pytest.mark.parametrize("scale", SCALES)
def test_the_twin_is_the_packages_interpolation(scale: int) -> None:
    for height, width in FRAME_SIZES_PX:
        planes = random_planes((height, width), "f32")
        expected = resized(planes, scale * height, scale * width)
        np.testing.assert_allclose(enlarged(planes, scale), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("scale", SCALES)
def test_enlarge_tiles(host: HostKernels, scale: int, value: str) -> None:
    """On multiples of everything, as engines have it, and anywhere."""
    aligned = np.array([(0, 0), (12, 24), (24, 12), (48, 60), (36, 0)], np.int32)
    for size_px, tile_size_px in itertools.product(FRAME_SIZES_PX, ((24, 36), (7, 5), (16, 20))):
        height, width = size_px
        planes = random_planes(size_px, value, extra=2 + width % 2)
        anywhere = some_origins((scale * height, scale * width), tile_size_px)
        origins = np.concatenate([aligned, anywhere])
        expected = enlarge_tiles(planes[..., :width], scale, origins, tile_size_px)
        for guard_bytes in (16, 16 + VALUES[value].itemsize):
            found = host.enlarge_tiles(planes, width, scale, origins, tile_size_px, guard_bytes)
            assert_near(found, expected, f"frame {size_px}, tile {tile_size_px}")


@pytest.mark.parametrize("scale", SCALES)
def test_planes_beyond_the_colours_are_left_alone(host: HostKernels, scale: int) -> None:
    planes, origins = random_planes((20, 30), "f16"), np.array([(0, 0), (12, 12)], np.int32)
    found = host.enlarge_tiles(planes, 30, scale, origins, (24, 36), tile_planes=4)
    assert_near(found[:, :3], enlarge_tiles(planes, scale, origins, (24, 36)), "colours")
    assert (found[:, 3].view(np.uint16) == 0xA5A5).all()


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("scale", SCALES)
def test_enlarge_alpha(host: HostKernels, scale: int, sample: str) -> None:
    random = np.random.default_rng(10)
    for height, width in FRAME_SIZES_PX:
        shapes = (height, width, 4), (scale * height, scale * width, 4)
        frame, target = (
            random_samples(random, int(np.prod(shape)), SAMPLES[sample]).reshape(shape)
            for shape in shapes
        )
        expected = enlarge_alpha(frame, target, scale)
        host.enlarge_alpha(frame, target, scale)
        assert_same(target[..., :3], expected[..., :3], "colours")
        difference = np.abs(target[..., 3].astype(np.float64) - expected[..., 3])
        assert difference.max() <= (1e-6 if sample == "f32" else 1)
        assert (difference > 0.5).mean() < 0.01, "ties alone may differ"
