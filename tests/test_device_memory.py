"""Memory of the device: what is allocated when, given back when, and what does not fit."""

from __future__ import annotations

import gc
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_cuda
import numpy as np
import pytest
from device_frames import TILE, OnDevice, Write, frame_of, held_of, plans_in
from device_frames import network as network
from device_frames import write as write
from fake_gpu import FakeGpu, LogicError

import mirnet_edge as me
from mirnet_edge.cuda import DeviceBuffer, open_device
from mirnet_edge.pooling.passes import MODES, StatisticsSettings

# What is allocated, and given back


def test_nothing_is_allocated_after_the_first_frames(write: Write, gpu: FakeGpu) -> None:
    for mode in MODES:
        settings = StatisticsSettings(mode, samples=4, tolerance=1e-2)
        with me.Restorer(write(), halo=4, blend=4, statistics=settings) as restore:
            frame = frame_of(75, 90)
            out = np.empty_like(frame)
            list(restore.stream([frame] * 3))
            restore(frame, out=out)
            made, used = dict(gpu.made), gpu.used_bytes()
            for _ in range(5):
                restore(frame, out=out)
            list(restore.stream([frame] * 5))
            assert (gpu.made, gpu.used_bytes()) == (made, used), mode


def test_an_integrated_gpu_copies_nothing(
    write: Write, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.integrated = True
    path = write()
    frame = frame_of(75, 90)
    with me.Restorer(path, halo=4) as restore:
        expected = restore(frame)
        monkeypatch.setattr(DeviceBuffer, "upload", None)
        np.testing.assert_array_equal(restore(frame), expected)


def test_closing_gives_everything_back(write: Write, gpu: FakeGpu) -> None:
    path = write()
    before = held_of(gpu)
    restore = me.Restorer(path, halo=4, blend=4, statistics="stream")
    restore(frame_of(75, 90))
    restore(frame_of(60, 90))
    restore.close()
    restore.close()
    assert held_of(gpu) == before
    assert gpu.stray == []
    with pytest.raises(me.EngineError, match="closed; make a new one"):
        restore(frame_of(75, 90))


def test_an_engine_closed_before_its_restorer(write: Write, gpu: FakeGpu) -> None:
    path = write()
    before = held_of(gpu)
    frame = frame_of(75, 90)
    with me.ActivationMemory.for_engines(path) as memory:
        for shared, mode in ((memory, "tile"), (None, "stream")):
            engine = me.TensorRTEngine(path, activations=shared)
            restore = me.Restorer(engine, halo=4, blend=4, statistics=mode)  # type: ignore[arg-type]
            restore(frame)
            engine.close()
            with pytest.raises(me.EngineError, match=r"was closed, .* close the Restorer first"):
                restore(frame)
            restore.close()
    assert held_of(gpu) == before


def test_closing_frees_all_though_the_gpu_fails(write: Write, gpu: FakeGpu) -> None:
    path = write()
    before = held_of(gpu)
    restore = me.Restorer(path, halo=4, blend=4, statistics="stream")
    restore(frame_of(75, 90))
    gpu.failures["cuStreamSynchronize"] = LogicError("the launch failed: Xid 79")
    with pytest.raises(me.DeviceError, match="Xid 79"):
        restore.close()
    restore.close()
    with open_device().current():
        gc.collect()  # the traceback held the stream
    assert held_of(gpu) == before


def test_what_runs_is_waited_for_before_its_memory_goes(write: Write, gpu: FakeGpu) -> None:
    with me.Restorer(write(), halo=4) as restore:
        restore(frame_of(75, 90))
        seen = OnDevice(frame_of(75, 90))
        plan, stream = restore._lanes[0].path._plans.current, restore.engine.stream
        address, size_bytes = plan._slots[0].source.address, seen.memory.size_bytes
        seen.memory.copy_from(address, size_bytes, stream=stream)  # queued, not done
        plan.close()
        assert not gpu.queues[stream.handle].work
        restore._lanes[0].path._plans.current = None


def test_a_graph_that_memory_does_not_hold_is_no_reason_to_go_without(
    write: Write, gpu: FakeGpu
) -> None:
    with me.Restorer(write(), halo=4) as restore:
        gpu.failures["cuGraphInstantiate"] = 2
        with pytest.raises(me.DeviceMemoryError, match="cuGraphInstantiate"):
            restore(frame_of(75, 90))
        launches = gpu.launches
        restore(frame_of(75, 90))
        assert gpu.launches > launches


# The choice of an engine


def test_memory_limits_choose_the_engine(
    network: Any, trt: ModuleType, gpu: FakeGpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = plans_in(tmp_path, network, ((64, 80), 4), (TILE, 1))
    with me.Restorer(paths, halo=4) as restore:
        assert restore.engine.batch == 4
    sizes = [path.stat().st_size + 24 * 64 * 80 * 4 for path in paths]
    with me.Restorer(paths, halo=4, memory_limit=sizes[0]) as restore:
        assert restore.engine.batch == 1
        restore(frame_of(75, 90))
        with pytest.raises(me.DeviceMemoryError, match="memory_limit"):
            restore(np.zeros((900, 1500, 3), np.uint8))
    with pytest.raises(me.DeviceMemoryError, match="no engine fits memory_limit=1,000 bytes"):
        me.Restorer(paths, memory_limit=1000)
    with me.Restorer(paths, halo=4) as restore:
        gpu.total_bytes = gpu.used_bytes() + 1000
        with pytest.raises(me.DeviceMemoryError):  # closing the large one does not give enough
            restore(np.zeros((2000, 3000, 3), np.uint8))
    gpu.total_bytes = 1 << 30
    restore = me.Restorer(paths, halo=4)
    gpu.failures["cuMemAlloc"] = fake_cuda.MemoryError("cuMemAlloc failed: out of memory")
    with restore, caplog.at_level("WARNING"):
        restore(frame_of(75, 90))
        assert restore.engine.batch == 1
    assert "Going on with" in caplog.text


def test_memory_limits_count_the_engines_for_statistics(write: Write) -> None:
    path, frame = write(), frame_of(75, 90)
    options = {"halo": 4, "statistics": "frame"}
    with me.Restorer(path, halo=4) as restore:
        alone = restore.engine.device_bytes
    with me.Restorer(path, **options) as restore:
        restore(frame)
        planned = restore._lanes[0].path._plans.current.size_bytes
    beside = sum(path.with_name(f"{path.stem}.{kind}.engine").stat().st_size
                 for kind in ("apply", "gather"))  # fmt: skip
    limit = alone.total + 4 * frame.nbytes + beside + planned
    with me.Restorer(path, **options, memory_limit=limit) as restore:
        restore(frame)
        assert restore.engine.device_bytes.weights == alone.weights + beside
    counted = pytest.raises(me.DeviceMemoryError, match=f"weights {alone.weights + beside:,}")
    with me.Restorer(path, **options, memory_limit=limit - 1) as restore, counted:
        restore(frame)


def test_engines_are_tried_until_one_fits_a_frame(
    network: Any, trt: ModuleType, gpu: FakeGpu, tmp_path: Path
) -> None:
    paths = plans_in(tmp_path, network, ((64, 80), 4), ((64, 80), 2), (TILE, 1))
    with me.Restorer(paths[-1], halo=4) as restore:
        held = restore.engine.device_bytes
        small, frame = frame_of(20, 30), frame_of(200, 200)
        expected = [restore(small), restore(frame)]
        planned = restore._lanes[0].path._plans.current.size_bytes
    fits = held.total + 4 * frame.nbytes + planned
    with me.Restorer(paths, halo=4, memory_limit=fits) as restore:
        assert restore.engine.batch == 4
        np.testing.assert_array_equal(restore(frame), expected[1])
        assert restore.engine.batch == 1
        with pytest.raises(me.DeviceMemoryError, match="memory_limit"):
            restore(frame_of(200, 204))
        np.testing.assert_array_equal(restore(frame), expected[1])
    with me.Restorer(paths[0], halo=4) as restore:
        first = restore(small)
    with me.Restorer(paths, halo=4, memory_limit=fits) as restore:
        found = list(restore.stream([small, frame, small]))  # the first is in flight on the large
        assert restore.engine.batch == 1
        np.testing.assert_array_equal(found[0], first)
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_array_equal(found[2], expected[0])


def test_engines_whose_tiles_cannot_serve_are_left_out(
    network: Any, trt: ModuleType, gpu: FakeGpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = plans_in(tmp_path, network, ((64, 80), 4), (TILE, 1), ((64, 80), 1))
    frame = frame_of(75, 90)
    for options in ({"halo": 16}, {"halo": 4, "tile": (64, 80)}):
        caplog.clear()
        with me.Restorer(paths, **options) as restore, caplog.at_level("INFO"):  # type: ignore[arg-type]
            assert f"{paths[1]} is left out: " in caplog.text
            gpu.failures["cuMemAlloc"] = fake_cuda.MemoryError("cuMemAlloc failed: out of memory")
            restore(frame)
            assert (restore.engine.fixed_size, restore.engine.batch) == ((64, 80), 1)
            assert f"restoring with {paths[2]}" in caplog.text
    with me.Restorer(paths[:2], halo=16) as restore:
        gpu.failures["cuMemAlloc"] = fake_cuda.MemoryError("cuMemAlloc failed: out of memory")
        with pytest.raises(me.DeviceMemoryError, match="out of memory"):
            restore(frame)
        restore(frame)
    with pytest.raises(me.TilingError):
        me.Restorer(paths[1:], halo=16)
