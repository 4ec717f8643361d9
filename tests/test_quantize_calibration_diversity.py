"""Descriptors tell pictures apart, and the choice among them is the farthest first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import alike, generator, scene

from mirnet_edge.quantize.calibration.diversity import describe, farthest_first


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 100))
def test_each_choice_is_the_farthest_from_those_before(rows: int, count: int, seed: int) -> None:
    points = generator(seed).normal(size=(rows, 3))
    chosen, distances = farthest_first(points, count, generator(seed))
    assert len(set(chosen)) == len(chosen) == min(rows, count)
    for step in range(1, len(chosen)):
        before = points[chosen[:step]]
        nearest = np.linalg.norm(points[:, None] - before, axis=2).min(1)
        assert nearest[chosen[step]] == pytest.approx(nearest.max())
        assert distances[step - 1] == pytest.approx(nearest.max())
    assert distances == sorted(distances, reverse=True)


def test_descriptors_tell_pictures_apart_and_not_their_noise() -> None:
    scenes = [describe(scene(i)) for i in range(8)]
    near = [np.linalg.norm(scenes[i] - describe(alike(scene(i), i))) for i in range(1, 7)]
    far = [np.linalg.norm(a - b) for i, a in enumerate(scenes) for b in scenes[:i]]
    assert max(near) < min(far) / 2
    texture = generator().integers(100, 156, (64, 64, 3), np.uint8)
    flat = np.full((64, 64, 3), 128, np.uint8)
    assert np.linalg.norm(describe(texture) - describe(flat)) > 0.1


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7, 3), (5, 1, 1), (2, 3, 6), (301, 999, 3)])
def test_frames_of_any_size_are_described(shape: tuple[int, int, int]) -> None:
    frame = generator().integers(0, 256, shape, np.uint8)
    assert describe(frame).shape == (16 * shape[2] + 16 + 16 * shape[2],)
    assert np.isfinite(describe(frame)).all()
