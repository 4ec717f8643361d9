"""Frames, outputs and results in memory of the device, and the streams of other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from device_frames import ByDlpack, OnDevice, Write, frame_of
from device_frames import network as network
from device_frames import write as write
from fake_gpu import FakeGpu

import mirnet_edge as me
from mirnet_edge.cuda import DeviceBuffer, Stream, open_device
from mirnet_edge.device.device_array import DeviceArray
from mirnet_edge.device.dlpack import CUDA
from mirnet_edge.device.foreign import LEGACY_STREAM
from mirnet_edge.device.frame_plan import LOOPS_KEPT
from mirnet_edge.device.results import RESULTS_KEPT

# Frames on the device


@pytest.mark.parametrize("mode", ["tile", "stream"])
def test_frames_on_the_device_stay_there(mode: Any, write: Write, gpu: FakeGpu) -> None:
    frames = [frame_of(75, 90, 4, seed=seed) for seed in range(2)]
    with me.Restorer(write(), halo=4, statistics=mode) as restore:
        expected = restore(frames[0])
    with me.Restorer(write(), halo=4, statistics=mode) as restore:
        there = OnDevice(frames[0])
        found = restore(there)
        assert isinstance(found, DeviceArray)
        np.testing.assert_array_equal(found.copy_to_host(), expected)
        out = OnDevice(np.zeros_like(frames[0]))
        assert restore(there, out=out) is out
        if mode == "tile":
            np.testing.assert_array_equal(out.get(), expected)
            host = np.empty_like(frames[0])
            np.testing.assert_array_equal(restore(there, out=host), expected)
            restore(frames[1], out=out)
            np.testing.assert_array_equal(out.get(), restore(frames[1]))


def test_memory_of_results_and_graphs_comes_round(write: Write, gpu: FakeGpu) -> None:
    there = OnDevice(frame_of(75, 90))
    with me.Restorer(write(), halo=4) as restore:
        found = restore(there)
        address = found.address
        del found
        made = dict(gpu.made)
        for _ in range(3):
            found = restore(there)
            assert found.address == address
            del found
        assert gpu.made == made
        held = [restore(there) for _ in range(LOOPS_KEPT + 2)]
        assert len({found.address for found in held}) == len(held)
        assert gpu.live["graph"] <= 2 * (LOOPS_KEPT + 1) + 2


def test_frames_that_come_round_in_more_pairs_than_are_kept(write: Write, gpu: FakeGpu) -> None:
    """Some inputs, and some results that are held: no pair is captured anew, or waited for."""
    inputs = [OnDevice(frame_of(75, 90, 4, seed=seed)) for seed in range(5)]
    with me.Restorer(write(2), halo=4, statistics="stream") as restore:
        held: list[Any] = []

        def run(count: int) -> None:
            for index in range(count):
                held.append(restore(inputs[index % len(inputs)]))
                del held[:-3]

        run(6 * LOOPS_KEPT)
        graphs, launches = gpu.live["graph"], gpu.launches
        made = dict(gpu.made)
        run(4 * LOOPS_KEPT)
        assert (gpu.live["graph"], gpu.made) == (graphs, made)
        assert gpu.launches > launches
        found = restore(inputs[0]).copy_to_host()
    with me.Restorer(write(2), halo=4) as restore:
        expected = [restore(there).copy_to_host() for there in inputs]
        for index in range(2 * LOOPS_KEPT):
            last = restore(inputs[index % 5], out=OnDevice(np.zeros((75, 90, 4), np.uint8)))
        np.testing.assert_array_equal(last.get(), expected[index % 5])
    assert found.shape == (75, 90, 4)


def test_memory_of_a_result_waits_for_its_readers(write: Write) -> None:
    """A library reads a result on the default stream, and lets go of it before that is done."""
    default = Stream(open_device())
    assert default.handle == LEGACY_STREAM
    frames = [OnDevice(frame_of(75, 90, seed=seed)) for seed in range(2)]
    with me.Restorer(write(), halo=4) as restore:
        expected = restore(frames[0]).copy_to_host()
        result = restore(frames[0])
        address, seen = result.address, DeviceBuffer(open_device(), result.size_bytes)
        seen.copy_from(address, result.size_bytes, stream=default)
        del result
        assert restore(frames[1]).address == address
        found = np.empty_like(expected)
        seen.download(found, stream=default)
        default.synchronize()
    np.testing.assert_array_equal(found, expected)


def test_memory_of_results_is_not_hoarded(write: Write, gpu: FakeGpu) -> None:
    with me.Restorer(write(), halo=4) as restore:
        used = []
        for width in range(30, 40):
            there = OnDevice(frame_of(20, width))
            restore(there)
            del there
            used.append(gpu.live["memory"])
        assert used[-1] <= used[1]
        there = OnDevice(frame_of(20, 30))
        held = [restore(there) for _ in range(3 * RESULTS_KEPT)]
        before = gpu.live["memory"]
        del held
        assert gpu.live["memory"] == before - 2 * RESULTS_KEPT


# Other libraries, and their streams


def test_another_librarys_stream_is_waited_for(write: Write, gpu: FakeGpu) -> None:
    frame = frame_of(75, 90)
    with me.Restorer(write(), halo=4) as restore:
        expected = restore(frame)
        with Stream(open_device()) as producer:
            there = OnDevice(np.zeros_like(frame), producer.handle)
            there.memory.upload(frame, stream=producer)  # queued, not done
            np.testing.assert_array_equal(restore(there).copy_to_host(), expected)


def test_scenes_are_told_apart_once_a_dlpack_frame_is_there(write: Write) -> None:
    frame = frame_of(75, 90)
    with me.Restorer(write(), halo=4, statistics="stream") as restore:
        restore(OnDevice(frame))
        with Stream(open_device()) as producer:
            there = OnDevice(np.zeros_like(frame))
            there.memory.upload(frame, stream=producer)  # queued, not done
            restore(ByDlpack(there, producer))
            assert restore.timings.samples == 0  # the scene is the same


def test_arrays_that_the_kernels_cannot_reach(write: Write) -> None:
    frame = frame_of(75, 90)

    class Elsewhere(OnDevice):
        def __dlpack_device__(self) -> tuple[int, int]:
            return CUDA, 1

    with me.Restorer(write(), halo=4) as restore:
        away = "on GPU 1 and the engine on GPU 0; copy it"
        with pytest.raises(me.FrameError, match=away):
            restore(Elsewhere(frame))
        with pytest.raises(me.FrameError, match=away):
            restore(frame, out=Elsewhere(frame))
        strided = OnDevice(np.zeros((75, 180, 3), np.uint8))
        strided.__cuda_array_interface__ |= {"shape": (75, 90, 3), "strides": (540, 6, 1)}
        with pytest.raises(me.FrameError, match="side by side"):
            restore(frame, out=strided)
        with pytest.raises(me.FrameError, match=r"gray frame with alpha, .* an out of the host"):
            restore(frame_of(75, 90, 2), out=OnDevice(frame_of(75, 90, 2)))


# Outputs on the device


def test_an_outputs_own_stream_is_waited_for(write: Write) -> None:
    """What its library still does to it comes before the restored frame."""
    frame, grey = frame_of(75, 90), np.full((75, 90, 3), 128, np.uint8)
    with me.Restorer(write(), halo=4) as restore, Stream(open_device()) as producer:
        expected = restore(frame)
        out = OnDevice(np.zeros_like(frame), producer.handle)
        out.memory.upload(grey, stream=producer)  # queued, not done
        restore(frame, out=out)
        producer.synchronize()
        np.testing.assert_array_equal(out.get(), expected)


def test_an_output_by_dlpack_waits_on_the_stream_that_writes_it(write: Write) -> None:
    frame = frame_of(75, 90)
    with me.Restorer(write(), halo=4) as restore:
        asked = []

        class Out(ByDlpack):
            def __dlpack__(self, *, stream: int, max_version: Any = None) -> Any:
                asked.append(stream)
                return super().__dlpack__(stream=stream)

        with Stream(open_device()) as producer:
            restore(frame, out=Out(OnDevice(np.zeros_like(frame)), producer))
        assert asked == [restore.engine.stream.handle]


def test_an_output_that_overlaps_its_frame_on_the_device(write: Write) -> None:
    canvas = np.zeros((80, 180, 3), np.uint8)
    frame = canvas[:75, :90] = frame_of(75, 90)
    there = OnDevice(canvas)

    def part(offset: int) -> Any:
        view = OnDevice.__new__(OnDevice)
        interface = dict(there.__cuda_array_interface__)
        interface |= {"shape": (75, 90, 3), "strides": (540, 3, 1)}
        view.__cuda_array_interface__ = interface | {"data": (there.memory.address + offset, False)}
        return view

    with me.Restorer(write(), halo=4) as restore:
        with pytest.raises(me.FrameError, match="shares memory"):
            restore(part(0), out=part(540))  # a row below
        restore(part(0), out=part(270))  # beside it
        np.testing.assert_array_equal(there.get()[:75, 90:], restore(frame))
