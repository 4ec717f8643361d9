"""Frames through a TensorRT engine that is told how noisy they are, on a GPU in host memory:
against the portable engine on the same network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import fake_cuda
import numpy as np
import pytest
from device_frames import OnDevice, assert_near, frame_of
from edge_restorers import FORMATS, Both, Restorers, frame_in
from edge_restorers import both as both
from edge_restorers import restorers as restorers
from fake_gpu import FakeGpu

import mirnet_edge as me
from mirnet_edge.engines.card import EngineCard, card_path
from mirnet_edge.frames import noise_level
from mirnet_edge.frames.noise_level import EVERY
from mirnet_edge.pooling.passes import MODES, StatisticsSettings

NETWORK = {"noise_level": True}


class Contrast:
    """In place of the noise estimator: the standard deviation of each crop, and how often it was
    asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.crops: list[np.ndarray] = []

    def levels(self, crops: np.ndarray) -> np.ndarray:
        self.asked += 1
        self.crops.append(crops.copy())
        return np.asarray(255 * crops.std(axis=(1, 2, 3)))


@pytest.fixture
def contrast(monkeypatch: pytest.MonkeyPatch) -> Contrast:
    estimator = Contrast()
    monkeypatch.setattr(noise_level, "load_estimator", lambda _: estimator)
    return estimator


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_restored_as_on_the_host(name: str, both: Both) -> None:
    frame, pixels = frame_in(name, 70, 130)
    results = []
    for noise in (5, 45):
        device, host = both(2, network=NETWORK, noise=noise, pixels=pixels, halo=8, blend=4)
        with device as restore, host as expected:
            assert type(restore._path).__name__ == "DevicePath"
            results.append(restore(frame))
            assert_near(results[-1], expected(frame))
            assert restore.timings.noise == expected.timings.noise == noise
            assert restore.timings.tiles > 1
    assert (results[0] != results[1]).mean() > 0.3


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_other_samples(dtype: Any, both: Both) -> None:
    frame = frame_of(61, 117, dtype=dtype)
    device, host = both(network=NETWORK, noise=12.5, halo=8)
    with device as restore, host as expected:
        assert_near(restore(frame), expected(frame), 1e-4)


@pytest.mark.parametrize(
    ("size", "batch", "image"),
    [((1, 1), 1, "FLOAT"), ((48, 96), 3, "HALF"), ((97, 201), 4, "HALF")],
)
def test_every_size_batch_and_type(
    size: tuple[int, int], batch: int, image: str, both: Both
) -> None:
    device, host = both(batch, image, network=NETWORK, noise=30, halo=8)
    frame = frame_of(*size)
    with device as restore, host as expected:
        assert_near(restore(frame), expected(frame), 5e-3)


@pytest.mark.parametrize("mode", MODES)
def test_statistics_of_the_frame(mode: Any, both: Both) -> None:
    settings = StatisticsSettings(mode, samples=4, settling=1, share=0.3)
    device, host = both(3, network=NETWORK, noise=30, halo=8, statistics=settings)
    with device as restore, host as expected:
        for seed in (0, 0, 1):
            frame = frame_of(150, 290, dtype=np.float32, seed=seed)
            assert_near(restore(frame), expected(frame), 1e-4)
            timings, wanted = restore.timings, expected.timings
            assert (timings.passes, timings.samples) == (wanted.passes, wanted.samples)


@pytest.mark.parametrize("name", FORMATS)
def test_a_level_is_estimated_as_on_the_host(name: str, both: Both, contrast: Contrast) -> None:
    device, host = both(network=NETWORK, pixels=frame_in(name, 2, 2)[1], halo=8)
    with device as restore, host as expected:
        for height, width in ((150, 290), (30, 90)):
            frame, _ = frame_in(name, height, width)
            assert_near(restore(frame), expected(frame))
            levels = restore.timings.noise, expected.timings.noise
            assert levels[0] == pytest.approx(levels[1], abs=1e-3)
            assert levels[0] > 5
            on_device, on_host = contrast.crops[-2:]
            np.testing.assert_allclose(on_device, on_host, atol=2e-6)
            assert_near(restore(OnDevice(frame)).copy_to_host(), expected(frame))
            assert restore.timings.noise == pytest.approx(levels[1], abs=1e-3)


def test_a_level_of_a_frame_that_is_not_finite(restorers: Restorers, contrast: Contrast) -> None:
    frame = frame_of(70, 130, dtype=np.float32)
    frame[30:40, 60:70] = np.nan
    frame[50:, 100:] = np.inf
    with me.Restorer(restorers.plan(**NETWORK), halo=8) as restore:
        restore(OnDevice(frame)).copy_to_host()
        assert 0 < restore.timings.noise < 255


@pytest.fixture
def in_turn(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Levels of the frames to come."""
    levels: list[float] = []
    monkeypatch.setattr(noise_level.NoiseLevel, "of", lambda *_, **__: levels.pop(0))
    return levels


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_frames_in_flight_have_levels_of_their_own(
    batch: int,
    graphs: bool,
    restorers: Restorers,
    contrast: Contrast,
    in_turn: list[float],
    gpu: FakeGpu,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not graphs:
        fake_cuda.without_graphs(monkeypatch)
    frames = [frame_of(70, 130, seed=seed) for seed in range(6)]
    levels = [5.0, 50.0, 20.0, 90.0, 0.0, 50.0]
    path = restorers.plan(batch, **NETWORK)
    with me.Restorer(path, halo=8) as restore:
        expected = []
        for frame, level in zip(frames, levels):
            in_turn.append(level)
            expected.append(restore(frame))
    with me.Restorer(path, halo=8, frame_size=(70, 130)) as restore:
        in_turn += levels
        made = dict(gpu.made)
        for found, wanted in zip(restore.stream(frames), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        assert gpu.made == made, "the graphs serve every level"
    assert (expected[1] != expected[5]).any()


@pytest.mark.parametrize("integrated", [False, True])
def test_two_restorers_and_a_run_of_their_engine_in_between(
    integrated: bool, restorers: Restorers, gpu: FakeGpu
) -> None:
    gpu.integrated = integrated
    frame = frame_of(70, 130)
    with me.TensorRTEngine(restorers.plan(**NETWORK)) as engine:
        one, other = (me.Restorer(engine, noise=noise, halo=8) for noise in (5, 60))
        with one, other:
            first, second = one(frame), other(frame)
            assert (first != second).any()
            for restore, expected in ((one, first), (other, second)):
                engine.run(np.zeros((1, 4, 48, 96), np.float32))
                np.testing.assert_array_equal(restore(frame), expected)


@pytest.mark.parametrize("put", [np.asarray, OnDevice])
def test_a_stream_is_estimated_now_and_then(
    put: Callable[..., Any], restorers: Restorers, contrast: Contrast
) -> None:
    still, other = frame_of(70, 130), frame_of(70, 130, seed=1) // 2
    with me.Restorer(restorers.plan(**NETWORK), halo=8) as restore:
        for _ in restore.stream([put(still)] * (EVERY + 3)):
            pass
        assert contrast.asked == 2
        level = restore.timings.noise
        for _ in restore.stream([put(still), put(still), put(other)]):
            pass
        assert contrast.asked == 4, "another stream, and another scene"
        assert restore.timings.noise != pytest.approx(level, rel=0.1)


def test_a_plan_of_other_planes_than_its_card_says(restorers: Restorers) -> None:
    path = restorers.plan(**NETWORK)
    card = EngineCard.load(card_path(path))
    facts = dataclasses.replace(card.facts, noise_level=False)
    dataclasses.replace(card, facts=facts).save(card_path(path))
    with pytest.raises(me.EngineError, match="tiles of 4 planes, but its card says 3"):
        me.Restorer(path, halo=8)


def test_all_is_there_before_the_first_frame(
    restorers: Restorers, contrast: Contrast, gpu: FakeGpu
) -> None:
    frame, _ = frame_in("nv12", 70, 130)
    with me.Restorer(
        restorers.plan(**NETWORK), halo=8, pixels="nv12", frame_size=(70, 130)
    ) as restore:
        made, used = dict(gpu.made), gpu.used_bytes()
        restore(frame)
        restore(frame)
        assert (gpu.made, gpu.used_bytes()) == (made, used)
        assert restore.latency().pre.p50 > 0
