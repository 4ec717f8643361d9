"""The driver through ctypes, where pycuda is not installed: on a library in host memory that takes
the very calls of the real one."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import fake_native
import fake_torch
import numpy as np
import pytest
from conftest import TINY, lively
from device_frames import frame_of
from fake_gpu import FakeGpu
from fake_native import FakeNativeLibcuda

import mirnet_edge as me
from mirnet_edge.cuda import (
    DeviceBuffer,
    Event,
    Graph,
    MirroredBuffer,
    PinnedBuffer,
    Stream,
    is_page_locked,
    open_device,
)
from mirnet_edge.cuda.native import NativeDriver


@pytest.fixture
def bare() -> FakeGpu:
    return FakeGpu()


@pytest.fixture
def library(bare: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNativeLibcuda]:
    yield fake_native.install(monkeypatch, bare)
    gc.collect()
    assert bare.context_depth() == 0, "a context was left on the stack"


def test_it_is_taken_where_there_is_no_pycuda(library: FakeNativeLibcuda) -> None:
    device = open_device()
    assert isinstance(device.driver, NativeDriver)
    assert device.memory() == (1 << 30, 1 << 30)
    with device.current():
        assert library.gpu.context_depth() == 1
    assert library.gpu.context_depth() == 0


def test_copies_fills_and_times(library: FakeNativeLibcuda) -> None:
    device = open_device()
    source = np.random.default_rng(0).integers(0, 256, (3, 1000), np.uint8)
    with (
        Stream(device) as stream,
        DeviceBuffer(device, 3000) as memory,
        DeviceBuffer(device, 3000) as other,
        PinnedBuffer(device, (3, 1000), np.uint8) as pinned,
        Event(device) as start,
        Event(device) as end,
    ):
        start.record(stream)
        memory.upload(source, stream=stream)
        other.fill(9, stream=stream)
        other.copy_from(memory.address, 2000, stream=stream)
        other.download(pinned.array, stream=stream)
        end.record(stream)
        end.synchronize()
        np.testing.assert_array_equal(pinned.array[:2], source[:2])
        assert (pinned.array[2] == 9).all()
        assert end.elapsed_ms(start) == 0
        assert is_page_locked(device, pinned.array)
        assert is_page_locked(device, pinned.array[1:])
        assert not is_page_locked(device, pinned.array[:, 1:])
        assert not is_page_locked(device, source)
    gc.collect()
    assert library.freed == {"stream": 1, "memory": 2, "host": 1, "event": 2}


def test_streams_wait_for_events(library: FakeNativeLibcuda) -> None:
    device = open_device()
    source = np.arange(256, dtype=np.uint8)
    target = np.zeros_like(source)
    with Stream(device) as first, Stream(device) as second, DeviceBuffer(device, 256) as memory:
        memory.upload(source, stream=first)
        mark = Event(device)
        mark.record(first)
        second.wait(mark)
        memory.download(target, stream=second)
        second.synchronize()
        np.testing.assert_array_equal(target, source)
        mark.close()


def test_graphs(library: FakeNativeLibcuda) -> None:
    device = open_device()
    with Stream(device) as stream, DeviceBuffer(device, 64) as memory:
        graph = Graph(stream, lambda: memory.fill(3, stream=stream))
        target = np.zeros(64, np.uint8)
        memory.fill(1, stream=stream)
        graph.launch(stream)
        memory.download(target, stream=stream)
        stream.synchronize()
        assert (target == 3).all()
        graph.close()


def test_an_integrated_gpu_maps_what_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_native.install(monkeypatch, FakeGpu(integrated=True))
    with MirroredBuffer(open_device(), (4, 4), np.float32) as buffer:
        assert buffer.address == buffer.array.ctypes.data
        assert not buffer.mirrors


def test_an_array_keeps_its_memory(library: FakeNativeLibcuda) -> None:
    pinned = PinnedBuffer(open_device(), (8,), np.uint8)
    kept = pinned.array[2:]
    pinned.close()
    gc.collect()
    assert library.freed["host"] == 0
    kept[...] = 5  # still there
    done = threading.Thread(target=lambda: None)
    done.start()
    done.join()
    del kept
    gc.collect()
    assert library.freed["host"] == 1


def test_nothing_is_freed_in_a_context_that_came_later(library: FakeNativeLibcuda) -> None:
    """Where a device was reset, the same handle may be something else's."""
    device = open_device()
    pinned = PinnedBuffer(device, (8,), np.uint8)
    kept = pinned.array
    pinned.close()
    device._context.detach()
    del kept
    gc.collect()
    assert library.freed["host"] == 0


def test_errors(library: FakeNativeLibcuda, bare: FakeGpu) -> None:
    device = open_device()
    with pytest.raises(me.DeviceMemoryError, match="allocating GPU memory: out of memory, 4,"):
        DeviceBuffer(device, 1 << 32)
    with Stream(device) as stream:
        bare.failures["cuStreamSynchronize"] = fake_native.fake_gpu.LogicError("lost")
        with pytest.raises(
            me.DeviceError, match=r"cuStreamSynchronize failed.*719.*device is lost"
        ):
            stream.synchronize()


def test_frames_run_on_it(library: FakeNativeLibcuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels take their arguments packed, and all of a frame's way is by these calls."""
    fake_torch.install(monkeypatch, library.gpu)
    network = lively(me.create_model(TINY["mirnet-v2"], seed=0))
    frame = frame_of(75, 90)
    with (
        me.CompiledEngine(network, precision="fp32", mode="off") as engine,
        me.Restorer(engine, tile=(32, 40), halo=4, blend=4) as restore,
        me.Restorer(me.TorchEngine(network), tile=(32, 40), halo=4, blend=4) as host,
    ):
        found = restore(frame)
        assert np.abs(found.astype(int) - host(frame)).max() <= 1
    gc.collect()
    assert library.gpu.used_bytes() == 0
