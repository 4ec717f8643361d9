"""Frames through a TensorRT engine of super-resolution, on a GPU in host memory: against the
portable engine on the same network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device_frames import OnDevice, assert_near, frame_of
from edge_restorers import FORMATS, Both, Restorers, frame_in
from edge_restorers import both as both
from edge_restorers import restorers as restorers
from fake_gpu import FakeGpu

import mirnet_edge as me
from mirnet_edge.frames.enlarged import enlarged_alpha
from mirnet_edge.pooling.passes import MODES, StatisticsSettings

SCALES = (2, 3, 4)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("scale", SCALES)
def test_every_format_is_enlarged_as_on_the_host(scale: int, name: str, both: Both) -> None:
    frame, pixels = frame_in(name, 38, 70)
    device, host = both(2, network={"scale": scale}, pixels=pixels, halo=8, blend=4)
    with device as restore, host as expected:
        assert type(restore._lanes[0].path).__name__ == "DevicePath"
        found = restore(frame)
        assert found.shape == (scale * frame.shape[0], scale * frame.shape[1], *frame.shape[2:])
        assert_near(found, expected(frame))
        assert restore.timings.tiles == expected.timings.tiles > 1
        there = restore(OnDevice(frame))
        assert there.shape == found.shape
        np.testing.assert_array_equal(there.copy_to_host(), found)


@pytest.mark.parametrize("channels", range(5))
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_other_samples_and_alpha(dtype: Any, channels: int, both: Both) -> None:
    frame = frame_of(29, 53, channels, dtype)
    device, host = both(network={"scale": 3}, halo=8)
    with device as restore, host as expected:
        found = restore(frame)
        assert_near(found, expected(frame), 1e-4)
        if channels in (2, 4):
            alpha = enlarged_alpha(frame, 3).astype(dtype)
            assert_near(found[..., -1], alpha, 1e-6)
            assert (alpha != 0).any()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("size", "batch", "image"),
    [((1, 1), 1, "FLOAT"), ((2, 90), 3, "HALF"), ((24, 48), 1, "FLOAT"), ((45, 33), 4, "HALF")],
)
def test_every_size_batch_and_type(
    size: tuple[int, int], batch: int, image: str, scale: int, both: Both
) -> None:
    device, host = both(batch, image, network={"scale": scale}, halo=8)
    frame = frame_of(*size)
    with device as restore, host as expected:
        for _ in range(2):
            assert_near(restore(frame), expected(frame), 5e-3)


@pytest.mark.parametrize("mode", MODES)
def test_statistics_of_the_frame_and_a_noise_level(mode: Any, both: Both) -> None:
    settings = StatisticsSettings(mode, samples=4, settling=1, share=0.3)
    network = {"scale": 2, "noise_level": True}
    device, host = both(3, network=network, noise=20, halo=8, statistics=settings)
    with device as restore, host as expected:
        for seed in (0, 0, 1):
            frame = frame_of(70, 150, dtype=np.float32, seed=seed)
            assert_near(restore(frame), expected(frame), 1e-4)
            timings, wanted = restore.timings, expected.timings
            assert (timings.passes, timings.samples) == (wanted.passes, wanted.samples)
        assert timings.noise == 20


def test_outputs_that_are_given(restorers: Restorers) -> None:
    frame = frame_of(38, 70, 4)
    with me.Restorer(restorers.plan(scale=2), halo=8) as restore:
        expected = restore(frame)
        out = np.empty_like(expected)
        assert restore(frame, out=out) is out
        np.testing.assert_array_equal(out, expected)
        there = OnDevice(np.zeros_like(expected))
        assert restore(OnDevice(frame), out=there) is there
        np.testing.assert_array_equal(there.get(), expected)
        for wrong in (np.empty_like(frame), OnDevice(np.zeros_like(frame))):
            with pytest.raises(me.FrameError, match=r"out is uint8 .*need .*\(76, 140, 4\)"):
                restore(frame, out=wrong)


@pytest.mark.parametrize("integrated", [False, True])
def test_frames_in_flight(integrated: bool, restorers: Restorers, gpu: FakeGpu) -> None:
    gpu.integrated = integrated
    frames = [frame_of(38, 70, 4, seed=seed) for seed in range(5)]
    path = restorers.plan(2, scale=2)
    with me.Restorer(path, halo=8) as restore:
        expected = [restore(frame) for frame in frames]
    with me.Restorer(path, halo=8) as restore:
        for found, wanted in zip(restore.stream(frames), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("pixels", ["auto", "rgba", "nv12"])
def test_all_is_there_before_the_first_frame(
    pixels: str, restorers: Restorers, gpu: FakeGpu
) -> None:
    frame, _ = frame_in("rgb" if pixels == "auto" else pixels, 38, 70)
    path = restorers.plan(scale=2)
    with me.Restorer(path, halo=8, pixels=pixels) as restore:
        expected = restore(frame)
    with me.Restorer(path, halo=8, pixels=pixels, frame_size=(38, 70)) as restore:
        out = np.empty_like(expected)
        made, used, graphs = dict(gpu.made), gpu.used_bytes(), gpu.live["graph"]
        np.testing.assert_array_equal(restore(frame, out=out), expected)
        list(restore.stream([frame] * 3))
        assert (gpu.made, gpu.used_bytes(), gpu.live["graph"]) == (made, used, graphs)
        latency = restore.latency()
        assert min(latency.pre.p50, latency.engine.p50, latency.post.p50) > 0


def test_memory_of_enlarged_frames_is_counted(restorers: Restorers, gpu: FakeGpu) -> None:
    path, size = restorers.plan(scale=4), (38, 70)
    with me.Restorer(path, halo=8) as restore:
        held, before = restore.engine.device_bytes.total, gpu.used_bytes()
    with me.Restorer(path, halo=8, frame_size=size) as restore:
        # At least what is counted: memory is taken in no other place once a frame is due.
        taken = held + gpu.used_bytes() - before
    with me.Restorer(path, halo=8, frame_size=size, memory_limit=taken):
        pass
    frames = 2 * (38 * 70 * 3) * (1 + 4 * 4)
    planes = 3 * 38 * 72 * 4
    with pytest.raises(me.DeviceMemoryError, match=f"frames of 38x70 .*frames {frames:,}"):
        me.Restorer(path, halo=8, frame_size=size, memory_limit=held + frames + planes)
