"""One Restorer on several GPUs in host memory: frames of a stream in order, as one device restores
them, within each device's memory; and what happens where a device fails."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_frames import OnDevice, frame_of, held_of
from fake_gpu import LogicError, MemoryError
from fake_tensorrt import write_plan
from frame_paths import our_threads
from several_gpus import Gpus
from several_gpus import gpus as gpus
from several_gpus import halving as halving
from several_gpus import native_gpus as native_gpus

import mirnet_edge as me
from mirnet_edge import engine_choice
from mirnet_edge.cuda import DeviceBuffer, Stream, open_device
from mirnet_edge.device.path import DevicePath

LONG_S = 60
SIZE = (20, 30)


def frames_of(count: int) -> list[np.ndarray]:
    return [frame_of(*SIZE, seed=seed) for seed in range(count)]


def opened(plan: Any, **options: Any) -> me.Restorer:
    return me.Restorer(plan, **{"halo": 2, "devices": "all", **options})


# Streams


@pytest.mark.parametrize("devices", [[0, 1], "all", [2, 0]])
def test_a_stream_is_in_order_what_one_device_makes_of_it(
    devices: Any, halving: Path, gpus: Gpus
) -> None:
    frames = frames_of(40)
    with opened(halving, devices=None) as restore:
        expected = list(restore.stream(frames))
        (alone,) = restore.devices
        assert (alone.index, alone.name, alone.frames) == (0, "Fake A", 40)
        memory = gpus[0].used_bytes()
    with opened(halving, devices=devices) as restore:
        for found, wanted in zip(restore.stream(frames), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        done = restore.devices
        used = [0, 1, 2] if devices == "all" else devices
        assert [work.index for work in done] == used
        assert [work.name for work in done] == [gpus[index].name for index in used]
        assert sum(work.frames for work in done) == restore.latency().frames == 40
        assert restore.latency(10).frames == 10
        assert all(work.timings.tiles == restore.timings.tiles for work in done if work.frames)
        # Frames in flight, tables and the engine: what one device holds, each holds at most.
        assert all(gpus[index].used_bytes() <= memory for index in used)
        assert len(restore.engines) == len(used)
        assert restore.engine is restore.engines[0]
    assert [held_of(gpu) for gpu in gpus] == [{}, {}, {}]
    assert not our_threads()


def test_the_same_by_ctypes_where_pycuda_is_missing(tmp_path: Path, native_gpus: Gpus) -> None:
    plan, frames = write_plan(tmp_path), frames_of(12)
    with opened(plan, devices=None) as restore:
        expected = list(restore.stream(frames))
    with opened(plan) as restore:
        np.testing.assert_array_equal(list(restore.stream(frames)), expected)
        assert all(gpu.used_bytes() for gpu in native_gpus)
    assert [gpu.used_bytes() for gpu in native_gpus] == [0, 0, 0]


def test_all_devices_work_on_a_stream(halving: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits, with its first frame, until all have one."""
    together, first = threading.Barrier(3), set[int]()
    collect = DevicePath.collect

    def waiting(self: DevicePath, ticket: Any) -> object:
        if self.device.facts.index not in first:
            first.add(self.device.facts.index)
            together.wait(LONG_S)
        return collect(self, ticket)

    monkeypatch.setattr(DevicePath, "collect", waiting)
    with opened(halving) as restore:
        assert len(list(restore.stream(frames_of(12)))) == 12
    assert first == {0, 1, 2}


def test_a_device_that_is_lost_ends_the_stream_by_its_name(halving: Path, gpus: Gpus) -> None:
    frames = frames_of(24)
    with opened(halving) as restore:
        expected = restore(frames[0])
        list(restore.stream(frames))
        gpus[1].lost = True
        with pytest.raises(me.DeviceError, match=r"^frame \d+: GPU 1 \(Fake B\): .*illegal"):
            list(restore.stream(frames * 4))
        assert not our_threads()
        restore.reopen()
        assert gpus[1].resets == 1
        assert gpus[0].resets == gpus[2].resets == 0
        np.testing.assert_array_equal(next(restore.stream(frames)), expected)
        assert len(list(restore.stream(frames))) == len(frames)


def test_a_device_that_hangs_ends_the_stream_by_its_name(
    halving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, collect = threading.Event(), DevicePath.collect

    def hangs(self: DevicePath, ticket: Any) -> object:
        if self.device.facts.index == 2:
            hanging.wait(LONG_S)
        return collect(self, ticket)

    restore = opened(halving, timeout=2.0)
    monkeypatch.setattr(DevicePath, "collect", hangs)
    with pytest.raises(me.EngineError, match=r"GPU 2 \(Fake C\): no answer .* within 2 s"):
        list(restore.stream(frames_of(30)))
    hanging.set()
    restore.close()


def test_frames_that_a_device_holds_stay_there(halving: Path, gpus: Gpus) -> None:
    frame = frame_of(*SIZE)
    there = OnGpu(frame, 1)
    with opened(halving) as restore:
        expected = restore(frame)
        found = restore(there)
        assert found.__dlpack_device__()[1] == 1
        np.testing.assert_array_equal(found.copy_to_host(), expected)
        for one in restore.stream([there, frame] * 4):
            host = one if isinstance(one, np.ndarray) else one.copy_to_host()
            np.testing.assert_array_equal(host, expected)
        nowhere = OnDevice(frame)  # of a library that tells no device
        with pytest.raises(me.FrameError, match="OnDevice does not say which GPU"):
            restore(nowhere)
        with pytest.raises(me.FrameError, match=r"^frame 1: .*does not say which GPU"):
            list(restore.stream([frame, nowhere]))
    with opened(halving, devices=[0, 2]) as restore, pytest.raises(me.FrameError, match="GPU 1"):
        restore(there)


def test_gray_frames_go_by_the_host_to_every_device(tmp_path: Path, gpus: Gpus) -> None:
    """And come back in their order, whose engines are of the device."""
    tensors = {name: [[name, [1, 1, 8, 12], "FLOAT", "LINEAR"]] for name in ("frame", "clean")}
    facts = me.ModelFacts(in_channels=1, out_channels=1, size_multiple=4, min_size_px=8)
    changes = {"inputs": tensors["frame"], "outputs": tensors["clean"]}
    plan = write_plan(tmp_path, card={"facts": facts}, **changes)
    frames = [frame_of(*SIZE, channels=0, seed=seed) for seed in range(9)]
    with opened(plan, devices=None) as restore:
        expected = list(restore.stream(frames))
    with opened(plan) as restore:
        assert [type(lane.path).__name__ for lane in restore._lanes] == ["HostPath"] * 3
        np.testing.assert_array_equal(list(restore.stream(frames)), expected)
        assert sum(work.frames for work in restore.devices) == len(frames)


class OnGpu:
    """An array of another library on one of several GPUs."""

    def __init__(self, array: np.ndarray, index: int) -> None:
        device = open_device(index)
        self._index, self._memory = index, DeviceBuffer(device, array.nbytes)
        with Stream(device) as queue:
            self._memory.upload(array, stream=queue)
            queue.synchronize()
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self._memory.address, False),
            "strides": None,
            "stream": None,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._index


# Single frames


def test_threads_that_share_a_restorer_use_all_devices(halving: Path) -> None:
    """Each frame waits in its callback until three are there at once."""
    together = threading.Barrier(3)
    frames = frames_of(3)
    with opened(halving) as restore:
        expected = [restore(frame) for frame in frames]

        def one(frame: np.ndarray) -> np.ndarray:
            return restore(frame, progress=lambda *_: together.wait(LONG_S) and None)

        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(one, frames))
        assert [work.frames for work in restore.devices] == [2, 2, 2]
    np.testing.assert_array_equal(found, expected)


def test_more_threads_than_devices_take_turns(halving: Path) -> None:
    frames = frames_of(40)
    with opened(halving, devices=[0, 1]) as restore:
        expected = [restore(frame) for frame in frames]
        with ThreadPoolExecutor(5) as pool:
            np.testing.assert_array_equal(list(pool.map(restore, frames)), expected)


def test_callbacks_may_restore_and_close(halving: Path) -> None:
    """Two at once, each of which would wait for the other's frame."""
    frame, together = frame_of(*SIZE), threading.Barrier(2)
    restore = opened(halving, devices=[0, 1])
    expected = restore(frame)

    def ends(*_: int) -> None:
        np.testing.assert_array_equal(restore(frame), expected)
        together.wait(LONG_S)
        restore.close()

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: restore(frame, progress=ends), range(2)))
    np.testing.assert_array_equal(found, [expected] * 2)
    with pytest.raises(me.EngineError, match="this Restorer is closed"):
        restore(frame)


def test_a_device_that_fails_is_named(halving: Path, gpus: Gpus) -> None:
    with opened(halving, devices=[0, 1]) as restore:
        list(restore.stream(frames_of(4)))
        for gpu in gpus[:2]:
            gpu.failures["cuStreamSynchronize"] = LogicError("the launch failed: Xid 79")
            gpu.failures["cuEventSynchronize"] = LogicError("the launch failed: Xid 79")
        for _ in range(2):
            with pytest.raises(me.DeviceError, match=r"^GPU [01] \(Fake [AB]\): .*Xid 79"):
                restore(frame_of(*SIZE))
        for gpu in gpus:
            gpu.failures.clear()


# Opening


def test_a_plan_for_another_kind_of_card_is_refused_by_name(halving: Path, gpus: Gpus) -> None:
    gpus[1].capability = (8, 9)
    with pytest.raises(me.EngineError, match=r"^GPU 1: .* on Fake B \(compute capability 8\.9\)"):
        opened(halving)
    assert [held_of(gpu) for gpu in gpus] == [{}, {}, {}]
    with opened(halving, devices=[0, 2]) as restore:
        restore(frame_of(*SIZE))


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([0, 7], r"^GPU 7 was asked for, but the NVIDIA driver reports 3"),
        ([], 'need "all", or the numbers of GPUs'),
        ([0, 0], "each once"),
        ([-1], "numbers"),
        ([True], "numbers"),
        ("0,1", "numbers"),
        (2, "numbers"),
    ],
)
def test_devices_that_there_are_not(devices: Any, message: str, halving: Path, gpus: Gpus) -> None:
    with pytest.raises(me.DeviceError, match=message):
        opened(halving, devices=devices)
    assert [held_of(gpu) for gpu in gpus] == [{}, {}, {}]


def test_all_devices_go_on_with_the_next_plan_where_one_has_no_memory(
    tmp_path: Path, gpus: Gpus
) -> None:
    large = write_plan(tmp_path, name="large.engine", activation_bytes=1 << 20)
    small = write_plan(tmp_path)
    gpus[2].total_bytes = 1 << 19
    with opened([large, small]) as restore:
        assert [engine.path for engine in restore.engines] == [small] * 3
        assert len(list(restore.stream(frames_of(6)))) == 6
        gpus[1].failures["cuMemAlloc"] = MemoryError("cuMemAlloc failed: out of memory")
        with pytest.raises(me.DeviceMemoryError, match=r"GPU 1 \(Fake B\)"):
            list(restore.stream([frame_of(40, 60)] * 6))
    with pytest.raises(me.DeviceMemoryError, match=r"^GPU 2: "):
        opened(large)
    assert [held_of(gpu) for gpu in gpus] == [{}, {}, {}]


def test_one_engine_alone_where_it_is_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "open_engine", lambda *_: me.FakeEngine())
    frame = frame_of(*SIZE)
    with me.Restorer("net.onnx", devices="all", tuned=False) as restore:
        assert (len(restore.engines), restore.devices) == (1, ())
        np.testing.assert_array_equal(next(restore.stream([frame])), restore(frame))
    with pytest.raises(me.EngineError, match=r"devices=\[0, 1\]: net\.onnx runs on the CPU here"):
        me.Restorer("net.onnx", devices=[0, 1], tuned=False)
    with pytest.raises(me.EngineError, match="FakeEngine that is open runs where it was opened"):
        me.Restorer(me.FakeEngine(), devices="all")
