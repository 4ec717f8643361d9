"""What one frame of a stream leaves for the next, over several GPUs in host memory: pooled vectors
and noise levels are those of one device; and checkpoints that PyTorch runs on each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_torch
import numpy as np
import pytest
import torch
from conftest import TINY
from device_frames import assert_near, frame_of
from edge_networks import edge_network
from fake_tensorrt import write_plans
from several_gpus import Gpus
from several_gpus import gpus as gpus

import mirnet_edge as me
from mirnet_edge import engine_choice
from mirnet_edge.cuda import open_device
from mirnet_edge.device.noise_samples import NoiseSamples
from mirnet_edge.engines.compiled import choice
from mirnet_edge.engines.shared import Continuity
from mirnet_edge.frames.noise_level import NoiseLevel
from mirnet_edge.pooling.passes import StatisticsSettings
from mirnet_edge.stream.frame_stream import FrameStream
from mirnet_edge.stream.parallel import ParallelPath

TILE = (48, 96)
SIZE = (70, 130)


@pytest.fixture
def plan(gpus: Gpus, tmp_path: Path) -> Path:
    """Of a network with a mean over the frame."""
    return write_plans(tmp_path, edge_network(), TILE)


def film(count: int, cut: int) -> list[np.ndarray]:
    """Brighter from frame to frame; from ``cut`` on of another scene."""
    dark = frame_of(*SIZE, dtype=np.float32) * np.float32(0.4)
    frames = [dark + np.float32(0.004 * index) for index in range(count)]
    return [frame if index < cut else 1 - frame for index, frame in enumerate(frames)]


def of_one_device(restore: me.Restorer, frames: Any, lag: int) -> list[np.ndarray]:
    """A stream on the first device alone, whose vectors are as old as those of several."""
    lane = restore._lanes[0]
    assert restore.statistics is not None
    continuity = Continuity(restore.statistics.of_stream(lag))
    path = ParallelPath([restore._streamed(lane, continuity)], in_turn=True, lag=lag)
    return list(FrameStream(path, frames))


@pytest.mark.parametrize("count", [2, 3])
def test_pooled_vectors_of_a_stream_go_from_device_to_device(count: int, plan: Path) -> None:
    """Those of the frame that was begun last before the frames in flight, over a new scene too."""
    settings = StatisticsSettings("stream", samples=2, settling=4, share=0.5)
    options: dict[str, Any] = {"halo": 4, "statistics": settings}
    frames = film(26, cut=14)
    with me.Restorer(plan, devices=[0], **options) as restore:
        expected = of_one_device(restore, frames, lag=2 * count)
        soon = list(restore.stream(frames))
    with me.Restorer(plan, devices=list(range(count)), **options) as restore:
        for _ in range(2):  # equal streams have equal results
            found = list(restore.stream(frames))
            np.testing.assert_array_equal(found, expected)
    # The vectors are another age; not the picture.
    assert not np.array_equal(found, soon)
    for late, early in zip(found, soon, strict=True):
        assert_near(late, early, 1e-2)


def test_the_frames_own_statistics_are_exact_on_each(plan: Path) -> None:
    options: dict[str, Any] = {"halo": 4, "statistics": "frame"}
    frames = film(8, cut=5)
    with me.Restorer(plan, **options) as restore:
        expected = [restore(frame) for frame in frames]
    with me.Restorer(plan, devices="all", **options) as restore:
        for found, wanted in zip(restore.stream(frames), expected, strict=True):
            assert_near(found, wanted, 1e-3)


def test_a_frame_that_pools_nan_is_told_by_its_number(plan: Path, gpus: Gpus) -> None:
    frames = film(12, cut=20)
    with me.Restorer(plan, devices="all", halo=4, statistics="stream") as restore:
        there = []
        for index, frame in enumerate(frames):
            there.append(frame)
            if index == 6:
                there[-1] = np.full_like(frame, 3e38)
        with pytest.raises(me.MirnetEdgeError, match=r"^frame 6: "):
            list(restore.stream(there))


def test_noise_levels_of_a_stream_are_those_of_one_device(gpus: Gpus, tmp_path: Path) -> None:
    plan = write_plans(tmp_path, edge_network(noise_level=True), TILE)
    random = np.random.default_rng(0)
    frames = [
        (frame_of(*SIZE, dtype=np.float32) * 0.3 + random.normal(0.3, level, (*SIZE, 3)))
        .clip(0, 1)
        .astype(np.float32)
        for level in np.linspace(0.02, 0.2, 12)
    ]
    with me.Restorer(plan, halo=4, devices=[1]) as restore:
        expected = list(restore.stream(frames))
    with me.Restorer(plan, halo=4, devices="all") as restore:
        np.testing.assert_array_equal(list(restore.stream(frames)), expected)
        stream = restore.stream(frames)
        restore.noise = 30  # from the next frame on, in a stream that there is
        assert {restore.timings.noise for _ in stream} == {30.0}
        with pytest.raises(me.ConfigError, match="noise=500"):
            restore.noise = 500
        assert restore.noise == 30


def test_an_estimate_outlives_the_next_one_of_its_device(gpus: Gpus, tmp_path: Path) -> None:
    """Two streams, and single frames, begin estimates on one device in any order."""
    plan = write_plans(tmp_path, edge_network(noise_level=True), TILE)
    clean = np.full((*SIZE, 3), 0.5, np.float32)
    noisy = clean + np.random.default_rng(1).normal(0, 0.1, clean.shape).astype(np.float32)
    with me.Restorer(plan, halo=4) as restore:
        levels = []
        for frame in (clean, noisy):
            restore(frame)
            levels.append(restore.timings.noise)
        path = restore._lanes[0].path
        samples: NoiseSamples = path._noise_samples  # type: ignore[union-attr]
        begun = []
        begin = samples.begin

        def noted(frame: Any) -> Any:
            begun.append(begin(frame))
            return begun[-1]

        samples.begin = noted  # type: ignore[method-assign]
        for frame in (clean, noisy):
            path.submit(frame, continuity=Continuity(noise=NoiseLevel()))  # type: ignore[union-attr]
        assert [wait() for wait in begun] == levels
        assert levels[0] != levels[1]


def test_checkpoints_run_on_each_device(
    gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (engine_choice, choice):
        monkeypatch.setattr(module, "torch_may_use_gpu", lambda: True)
    monkeypatch.setattr(choice, "why_no_cuda", str)
    monkeypatch.setattr(torch, "compile", lambda form, **_: form)
    made = fake_torch.install(monkeypatch, gpus[0])
    path = tmp_path / "tiny.safetensors"
    me.save_model(me.create_model(TINY["edge-x4"], seed=0), path)
    frames = [frame_of(20, 30, seed=seed) for seed in range(8)]
    options: dict[str, Any] = {"tile": (32, 32), "halo": 4}
    with me.Restorer(path, **options) as restore:
        expected = list(restore.stream(frames))
    with me.Restorer(path, devices=[0, 2], **options) as restore:
        assert [type(engine).__name__ for engine in restore.engines] == ["CompiledEngine"] * 2
        np.testing.assert_array_equal(list(restore.stream(frames)), expected)
    assert [fake._device.facts.index for fake in made] == [0, 0, 2]
    # A tile that memory chooses is that of the device with the least.
    gpus[2].total_bytes = 1 << 24
    with me.Restorer(path, devices=[0, 2], halo=4) as restore:
        alone = me.Restorer(path, devices=[2], halo=4)
        with alone:
            assert restore.tiling(4000, 4000).tile == alone.tiling(4000, 4000).tile
    with me.Restorer(path, devices=[0], halo=4) as restore:
        assert restore.tiling(4000, 4000).tile != alone.tiling(4000, 4000).tile
    with me.CompiledEngine(path, device=1) as engine:
        assert engine.device is open_device(1)
