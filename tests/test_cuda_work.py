"""Streams, events, memory and graphs, on a GPU in host memory."""

from __future__ import annotations

import fake_cuda
import numpy as np
import pytest
from fake_gpu import FakeGpu, LogicError, MemoryError
from fake_libcuda import FakeLibcuda

from mirnet_edge.cuda import (
    Device,
    DeviceBuffer,
    Event,
    Graph,
    MirroredBuffer,
    PinnedBuffer,
    Stream,
    open_device,
)
from mirnet_edge.errors import DeviceError, DeviceMemoryError


def random_bytes(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


# Streams, events


def test_nothing_is_waited_for_in_secret(gpu: FakeGpu, device: Device) -> None:
    source = random_bytes((3, 7))
    target = np.zeros_like(source)
    with Stream(device) as stream, DeviceBuffer(device, source.nbytes) as memory:
        memory.upload(source, stream=stream)
        memory.download(target, stream=stream)
        assert not target.any()
        stream.synchronize()
    assert np.array_equal(source, target)


def test_a_stream_waits_for_no_other(device: Device) -> None:
    with Stream(device) as stream:
        assert stream.native.flags == 1
        assert stream.handle == stream.native.handle


def test_events_tell_the_time_between(gpu: FakeGpu, device: Device) -> None:
    with Stream(device) as stream, Event(device) as start, Event(device) as end:
        start.record(stream)
        gpu.queue(stream.handle, lambda: None, 1.25)
        end.record(stream)
        end.synchronize()
        assert end.elapsed_ms(start) == 1.25


def test_time_that_is_not_known_yet(gpu: FakeGpu, device: Device) -> None:
    with Stream(device) as stream, Event(device) as start, Event(device) as end:
        start.record(stream)
        end.record(stream)
        with pytest.raises(DeviceError, match=r"between two events: .*not ready"):
            end.elapsed_ms(start)


def test_a_stream_waits_for_an_event_of_another(gpu: FakeGpu, device: Device) -> None:
    done = []
    with Stream(device) as first, Stream(device) as second, Event(device) as event:
        gpu.queue(first.handle, lambda: done.append("first"))
        event.record(first)
        second.wait(event)
        gpu.queue(second.handle, lambda: done.append("second"))
        second.synchronize()
    assert done == ["first", "second"]


def test_a_stream_waits_for_another_librarys(gpu: FakeGpu, device: Device) -> None:
    done = []
    with Stream(device) as theirs, Stream(device) as stream:
        gpu.queue(theirs.handle, lambda: done.append("theirs"))
        stream.wait_for_handle(theirs.handle)
        gpu.queue(stream.handle, lambda: done.append("ours"))
        assert done == [], "the host does not wait"
        stream.synchronize()
    assert done == ["theirs", "ours"]
    assert gpu.live["bare event"] == 0


def test_an_event_that_could_not_be_recorded_is_destroyed(gpu: FakeGpu, device: Device) -> None:
    gpu.failures["cuEventRecord"] = 901
    with (
        Stream(device) as theirs,
        Stream(device) as stream,
        pytest.raises(DeviceError, match="cuEventRecord failed"),
    ):
        stream.wait_for_handle(theirs.handle)
    assert gpu.live["bare event"] == 0


# Memory


@pytest.mark.parametrize("shape", [(1,), (5, 1), (2, 3, 7)])
def test_a_mirror_copies_both_ways(shape: tuple[int, ...], gpu: FakeGpu, device: Device) -> None:
    with Stream(device) as stream, MirroredBuffer(device, shape, np.float16) as mirror:
        assert mirror.array.shape == shape
        assert mirror.array.dtype == np.float16
        mirror.array[...] = 1.5
        mirror.upload(stream=stream)
        stream.synchronize()
        mirror.array[...] = 0
        mirror.download(stream=stream)
        stream.synchronize()
        assert (mirror.array == 1.5).all()
    assert gpu.live == {"stream": 0, "memory": 0, "host": 0}


def test_an_integrated_gpu_shares_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = fake_cuda.install(monkeypatch, FakeGpu(integrated=True, name="Orin"))
    device = open_device()
    with Stream(device) as stream, MirroredBuffer(device, (2, 3), np.float32) as mirror:
        mirror.array[...] = 7
        mirror.upload(stream=stream)
        on_device = gpu.bytes_at(mirror.address, 24).view(np.float32)
        assert (on_device == 7).all()
        on_device[...] = 8
        mirror.download(stream=stream)
        assert (mirror.array == 8).all()
        assert gpu.queues[stream.handle].work == [], "nothing is copied"
        del on_device
    assert gpu.made.get("memory", 0) == 0
    assert gpu.live["host"] == 0


def test_out_of_memory_says_how_much(gpu: FakeGpu, device: Device) -> None:
    with DeviceBuffer(device, 1 << 20):
        said = (
            r"allocating GPU memory: out of memory, 2,147,483,648 bytes asked for, "
            r"1,072,693,248 of 1,073,741,824 free; .*smaller tile"
        )
        with pytest.raises(DeviceError, match=said):
            DeviceBuffer(device, 1 << 31)
        gpu.failures["cuMemHostAlloc"] = MemoryError("cuMemHostAlloc failed: out of memory")
        with pytest.raises(DeviceError, match=r"page-locked memory: out of memory, 24 bytes asked"):
            PinnedBuffer(device, (2, 3), np.float32)


def test_half_a_mirror_is_freed(gpu: FakeGpu, device: Device) -> None:
    gpu.failures["cuMemAlloc"] = MemoryError("cuMemAlloc failed: out of memory")
    with pytest.raises(DeviceError):
        MirroredBuffer(device, (2, 3), np.float32)
    assert gpu.live == {"host": 0}


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(9, np.uint8), "9 bytes.*buffer of 8"),
        (np.zeros((2, 4), np.uint8).T, r"8 bytes, strides \(1, 4\).*C-contiguous"),
    ],
)
def test_copies_that_cannot_be(array: np.ndarray, said: str, device: Device) -> None:
    with Stream(device) as stream, DeviceBuffer(device, 8) as memory:
        with pytest.raises(DeviceError, match=said):
            memory.upload(array, stream=stream)
        with pytest.raises(DeviceError, match=said):
            memory.download(array, stream=stream)


def test_memory_is_filled_and_copied_on_the_device(device: Device) -> None:
    source, found = random_bytes((3, 5)), np.zeros(17, np.uint8)
    with (
        Stream(device) as stream,
        DeviceBuffer(device, source.nbytes) as first,
        DeviceBuffer(device, found.nbytes) as second,
    ):
        first.upload(source, stream=stream)
        second.fill(0xC3, stream=stream)
        second.copy_from(first.address + 2, 11, stream=stream)
        second.download(found, stream=stream)
        assert not found.any()
        stream.synchronize()
    expected = np.full(17, 0xC3, np.uint8)
    expected[:11] = source.reshape(-1)[2:13]
    assert np.array_equal(found, expected)


def test_fills_and_copies_that_cannot_be(gpu: FakeGpu, device: Device) -> None:
    with Stream(device) as stream, DeviceBuffer(device, 16) as memory:
        other = DeviceBuffer(device, 8)
        with pytest.raises(DeviceError, match=r"16 bytes cannot be copied to a buffer of 8; copy"):
            other.copy_from(memory.address, 16, stream=stream)
        gpu.failures["cuMemsetD8Async"] = LogicError("cuMemsetD8Async failed: invalid argument")
        with pytest.raises(DeviceError, match=r"filling 8 bytes of GPU memory: .*invalid argument"):
            other.fill(0, stream=stream)
        with pytest.raises(DeviceError, match=r"copying 8 bytes on the GPU: .*illegal memory"):
            other.copy_from(memory.address + 12, 8, stream=stream)
        other.close()
        for call in (
            lambda: other.fill(0, stream=stream),
            lambda: other.copy_from(memory.address, 8, stream=stream),
        ):
            with pytest.raises(DeviceError, match="is closed"):
                call()


# Graphs


def test_a_graph_does_the_work_again(gpu: FakeGpu, device: Device) -> None:
    done = []
    with (
        Stream(device) as stream,
        Graph(stream, lambda: gpu.queue(stream.handle, lambda: done.append(1), 2.0)) as graph,
    ):
        stream.synchronize()
        assert done == [], "capturing runs nothing"
        for _ in range(3):
            graph.launch(stream)
        stream.synchronize()
    assert done == [1, 1, 1]
    assert gpu.clock_ms == 3.0
    assert gpu.live == {"stream": 0, "graph": 0}


def test_work_that_fails_leaves_the_stream_usable(gpu: FakeGpu, device: Device) -> None:
    def work() -> None:
        raise KeyError("of the work")

    with Stream(device) as stream:
        with pytest.raises(KeyError, match="of the work"):
            Graph(stream, work)
        stream.synchronize()
    assert gpu.live["graph"] == 0


@pytest.mark.parametrize(
    "function", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate"]
)
def test_work_that_cannot_be_captured(function: str, gpu: FakeGpu, device: Device) -> None:
    gpu.failures[function] = 900
    with Stream(device) as stream:
        with pytest.raises(
            DeviceError, match=rf"{function}\w* failed: CUDA_ERROR_STREAM_CAPTURE_UNSUP"
        ):
            Graph(stream, lambda: None)
        stream.synchronize()
        with Graph(stream, lambda: None) as graph:
            gpu.failures["cuGraphLaunch"] = 901
            with pytest.raises(DeviceError, match=r"cuGraphLaunch failed: .*INVALIDATED \(901\)"):
                graph.launch(stream)


def test_memory_that_a_graph_does_not_find(gpu: FakeGpu, device: Device) -> None:
    gpu.failures["cuGraphInstantiate"] = 2
    with Stream(device) as stream, pytest.raises(DeviceMemoryError, match=r"OUT_OF_MEMORY \(2\)"):
        Graph(stream, lambda: None)
    assert gpu.live["graph"] == 0


def test_a_driver_without_the_function(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FakeLibcuda, "cuGraphInstantiateWithFlags")
    said = r"this NVIDIA driver has no cuGraphInstantiateWithFlags; install the driver of CUDA 12"
    with Stream(device) as stream, pytest.raises(DeviceError, match=said):
        Graph(stream, lambda: None)
