"""Owning what lives on a GPU, and what the driver's errors become, on a GPU in host memory."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from pathlib import Path

import fake_cuda
import numpy as np
import pytest
from fake_gpu import FakeGpu, LogicError

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
from mirnet_edge.cuda import device as cuda_device
from mirnet_edge.errors import DeviceError


def random_bytes(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, shape, np.uint8)


# The device


def test_facts_of_the_device(gpu: FakeGpu, device: Device) -> None:
    facts = device.facts
    assert (facts.index, facts.name, facts.compute_capability) == (0, "Fake H200", (9, 0))
    assert (facts.memory_bytes, facts.integrated) == (1 << 30, False)
    assert facts.driver_version == "12.6"
    with DeviceBuffer(device, 1000):
        assert device.memory() == ((1 << 30) - 1000, 1 << 30)
    assert open_device() is device


def test_the_context_is_current_inside_alone(gpu: FakeGpu, device: Device) -> None:
    assert gpu.context_depth() == 0
    with device.current():
        with device.current():
            assert gpu.context_depth() == 1, "nested blocks push once"
        assert gpu.context_depth() == 1
    assert gpu.context_depth() == 0
    with pytest.raises(KeyError), device.current():
        raise KeyError
    assert gpu.context_depth() == 0


def test_two_devices_may_be_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = fake_cuda.install(monkeypatch, FakeGpu(count=2))
    first, second = open_device(0), open_device(1)
    assert second.facts.index == 1
    with first.current(), second.current(), first.current():
        assert gpu.context_depth() == 3, "the first is not on top of the stack any more"
    assert gpu.context_depth() == 0


def test_every_thread_enters_the_context_itself(gpu: FakeGpu, device: Device) -> None:
    source = random_bytes((64,))
    target, depths = np.zeros_like(source), []

    def copy() -> None:
        with Stream(device) as stream, DeviceBuffer(device, 64) as memory:
            memory.upload(source, stream=stream)
            memory.download(target, stream=stream)
            stream.synchronize()
        depths.append(gpu.context_depth())

    thread = threading.Thread(target=copy)
    with device.current():
        thread.start()
        thread.join()
    assert np.array_equal(source, target)
    assert depths == [0]


# What is missing


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            "libcuda.so.1: cannot open shared object file: No such file or directory",
            r"no NVIDIA driver \(libcuda\.so\.1\).*run on the CPU as \.onnx",
        ),
        ("undefined symbol: cuFancy_v2", r"pycuda.*cannot be loaded \(undefined symbol.*pip inst"),
    ],
)
def test_pycuda_that_cannot_be_loaded(
    reason: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_cuda.install(monkeypatch, FakeGpu())
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda/__init__.py").touch()
    (tmp_path / "pycuda/driver.py").write_text(f"raise ImportError({reason!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match=said):
        open_device()


@pytest.mark.parametrize("found", ["none", "error"])
def test_a_driver_without_gpu(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = fake_cuda.install(monkeypatch, FakeGpu(count=0))
    if found == "error":
        gpu.failures["cuInit"] = 100
    with pytest.raises(DeviceError, match=r"driver reports no GPU; .*mirnet-edge doctor"):
        open_device()


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda.install(monkeypatch, FakeGpu())
    monkeypatch.setattr(cuda_device, "start_driver", lambda: None)
    with pytest.raises(DeviceError, match=r"no NVIDIA driver \(libcuda\.so\.1\).*as \.onnx"):
        open_device()


def test_a_driver_that_does_not_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = fake_cuda.install(monkeypatch, FakeGpu())
    gpu.failures["cuInit"] = 802
    said = r"driver does not start: cuInit failed: CUDA_ERROR_SYSTEM_NOT_READY \(802\)"
    with pytest.raises(DeviceError, match=said):
        open_device()
    gpu.failures["cuInit"] = 77777
    with pytest.raises(DeviceError, match=r"cuInit failed: CUDA error \(77777\)"):
        open_device()
    assert open_device().facts.name == "Fake H200"


@pytest.mark.parametrize("index", [1, -1])
def test_a_gpu_that_is_not_there(index: int, gpu: FakeGpu) -> None:
    with pytest.raises(DeviceError, match=rf"GPU {index} was asked for.*reports 1.*VISIBLE"):
        open_device(index)


# Owning


def make_each(device: Device) -> list:
    stream = Stream(device)
    return [
        *(stream, Event(device), DeviceBuffer(device, 8), PinnedBuffer(device, (2,), np.uint8)),
        *(MirroredBuffer(device, (2,), np.float32), Graph(stream, lambda: None)),
    ]


def test_everything_is_freed_once(gpu: FakeGpu, device: Device) -> None:
    things = make_each(device)
    assert min(gpu.live.values()) > 0
    for thing in things:
        thing.close()
        thing.close()
        with thing:
            pass
    assert set(gpu.live.values()) == {0}
    assert not gpu.memory


def test_what_is_dropped_is_freed(gpu: FakeGpu, device: Device) -> None:
    make_each(device)
    gc.collect()
    assert set(gpu.live.values()) == {0}


@pytest.mark.parametrize(
    "use",
    [
        lambda stream, event, memory, pinned, mirror, graph: stream.synchronize(),
        lambda stream, event, memory, pinned, mirror, graph: stream.wait(event),
        lambda stream, event, memory, pinned, mirror, graph: event.record(stream),
        lambda stream, event, memory, pinned, mirror, graph: event.synchronize(),
        lambda stream, event, memory, pinned, mirror, graph: event.elapsed_ms(event),
        lambda stream, event, memory, pinned, mirror, graph: memory.upload(
            np.zeros(8, np.uint8), stream=stream
        ),
        lambda stream, event, memory, pinned, mirror, graph: pinned.array,
        lambda stream, event, memory, pinned, mirror, graph: mirror.upload(stream=stream),
        lambda stream, event, memory, pinned, mirror, graph: mirror.download(stream=stream),
        lambda stream, event, memory, pinned, mirror, graph: graph.launch(stream),
    ],
)
def test_use_after_close(use, device: Device) -> None:
    things = make_each(device)
    for thing in things:
        thing.close()
    with pytest.raises(DeviceError, match="is closed; make a new one"):
        use(*things)


def test_a_view_outlives_the_pinned_buffer(gpu: FakeGpu, device: Device) -> None:
    pinned = PinnedBuffer(device, (3,), np.uint8)
    pinned.array[...] = 7
    view = pinned.array[1:]
    pinned.close()
    assert view.tolist() == [7, 7]
    assert gpu.live == {"host": 1}
    with device.current():
        del view
    assert gpu.live == {"host": 0}


def test_a_lost_device_is_said_and_does_not_spoil_the_end(gpu: FakeGpu, device: Device) -> None:
    stream = Stream(device)
    lost = LogicError("cuStreamSynchronize failed: an illegal memory access was encountered")
    gpu.failures["cuStreamSynchronize"] = lost
    with pytest.raises(
        DeviceError, match=r"illegal memory access.*reopen.*start the process again.*Xid"
    ) as caught:
        stream.synchronize()
    assert caught.value.__cause__ is lost
    gpu.failures["cuCtxPushCurrent"] = LogicError("cuCtxPushCurrent failed: context is destroyed")
    with pytest.raises(DeviceError, match="making the context of Fake H200 current"):
        stream.close()


def said_by(program: str) -> tuple[list[str], str]:
    """Lines that a Python program of its own prints, and its errors."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    return done.stdout.splitlines(), done.stderr


def test_at_exit_what_is_open_is_freed_newest_first(tmp_path: Path) -> None:
    """Before modules are torn down, and with the context."""
    program = """
import atexit
atexit.register(lambda: print("detached", gpu.detached))
import pytest, fake_cuda
from fake_gpu import FakeGpu
from mirnet_edge.cuda import *
patch = pytest.MonkeyPatch()
gpu = fake_cuda.install(patch, FakeGpu())
free = gpu.free
def freed(kind):
    print(kind, gpu.context_depth())
    free(kind)
gpu.free = freed
stream = Stream(open_device())
memory = DeviceBuffer(open_device(), 8)
event = Event(open_device())
"""
    said = ["event 1", "memory 1", "stream 1", "detached [0]"]
    assert said_by(program) == (said, "")


@pytest.mark.parametrize("used_before", [True, False])
def test_at_exit_a_stream_ends_before_what_it_uses_is_freed(used_before: bool) -> None:
    """Also where something, as import torch does, used weakref.finalize before our import."""
    program = f"""
import threading, time, weakref
class Early: pass
early = Early()
if {used_before}:
    weakref.finalize(early, print, "early")
import pytest, fake_cuda
from fake_gpu import FakeGpu
from mirnet_edge.cuda import *
from frame_paths import OneByOne
from mirnet_edge.stream.frame_stream import FrameStream
patch = pytest.MonkeyPatch()
gpu = fake_cuda.install(patch, FakeGpu(count=2))
class Said(list):
    def append(self, index):
        print("detached", index)
gpu.detached = Said()
started = threading.Event()
def restore(image):
    if image:
        started.set()
        time.sleep(0.3)
    print("restored", image, *("freed" if memory.closed else "there" for memory in memories))
    return image
memories = [DeviceBuffer(open_device(0), 8)]
stream = FrameStream(OneByOne(restore), [0, 1])
memories.append(DeviceBuffer(open_device(1), 8))
print(next(stream))
late = Early()
weakref.finalize(late, print, "late")
started.wait()
"""
    said = ["restored 0 there there", "0", "late", "restored 1 there there"]
    said += ["detached 0", "detached 1"]
    assert said_by(program) == (said + ["early"] * used_before, "")


def test_entering_the_context_costs_little(device: Device) -> None:
    start = time.process_time()
    for _ in range(1000):
        with device.doing("nothing"):
            pass
    assert time.process_time() - start < 0.5
