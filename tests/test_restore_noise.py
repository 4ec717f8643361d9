"""Networks that are told how noisy a frame is, through `Restorer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise_weights import brightness_estimator, level_at
from tiny_edge import tiny_denoiser

import mirnet_edge as me
from mirnet_edge.frames import noise_estimator
from mirnet_edge.frames.noise_level import EVERY

__all__ = ["brightness_estimator", "tiny_denoiser"]
FACTS = me.ModelFacts(noise_level=True, min_size_px=4)


def shows_level(tiles: np.ndarray) -> np.ndarray:
    """An engine that answers with the plane it was told, as the picture."""
    assert tiles.shape[1] == 4
    assert np.ptp(tiles[:, 3]) == 0, "the plane is not constant"
    return np.repeat(tiles[:, 3:], 3, axis=1)


def told(frame: np.ndarray, noise: Any = "auto", **options: Any) -> float:
    """The level that a network is told of a float32 frame, in units of 1/255."""
    with me.Restorer(me.FakeEngine(shows_level, FACTS), noise=noise, **options) as restore:
        restored = restore(frame)
        assert np.ptp(restored) == 0
        assert restore.timings.noise == pytest.approx(50 * float(restored.flat[0]), rel=1e-6)
        return float(restore.timings.noise)


@pytest.mark.parametrize("tile", [None, 32, (64, 32)])
@pytest.mark.parametrize("size", [(1, 1), (37, 53), (100, 90)])
def test_a_number_reaches_every_tile(tile: Any, size: tuple[int, int]) -> None:
    assert told(np.zeros((*size, 3), np.float32), 12.5, tile=tile, halo=4) == 12.5


@pytest.mark.parametrize("shape", [(1, 1), (37, 53, 1), (37, 53, 2), (90, 70, 3), (64, 64, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.usefixtures("brightness_estimator")
def test_auto_estimates_frames_of_every_kind(shape: tuple[int, ...], dtype: type) -> None:
    white = 1 if dtype is np.float32 else np.iinfo(dtype).max
    frame = np.full(shape, white * 0.6).astype(dtype)
    engine = me.FakeEngine(facts=FACTS)
    with me.Restorer(engine, tile=32, halo=4) as restore:
        np.testing.assert_array_equal(restore(frame), frame)
        assert restore.timings.noise == pytest.approx(level_at(0.6), rel=2e-2)


@pytest.mark.parametrize("name", ["bgr", "bgra", "nv12", "i420", "yuyv"])
@pytest.mark.usefixtures("brightness_estimator")
def test_auto_sees_the_colours_of_every_format(name: str) -> None:
    pixels = me.pixel_format(name, full_range=True)
    frame = np.full(pixels.shape_of(80, 100), 128, np.uint8)
    if name == "bgra":
        frame[..., 3] = 0
    with me.Restorer(me.FakeEngine(facts=FACTS), pixels=pixels) as restore:
        np.testing.assert_array_equal(restore(frame), frame)
        assert restore.timings.noise == pytest.approx(level_at(128 / 255), rel=1e-3)


@pytest.mark.usefixtures("brightness_estimator")
def test_a_gray_network_is_told_too() -> None:
    facts = me.ModelFacts(noise_level=True, in_channels=1, out_channels=1, min_size_px=4)
    engine = me.FakeEngine(lambda tiles: tiles[:, 1:], facts)
    with me.Restorer(engine) as restore:
        restored = restore(np.full((20, 20), 0.5, np.float32))
        assert 50 * restored[3, 4] == pytest.approx(level_at(0.5), rel=1e-3)


@pytest.mark.usefixtures("brightness_estimator")
def test_calls_are_estimated_each_and_a_stream_is_steady() -> None:
    frames = [np.full((70, 70, 3), 0.5 + 0.01 * (number % 2), np.float32) for number in range(12)]
    with me.Restorer(me.FakeEngine(shows_level, FACTS)) as restore:
        single = [float(restore(frame).flat[0]) for frame in frames]
        streamed = [float(image.flat[0]) for image in restore.stream(frames)]
        again = float(next(iter(restore.stream(frames[1:]))).flat[0])
    assert 50 * np.unique(single) == pytest.approx([level_at(0.5), level_at(0.51)], rel=1e-3)
    assert len(set(streamed[:EVERY])) == 1
    assert again == single[1], "another stream goes on with the level of the last"


@pytest.mark.usefixtures("brightness_estimator")
def test_a_scene_cut_of_a_stream_is_followed_at_once() -> None:
    frames = [np.full((70, 70, 3), value, np.float32) for value in (0.5, 0.5, 0.9, 0.9)]
    with me.Restorer(me.FakeEngine(shows_level, FACTS)) as restore:
        levels = [50 * float(image.flat[0]) for image in restore.stream(frames)]
    expected = [level_at(value) for value in (0.5, 0.5, 0.9, 0.9)]
    assert levels == pytest.approx(expected, rel=1e-3)


@pytest.mark.usefixtures("brightness_estimator")
def test_the_noise_of_an_enlarged_frame_is_that_of_the_given_one() -> None:
    """Checkered black and white: enlarged, its crops would be of other brightness."""
    facts = me.ModelFacts(noise_level=True, scale=2, min_size_px=4)
    frame = np.zeros((200, 40, 3), np.float32)
    frame[:, :20] = 1
    with me.Restorer(me.FakeEngine(facts=facts)) as restore:
        restore(frame)
        inside = np.pad(frame[:64], ((0, 0), (0, 24), (0, 0)), mode="reflect")
        assert restore.timings.noise == pytest.approx(level_at(inside.mean()), rel=1e-3)


@pytest.mark.parametrize("noise", [-1, float("nan"), 101, "12", "AUTO", None])
def test_a_level_that_cannot_be_is_an_error_of_its_own(noise: Any) -> None:
    with pytest.raises(me.ConfigError, match="noise="):
        me.Restorer(me.FakeEngine(facts=FACTS), noise=noise)
    with pytest.raises(me.ConfigError, match="noise="):
        me.Restorer(me.FakeEngine(), noise=noise)


def test_a_network_that_is_not_told_takes_no_number() -> None:
    with pytest.raises(me.ConfigError, match="not told a noise level; leave noise out"):
        me.Restorer(me.FakeEngine(), noise=10)
    with me.Restorer(me.FakeEngine(), noise="auto") as restore:
        restore(np.zeros((8, 8, 3), np.uint8))
        assert restore.timings.noise is None


@pytest.mark.usefixtures("brightness_estimator")
def test_the_level_may_be_changed_between_frames() -> None:
    frame = np.full((70, 70, 3), 0.5, np.float32)
    with me.Restorer(me.FakeEngine(shows_level, FACTS)) as restore:
        stream = iter(restore.stream([frame] * 40, queue=1))
        first = 50 * float(next(stream).flat[0])
        restore.noise = 20
        last = [50 * float(image.flat[0]) for image in stream][-1]
        assert (first, last) == pytest.approx((level_at(0.5), 20), rel=1e-3)
        with pytest.raises(me.ConfigError, match="noise=-1"):
            restore.noise = -1
        assert restore.noise == 20
        restore.noise = "auto"
        assert 50 * restore(frame).flat[0] == pytest.approx(level_at(0.5), rel=1e-3)
    with me.Restorer(me.FakeEngine()) as restore:
        restore.noise = "auto"
        with pytest.raises(me.ConfigError, match="not told a noise level"):
            restore.noise = 20


def test_without_the_estimators_weights_a_number_still_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise_estimator, "WEIGHTS", tmp_path / "weights.npz")
    with pytest.raises(me.CheckpointError, match=r"weights.npz: no such file.*noise=10"):
        me.Restorer(me.FakeEngine(facts=FACTS))
    assert told(np.zeros((8, 8, 3), np.float32), 20) == 20


@pytest.mark.parametrize("statistics", ["frame", "frame-fast", "stream"])
def test_frames_whose_tiles_share_their_means(statistics: Any, tiny_denoiser: Path) -> None:
    """The plane is in every pass: tiles agree with the whole frame that was told the same."""
    frame = np.random.default_rng(0).integers(0, 256, (96, 120, 3), np.uint8)
    with me.Restorer(tiny_denoiser, tile=None, noise=25) as restore:
        whole = restore(frame).astype(int)
    with me.Restorer(tiny_denoiser, tile=64, halo=24, noise=25, statistics=statistics) as restore:
        shared = restore(frame).astype(int)
        assert restore.timings.noise == 25
    with me.Restorer(tiny_denoiser, tile=None, noise=50) as restore:
        other = restore(frame).astype(int)
    assert np.abs(shared - whole).mean() < 0.2 * np.abs(other - whole).mean()
