"""Which noise level a frame is restored for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise_weights import brightness_estimator, level_at

import mirnet_edge as me
from mirnet_edge.frames.noise_level import (
    EVERY,
    MOST_CROPS,
    WEIGHT,
    Estimate,
    NoiseLevel,
    estimate_noise,
    level_of,
    sample_regions,
)

__all__ = ["brightness_estimator"]
STREAM = object()
about = partial(pytest.approx, rel=1e-4)  # sums of float32


@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_regions_are_spread_over_the_frame(height: int, width: int) -> None:
    regions = sample_regions(height, width)
    assert 1 <= len(regions) <= MOST_CROPS
    assert len({(rows.start, columns.start) for rows, columns in regions}) == len(regions)
    for spans, length in zip(zip(*regions), (height, width)):
        for span in spans:
            assert span.stop - span.start == 64
            assert span.start % 2 == 0
            assert 0 <= span.start <= max(length - 64, 0)
    if min(height, width) >= 256:
        assert len(regions) >= 12, "a large frame is sampled in few places"
    centres = np.array([(rows.start + 32, columns.start + 32) for rows, columns in regions])
    if min(height, width) >= 64:
        np.testing.assert_allclose(centres.mean(0), (height / 2, width / 2), atol=2)


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 5, 200), (3, 64, 64), (3, 300, 170)])
@pytest.mark.usefixtures("brightness_estimator")
def test_a_picture_of_any_size_is_estimated(shape: tuple[int, ...]) -> None:
    assert estimate_noise(np.full(shape, 0.75, np.float32)) == about(level_at(0.75))


@pytest.mark.usefixtures("brightness_estimator")
def test_a_small_picture_is_reflected() -> None:
    halves = np.repeat(np.float32([0, 1]), 16)  # 32 pixels, of which 64 repeat both alike
    planes = np.broadcast_to(halves, (3, 1, 32))
    mirrored = np.pad(halves, (0, 32), mode="reflect")
    assert estimate_noise(planes) == about(level_at(mirrored.mean()))


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8), (3, 0, 8), (1, 3, 8, 8)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(me.FrameError, match=r"need \(3, H, W\)"):
        estimate_noise(np.zeros(shape, np.float32))


@pytest.mark.parametrize("noise", [-1, -1e-9, float("nan"), float("inf"), 100.1, "10", None, True])
def test_what_is_no_level_is_refused(noise: Any) -> None:
    with pytest.raises(me.ConfigError, match=r"need \"auto\", or the level.*0 to 100"):
        NoiseLevel(noise)


@pytest.mark.parametrize("noise", [0, 12.5, np.float32(7), np.int64(100)])
def test_a_told_level_is_taken_as_it_is(noise: Any) -> None:
    level = NoiseLevel(noise)
    level.begin(STREAM)
    assert level.of(_unasked) == float(noise)


def _unasked() -> Estimate:
    raise AssertionError("the frame was sampled")


def crops(brightness: float) -> Callable[[], Estimate]:
    """Begins the estimate of a frame that is as bright everywhere."""
    found = level_of(np.full((2, 3, 64, 64), brightness, np.float32))
    return lambda: lambda: found


@pytest.mark.usefixtures("brightness_estimator")
def test_single_frames_are_estimated_anew() -> None:
    level = NoiseLevel("auto")
    for brightness in (0.5, 0.52, 0.9):
        level.begin(None)
        assert level.of(crops(brightness)) == about(level_at(brightness))


@pytest.mark.usefixtures("brightness_estimator")
def test_a_stream_is_estimated_now_and_then_and_follows_slowly() -> None:
    level, asked = NoiseLevel("auto"), []

    def estimate(number: int) -> Estimate:
        asked.append(number)
        return crops(0.5 if number < EVERY else 0.55)()

    found = []
    for number in range(2 * EVERY + 2):
        level.begin(STREAM)
        found.append(level.of(partial(estimate, number)))
    assert asked == [0, EVERY, 2 * EVERY]
    was, now = level_at(0.5), level_at(0.55)
    assert found[: EVERY + 1] == about([was] * (EVERY + 1)), "a frame waited for its estimate"
    first = was + WEIGHT * (now - was)
    assert found[EVERY + 1 : 2 * EVERY + 1] == about([first] * EVERY)
    assert found[-1] == about(first + WEIGHT * (now - first))


@pytest.mark.usefixtures("brightness_estimator")
def test_a_stream_follows_a_large_change_at_once() -> None:
    level, found = NoiseLevel("auto"), []
    for number in range(2 * EVERY):
        level.begin(STREAM)
        found.append(level.of(crops(0.5 if number < EVERY else 0.9)))
    expected = [level_at(0.5)] * (EVERY + 1) + [level_at(0.9)] * (EVERY - 1)
    assert found == about(expected)


@pytest.mark.usefixtures("brightness_estimator")
def test_an_estimate_of_the_scene_before_does_not_count() -> None:
    level, waited = NoiseLevel("auto"), []

    def old() -> Estimate:
        return lambda: waited.append(True) or 0.0  # type: ignore[func-returns-value]

    for number in range(EVERY + 1):
        level.begin(STREAM)
        level.of(old if number == EVERY else crops(0.5), "small")
    level.begin(STREAM)
    assert level.of(crops(0.55), "large") == about(level_at(0.55))
    assert not waited


@pytest.mark.usefixtures("brightness_estimator")
def test_auto_after_a_number_estimates_anew() -> None:
    level = NoiseLevel("auto")
    level.begin(STREAM)
    assert level.estimates
    level.of(crops(0.5))
    level.tell(20)
    assert not level.estimates
    assert level.of(_unasked) == 20
    level.tell("auto")
    assert level.of(crops(0.55)) == about(level_at(0.55))


@pytest.mark.parametrize("change", ["scene", "kind", "stream", "single"])
@pytest.mark.usefixtures("brightness_estimator")
def test_what_is_new_is_estimated_at_once(change: str) -> None:
    level = NoiseLevel("auto")
    level.begin(STREAM)
    kind, scene = ((8, 8), "uint8"), np.full(4, 0.3)
    assert level.of(crops(0.5), kind, lambda: scene) == about(level_at(0.5))
    level.begin(STREAM)
    assert level.of(_unasked, kind, lambda: scene + 0.05) == about(level_at(0.5))
    level.begin({"stream": object(), "single": None}.get(change, STREAM))
    kind = ((9, 8), "uint8") if change == "kind" else kind
    scene = scene + 0.2 if change == "scene" else scene
    assert level.of(crops(0.55), kind, lambda: scene) == about(level_at(0.55))


def _of_two(level: NoiseLevel, first: Callable[[], Estimate]) -> None:
    for begin in (first, crops(0.5)):
        level.of(begin)


@pytest.mark.usefixtures("brightness_estimator")
def test_a_frame_that_cannot_be_sampled_leaves_no_level() -> None:
    level = NoiseLevel("auto")

    def fails() -> Any:
        raise me.FrameError("the frame holds NaN")

    def fails_later() -> Estimate:
        return fails

    for failing in (fails, fails_later):
        for _ in range(EVERY):
            level.begin(STREAM)
            level.of(crops(0.5))
        level.begin(STREAM)
        with pytest.raises(me.FrameError):
            _of_two(level, failing)
        level.begin(STREAM)
        assert level.of(crops(0.55)) == about(level_at(0.55)), "an average with what was"
        level.tell("auto")


def test_which_networks_are_told() -> None:
    told, blind = me.ModelFacts(noise_level=True), me.ModelFacts(task="derain")
    assert NoiseLevel.for_network(blind, "auto") is None
    with pytest.raises(me.ConfigError, match=r"noise=10.*derain.*not told a noise level"):
        NoiseLevel.for_network(blind, 10)
    level = NoiseLevel.for_network(told, 10)
    assert level is not None
    assert level.of(_unasked) == 10
    six = me.ModelFacts(noise_level=True, in_channels=6)
    with pytest.raises(me.ConfigError, match=r"6 channels.*noise=10"):
        NoiseLevel.for_network(six, "auto")
    assert NoiseLevel.for_network(six, 10) is not None
