"""Frames through a TensorRT engine that is told how noisy they are, on a GPU in host memory:
against the portable engine on the same network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fake_cuda
import numpy as np
import pytest
from device_frames import OnDevice, assert_near, frame_of
from edge_restorers import FORMATS, Both, Restorers, frame_in
from edge_restorers import both as both
from edge_restorers import restorers as restorers
from fake_gpu import FakeGpu
from noise_weights import brightness_estimator as brightness_estimator
from noise_weights import random_estimator as random_estimator

import mirnet_edge as me
from mirnet_edge.device.layouts import DeviceFrame
from mirnet_edge.device.noise_samples import NoiseSamples
from mirnet_edge.engines.card import EngineCard, card_path
from mirnet_edge.frames import noise_estimator
from mirnet_edge.frames.noise_level import EVERY, Estimate, NoiseLevel
from mirnet_edge.pooling.passes import MODES, StatisticsSettings

NETWORK = {"noise_level": True}
about = partial(pytest.approx, rel=1e-3)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[DeviceFrame]:
    """The frames of which an estimate was begun on the device."""
    frames: list[DeviceFrame] = []
    begin = NoiseSamples.begin

    def noted(self: NoiseSamples, frame: DeviceFrame) -> Estimate:
        frames.append(frame)
        return begin(self, frame)

    monkeypatch.setattr(NoiseSamples, "begin", noted)
    return frames


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_restored_as_on_the_host(name: str, both: Both) -> None:
    frame, pixels = frame_in(name, 70, 130)
    results = []
    for noise in (5, 45):
        device, host = both(2, network=NETWORK, noise=noise, pixels=pixels, halo=8, blend=4)
        with device as restore, host as expected:
            assert type(restore._lanes[0].path).__name__ == "DevicePath"
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
@pytest.mark.usefixtures("random_estimator")
def test_a_level_is_estimated_as_on_the_host(
    name: str, both: Both, begun: list[DeviceFrame]
) -> None:
    device, host = both(network=NETWORK, pixels=frame_in(name, 2, 2)[1], halo=8)
    with device as restore, host as expected:
        for height, width in ((80, 140), (30, 90)):
            frame, _ = frame_in(name, height, width)
            assert_near(restore(frame), expected(frame))
            level = expected.timings.noise
            assert restore.timings.noise == about(level)
            assert 1 < level < 60
            assert_near(restore(OnDevice(frame)).copy_to_host(), expected(frame))
            assert restore.timings.noise == about(level)
    assert len(begun) == 4


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("channels", [0, 2, 4])
@pytest.mark.usefixtures("random_estimator")
def test_levels_of_other_samples(dtype: Any, channels: int, both: Both) -> None:
    frame = frame_of(70, 130, channels, dtype=dtype)
    device, host = both(network=NETWORK, halo=8)
    with device as restore, host as expected:
        expected(frame)
        restore(frame)
        assert restore.timings.noise == about(expected.timings.noise)


@pytest.mark.usefixtures("random_estimator")
def test_a_level_of_a_frame_that_is_not_finite(both: Both) -> None:
    frame = frame_of(70, 130, dtype=np.float32)
    frame[30:40, 60:70], frame[50:, 100:] = np.nan, np.inf
    frame[:9, :9], frame[60:, :40] = -np.inf, -1e30
    device, host = both(network=NETWORK, halo=8)
    with device as restore, host as expected:
        restore(OnDevice(frame)).copy_to_host()
        expected(np.nan_to_num(frame, posinf=1.0, neginf=0.0).clip(0, 1))
        assert restore.timings.noise == about(expected.timings.noise)


@pytest.fixture
def in_turn(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Levels of the frames to come."""
    levels: list[float] = []
    monkeypatch.setattr(NoiseLevel, "of", lambda *_, **__: levels.pop(0))
    return levels


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_frames_in_flight_have_levels_of_their_own(
    batch: int,
    graphs: bool,
    restorers: Restorers,
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
@pytest.mark.usefixtures("brightness_estimator")
def test_a_stream_is_estimated_now_and_then(
    put: Callable[..., Any], restorers: Restorers, begun: list[DeviceFrame]
) -> None:
    still, other = frame_of(70, 130), frame_of(70, 130, seed=1) // 2
    with me.Restorer(restorers.plan(**NETWORK), halo=8) as restore:
        for _ in restore.stream([put(still)] * (EVERY + 3)):
            pass
        assert len(begun) == 2
        level = restore.timings.noise
        for _ in restore.stream([put(still), put(still), put(other)]):
            pass
        assert len(begun) == 4, "another stream, and another scene"
        assert restore.timings.noise != pytest.approx(level, rel=0.1)


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.usefixtures("brightness_estimator")
def test_a_stream_has_the_levels_of_the_host_in_every_run(
    integrated: bool, both: Both, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that get brighter slowly, then a scene cut, then another size."""
    settled: list[float] = []
    settle = NoiseLevel.of

    def noted(self: NoiseLevel, *arguments: Any, **named: Any) -> float:
        settled.append(settle(self, *arguments, **named))
        return settled[-1]

    monkeypatch.setattr(NoiseLevel, "of", noted)
    gpu.integrated = integrated
    bright = [*range(100, 100 + 3 * EVERY), 220, 220, 220]
    frames = [np.full((66, 66, 3), value, np.uint8) for value in bright]
    frames += [np.full((30, 50, 3), 90, np.uint8)] * 2
    device, host = both(network=NETWORK, halo=8)

    def levels(restore: me.Restorer, put: Callable[..., Any]) -> list[float]:
        settled.clear()
        assert len(list(restore.stream(map(put, frames)))) == len(frames)
        return settled.copy()

    with device as restore, host as expected:
        found, wanted = levels(restore, np.asarray), levels(expected, np.asarray)
        assert found == about(wanted)
        assert len(set(wanted)) == 5, wanted
        assert levels(restore, np.asarray) == found
        assert levels(restore, OnDevice) == found


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.usefixtures("random_estimator")
def test_an_estimate_that_nobody_waits_for_is_of_its_frame(
    integrated: bool, restorers: Restorers, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames after it lie where it lay."""
    gpu.integrated = integrated
    found: list[float] = []
    follow = NoiseLevel._follow

    def noted(self: NoiseLevel, level: float) -> None:
        found.append(level)
        follow(self, level)

    monkeypatch.setattr(NoiseLevel, "_follow", noted)
    frames = [frame_of(70, 130, seed=seed) for seed in range(EVERY + 4)]
    with me.Restorer(restorers.plan(**NETWORK), halo=8) as restore:
        for _ in restore.stream(frames):
            pass
        restore(frames[EVERY])
        assert found == [restore.timings.noise]


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.usefixtures("brightness_estimator")
def test_closing_frees_all_with_an_estimate_on_its_way(
    graphs: bool, restorers: Restorers, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not graphs:
        fake_cuda.without_graphs(monkeypatch)
    restore = me.Restorer(restorers.plan(**NETWORK), halo=8)
    for _ in restore.stream([frame_of(70, 130)] * (EVERY + 1)):
        pass
    restore.close()
    assert not any(gpu.live.values()), gpu.live
    assert not gpu.stray


@pytest.mark.usefixtures("brightness_estimator")
def test_its_memory_is_counted(restorers: Restorers, gpu: FakeGpu) -> None:
    frame = frame_of(70, 130)
    with me.Restorer(restorers.plan(**NETWORK), halo=8, noise=10) as restore:
        restore(frame)
        before, samples = gpu.used_bytes(), restore._lanes[0].path._noise_samples
        restore.noise = "auto"
        restore(frame)
        origins = samples._origins.size_bytes
        # On a GPU of its own, what is read back lies on both sides.
        assert gpu.used_bytes() - before == samples.size_bytes - origins


def test_a_level_that_is_told_needs_no_weights(
    restorers: Restorers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise_estimator, "WEIGHTS", tmp_path / "missing.npz")
    path, frame = restorers.plan(**NETWORK), frame_of(70, 130)
    with me.Restorer(path, halo=8, noise=10, frame_size=(70, 130)) as restore:
        restore(frame)
        with pytest.raises(me.CheckpointError, match="no such file"):
            restore.noise = "auto"
        assert restore.timings.noise == 10


def test_a_plan_of_other_planes_than_its_card_says(restorers: Restorers) -> None:
    path = restorers.plan(**NETWORK)
    card = EngineCard.load(card_path(path))
    facts = dataclasses.replace(card.facts, noise_level=False)
    dataclasses.replace(card, facts=facts).save(card_path(path))
    with pytest.raises(me.EngineError, match="tiles of 4 planes, but its card says 3"):
        me.Restorer(path, halo=8)


@pytest.mark.usefixtures("brightness_estimator")
def test_all_is_there_before_the_first_frame(restorers: Restorers, gpu: FakeGpu) -> None:
    frame, _ = frame_in("nv12", 70, 130)
    with me.Restorer(
        restorers.plan(**NETWORK), halo=8, pixels="nv12", frame_size=(70, 130)
    ) as restore:
        made, used = dict(gpu.made), gpu.used_bytes()
        restore(frame)
        restore(frame)
        assert (gpu.made, gpu.used_bytes()) == (made, used)
        assert restore.latency().pre.p50 > 0
