"""Activation memory that several engines share, on a TensorRT and a GPU in host memory."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType

import fake_tensorrt
import numpy as np
import pytest
from fake_gpu import FakeGpu
from fake_gpu import MemoryError as CudaMemoryError
from fake_tensorrt import LAYERS, random_tiles, write_plan

from mirnet_edge.cuda import Stream, open_device
from mirnet_edge.engines.card import card_path
from mirnet_edge.errors import DeviceError, EngineError
from mirnet_edge.trt.activations import ActivationMemory
from mirnet_edge.trt.engine import TensorRTEngine

VERSIONS = ["8.6.1", "10.3.0", "10.16.1", "11.4.0"]


def write_pair(folder: Path, version: str = "10.3.0") -> tuple[Path, Path]:
    """Two engines of 4,096 and 12,288 bytes of activations."""
    return (
        write_plan(folder, name="small.engine", version=version),
        write_plan(
            folder,
            {"activation_bytes": 12288},
            "large.engine",
            version=version,
            activation_bytes=12288,
        ),
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_engines_share_memory_and_stream(
    version: str, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = fake_tensorrt.install(monkeypatch, gpu, version)
    paths = write_pair(tmp_path, version)
    with ActivationMemory.for_engines(*paths) as memory:
        assert memory.size_bytes == 12288
        assert not trt.strategies, "nothing is loaded to read the sizes"
        with (
            TensorRTEngine(paths[0], activations=memory) as small,
            TensorRTEngine(paths[1], activations=memory) as large,
        ):
            assert trt.strategies == ["USER_MANAGED"] * 2
            assert small.stream is large.stream is memory.stream
            assert (small.activation_bytes, large.activation_bytes) == (4096, 12288)
            assert gpu.live["stream"] == 1
            for seed in range(3):
                for engine in (small, large):
                    tiles = random_tiles(1, seed)
                    np.testing.assert_array_equal(engine.run(tiles), tiles / 2)
            assert small.layer_times(1) == LAYERS
        assert gpu.live["memory"] == gpu.live["stream"] == 1, "the engines do not own it"
    assert set(gpu.live.values()) == {0}


def test_threads_take_turns(trt: ModuleType, tmp_path: Path) -> None:
    failures = []
    paths = write_pair(tmp_path)

    def work(engine: TensorRTEngine, seed: int) -> None:
        tiles = random_tiles(1, seed)
        for _ in range(20):
            if not np.array_equal(engine.run(tiles), tiles / 2):
                failures.append(seed)

    with (
        ActivationMemory.for_engines(*paths) as memory,
        TensorRTEngine(paths[0], activations=memory) as small,
        TensorRTEngine(paths[1], activations=memory) as large,
    ):
        threads = [
            threading.Thread(target=work, args=(engine, seed))
            for seed, engine in enumerate((small, large, small, large))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_too_small(trt: ModuleType, gpu: FakeGpu, tmp_path: Path) -> None:
    small, large = write_pair(tmp_path)
    with ActivationMemory.for_engines(small) as memory:
        said = r"large\.engine needs 12,288 bytes.*shares has 4,096; .*for_engines"
        with pytest.raises(DeviceError, match=said):
            TensorRTEngine(large, activations=memory)
        with TensorRTEngine(small, activations=memory) as engine:
            engine.run(random_tiles(1))
    assert set(gpu.live.values()) == {0}


def test_closed_memory_is_refused(trt: ModuleType, tmp_path: Path) -> None:
    path, _ = write_pair(tmp_path)
    memory = ActivationMemory.for_engines(path)
    memory.close()
    with pytest.raises(DeviceError, match="closed"):
        TensorRTEngine(path, activations=memory)


def test_closing_waits_for_what_is_queued(trt: ModuleType, gpu: FakeGpu, tmp_path: Path) -> None:
    memory = ActivationMemory.for_engines(*write_pair(tmp_path))
    seen: list[int] = []
    gpu.queue(memory.stream.handle, lambda: seen.append(gpu.live["memory"]))
    memory.close()
    assert seen == [1]


def test_an_engine_that_needs_none(trt: ModuleType, tmp_path: Path) -> None:
    path = write_plan(tmp_path, {"activation_bytes": 0}, activation_bytes=0)
    with (
        ActivationMemory.for_engines(path) as memory,
        TensorRTEngine(path, activations=memory) as engine,
    ):
        tiles = random_tiles(1)
        np.testing.assert_array_equal(engine.run(tiles), tiles / 2)


def test_without_engines_or_cards(gpu: FakeGpu, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="at least one"):
        ActivationMemory.for_engines()
    small, large = write_pair(tmp_path)
    card_path(large).unlink()
    with pytest.raises(EngineError, match=r"large\.engine\.json: no such file"):
        ActivationMemory.for_engines(small, large)
    assert not gpu.made


def test_it_brings_the_stream(trt: ModuleType, gpu: FakeGpu, tmp_path: Path) -> None:
    path, _ = write_pair(tmp_path)
    with Stream(open_device()) as stream, Stream(open_device()) as other:
        with ActivationMemory.for_engines(path, stream=stream) as memory:
            assert memory.stream is stream
            with pytest.raises(EngineError, match=r"small\.engine: .*leave out stream="):
                TensorRTEngine(path, activations=memory, stream=other)
            with TensorRTEngine(path, activations=memory, stream=stream) as engine:
                engine.run(random_tiles(1))
        assert gpu.live["stream"] == 2


@pytest.mark.parametrize("function", ["cuStreamCreate", "cuMemAlloc"])
def test_no_memory(function: str, trt: ModuleType, gpu: FakeGpu, tmp_path: Path) -> None:
    path, _ = write_pair(tmp_path)
    gpu.failures[function] = CudaMemoryError(f"{function} failed: out of memory")
    with pytest.raises(DeviceError, match="out of memory"):
        ActivationMemory.for_engines(path)
    assert set(gpu.live.values()) <= {0}
