"""Streams over several real GPUs, against one: plans of TensorRT, and checkpoints that PyTorch
runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from device_frames import assert_near, frame_of
from edge_networks import edge_network

import mirnet_edge as me
from mirnet_edge.build import build_engine
from mirnet_edge.engines.gpu_there import gpu_count

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
SIZE = (270, 480)
TILE = (96, 144)


@pytest.fixture(scope="module", params=["plan", "checkpoint"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `Restorer` is given, and its tile."""
    if (count := gpu_count()) < 2:
        pytest.skip(f"{count} GPUs; needs two")
    if request.param == "checkpoint":
        choice = pytest.importorskip("mirnet_edge.engines.compiled.torch_device")
        if reason := choice.why_no_cuda():
            pytest.skip(reason)
        return "edge-s-denoise", TILE
    pytest.importorskip("tensorrt", exc_type=ImportError)
    folder: Path = tmp_path_factory.mktemp("plans")
    onnx.save(edge_network(noise_level=True), folder / "net.onnx")
    engine = folder / "net.engine"
    quick: dict[str, Any] = {"tile": TILE, "optimization_level": 0, "statistics": True}
    build_engine(folder / "net.onnx", engine, precision="fp32", **quick)
    return engine, "auto"


def opened(model: Any, **options: Any) -> me.Restorer:
    path, tile = model
    return me.Restorer(path, tile=tile, halo=8, tuned=False, **options)


@pytest.mark.parametrize("noise", ["auto", 20.0])
def test_a_stream_is_what_one_gpu_makes_of_it(noise: Any, model: Any) -> None:
    # Fewer than those after which PyTorch compiles, which rounds otherwise.
    frames = [frame_of(*SIZE, seed=seed) for seed in range(40)]
    with opened(model, noise=noise) as restore:
        expected = list(restore.stream(frames))
    with opened(model, noise=noise, devices=[0, 1]) as restore:
        for found, wanted in zip(restore.stream(frames), expected, strict=True):
            assert_near(found, wanted, 4e-3)  # a step of 255, where algorithms differ
        assert min(work.frames for work in restore.devices) >= 5


def test_pooled_vectors_go_from_gpu_to_gpu(model: Any) -> None:
    still = [frame_of(*SIZE, dtype=np.float32)] * 40
    with opened(model, statistics="stream") as restore:
        *_, expected = restore.stream(still)
    with opened(model, statistics="stream", devices=[0, 1]) as restore:
        *_, found = restore.stream(still)
        assert_near(found, expected, 4e-3)


def test_threads_use_both(model: Any) -> None:
    frames = [frame_of(*SIZE, seed=seed) for seed in range(24)]
    with opened(model, devices="all", noise=20.0) as restore:
        expected = [restore(frame) for frame in frames]
        with ThreadPoolExecutor(2) as pool:
            for found, wanted in zip(pool.map(restore, frames), expected, strict=True):
                assert_near(found, wanted, 4e-3)
        assert sum(work.frames > 0 for work in restore.devices) >= 2


def test_an_engine_on_the_second_gpu_alone(model: Any) -> None:
    frame = frame_of(*SIZE)
    with opened(model, noise=20.0) as restore:
        expected = restore(frame)
    with opened(model, noise=20.0, devices=[1]) as restore:
        assert_near(restore(frame), expected, 4e-3)
        assert [work.index for work in restore.devices] == [1]
