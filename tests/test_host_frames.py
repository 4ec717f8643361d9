"""Frames of the host in page-locked memory: copied once, found whoever has locked them, and given
back; and streams that keep frames young."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from device_frames import Write, assert_near, frame_of
from device_frames import network as network
from device_frames import portable as portable
from device_frames import write as write
from fake_gpu import FakeGpu
from fake_libcuda import CUresult
from frame_paths import Delayed, OneByOne, doubled, eventually, frame, values

import mirnet_edge as me
from mirnet_edge.cuda import is_page_locked, open_device
from mirnet_edge.device.host_copies import HostCopies
from mirnet_edge.device.host_frames import RESULTS_LENT
from mirnet_edge.stream.frame_stream import FrameStream

# Buffers and results


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the CPU copied."""
    made: list[Any] = []
    copy = HostCopies.copy

    def noted(self: HostCopies, target: Any, source: Any) -> None:
        made.append(source)
        copy(self, target, source)

    monkeypatch.setattr(HostCopies, "copy", noted)
    return made


@pytest.mark.parametrize(("channels", "dtype"), [(0, np.uint8), (3, np.uint8), (4, np.float32)])
def test_buffers_are_copied_by_the_device_alone(
    channels: int,
    dtype: Any,
    write: Write,
    portable: Callable[..., me.Restorer],
    copies: list[Any],
) -> None:
    given = frame_of(37, 75, channels, dtype)
    with me.Restorer(write(), halo=8) as restore, portable(halo=8) as expected:
        buffers = restore.buffers(given.shape, dtype)
        assert (buffers.frame == 0).all()
        for array in (buffers.frame, buffers.restored):
            assert array.shape == given.shape
            assert is_page_locked(open_device(), array)
        buffers.frame[...] = given
        found = restore(buffers.frame, out=buffers.restored)
        assert found is buffers.restored
        assert copies == []
        assert_near(found, expected(given))
        np.testing.assert_array_equal(restore(given), found)
        assert len(copies) == 1, "an ordinary frame is copied to where the device can read it"


def test_parts_of_buffers(write: Write, copies: list[Any]) -> None:
    with me.Restorer(write(), halo=8) as restore:
        buffers = restore.buffers((2, 37, 75, 3))
        buffers.frame[...] = np.stack([frame_of(37, 75, seed=seed) for seed in range(2)])
        for index in range(2):
            restore(buffers.frame[index], out=buffers.restored[index])
        assert copies == []
        for index in range(2):
            expected = restore(frame_of(37, 75, seed=index))
            np.testing.assert_array_equal(buffers.restored[index], expected)
        copies.clear()
        restore(buffers.frame[0, :, 5:])  # rows with gaps between them
        assert len(copies) == 1


def test_results_come_without_a_second_copy(write: Write, gpu: FakeGpu) -> None:
    device = open_device()
    with me.Restorer(write(), halo=8) as restore:
        given = frame_of(37, 75)
        kept = [restore(given) for _ in range(RESULTS_LENT + 2)]
        locked = [is_page_locked(device, found) for found in kept]
        assert locked == [True] * RESULTS_LENT + [False] * 2
        for found in kept[1:]:
            np.testing.assert_array_equal(found, kept[0])
        where = {found.ctypes.data for found in kept[:RESULTS_LENT]}
        part = kept[0][3:9, 4:]  # a view of it keeps it
        copied = part.copy()
        del found
        kept.clear()
        gc.collect()
        again = [restore(frame_of(37, 75, seed=9)) for _ in range(RESULTS_LENT - 1)]
        assert {found.ctypes.data for found in again} < where
        np.testing.assert_array_equal(part, copied)
        assert (again[0] != 0).any()
        # Of another size: what was there is not hoarded.
        del again
        held = len(gpu.locked)
        restore(frame_of(20, 30))
        assert len(gpu.locked) <= held + 1
    last = part.sum()
    assert last == copied.sum(), "a result outlives its Restorer"


def test_results_where_nothing_can_be_locked(write: Write, gpu: FakeGpu) -> None:
    given = frame_of(37, 75)
    with me.Restorer(write(), halo=8, frame_size=(37, 75)) as restore:
        expected = restore(given).copy()
        gc.collect()
        restore._lanes[0].path._ends._host_results._free.clear()  # type: ignore[union-attr]
        gpu.broken["cuMemHostRegister"] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
        found = restore(given)
        assert not is_page_locked(open_device(), found)
        np.testing.assert_array_equal(found, expected)
        with pytest.raises(me.DeviceMemoryError, match="locking pages of the host: out of memory"):
            restore.buffers((37, 75, 3))
    assert not gpu.pages


def test_arrays_outlive_a_gpu_that_is_lost(write: Write, gpu: FakeGpu) -> None:
    """What the driver allocates would be gone, under arrays that callers hold."""
    given = frame_of(37, 75)
    with me.Restorer(write(), halo=8) as restore:
        buffers = restore.buffers(given.shape)
        buffers.frame[...] = given
        kept = restore(given)
        expected = kept.copy()
        gpu.lost = True
        with pytest.raises(me.DeviceError, match="illegal memory access"):
            restore(buffers.frame)
        restore.reopen()
        for known in (gpu.locked, gpu.pages):
            known.clear()  # with all that was on the device
        assert not is_page_locked(open_device(), kept)
        np.testing.assert_array_equal(kept, expected)
        for _ in range(2):  # into memory that is an ordinary array's now
            found = restore(buffers.frame, out=buffers.restored)
            np.testing.assert_array_equal(found, expected)


def test_all_pages_are_unlocked(write: Write, gpu: FakeGpu) -> None:
    with me.Restorer(write(), halo=8) as restore:
        buffers = restore.buffers((37, 75, 3))
        kept = [restore(buffers.frame) for _ in range(3)]
        part = kept.pop()[2:5]
        kept.clear()
        gc.collect()
        assert len(gpu.pages) == 5
    assert len(gpu.pages) == 3, "those that somebody holds"
    del buffers, part
    gc.collect()
    assert not gpu.pages
    assert not gpu.locked


def test_buffers_of_a_gpu_that_shares_memory(write: Write, gpu: FakeGpu) -> None:
    gpu.integrated = True
    given = frame_of(37, 75)
    with me.Restorer(write(), halo=8) as restore:
        buffers = restore.buffers(given.shape)
        buffers.frame[...] = given
        np.testing.assert_array_equal(restore(buffers.frame, out=buffers.restored), restore(given))
        assert not gpu.pages


def test_gray_with_alpha_is_put_together_on_the_host(
    write: Write, portable: Callable[..., me.Restorer]
) -> None:
    given = frame_of(37, 75, 2)
    with me.Restorer(write(), halo=8) as restore, portable(halo=8) as expected:
        buffers = restore.buffers(given.shape)
        buffers.frame[...] = given
        assert_near(restore(buffers.frame, out=buffers.restored), expected(given))
        assert_near(restore(given), expected(given))


def test_buffers_without_a_gpu(portable: Callable[..., me.Restorer]) -> None:
    with portable(halo=8) as restore:
        buffers = restore.buffers((37, 75, 3))
        assert buffers.restored.shape == (37, 75, 3)
        restore(buffers.frame, out=buffers.restored)


def test_buffers_that_cannot_be(write: Write) -> None:
    restore = me.Restorer(write(), halo=8)
    with restore, pytest.raises(me.FrameError, match="buffers of shape"):
        restore.buffers((37, 75, 3), "no dtype")
    with pytest.raises(me.EngineError, match="closed"):
        restore.buffers((37, 75, 3))


# Streams that keep frames young


def test_a_young_frame_is_restored_alone() -> None:
    path = Delayed(depth=4, delay_s=0.002)
    with FrameStream(path, (frame(value) for value in range(50)), latency="low") as stream:
        found = values(stream)
    assert path.most_in_flight == 1
    assert found == sorted(set(found))
    assert found[-1] == 98, "the newest is always delivered"
    done = stream.statistics()
    assert done.read == 50
    assert done.restored == len(found) == 50 - done.dropped
    assert done.latency_p50_ms is not None


def test_none_waits_for_the_caller() -> None:
    """A frame that is ready and not taken would grow old: the next one begins when it is taken."""
    begun: list[int] = []
    read_all = threading.Event()

    def source() -> Any:
        yield frame(0)
        assert taken.wait(5)
        for value in range(1, 6):
            yield frame(value)
            if value == 1:  # it is begun and ready before the next one is read
                assert eventually(lambda: begun == [0, 1])
        read_all.set()

    def restored(image: np.ndarray) -> np.ndarray:
        begun.append(int(image[0, 0, 0]))
        return doubled(image)

    taken = threading.Event()
    with FrameStream(OneByOne(restored), source(), latency="low") as stream:
        assert values([next(stream)]) == [0]
        taken.set()
        assert read_all.wait(5)
        assert begun == [0, 1], "another one was begun while one was ready"
        assert values(stream) == [2, 10]


def test_a_kind_of_latency_that_there_is_not() -> None:
    with pytest.raises(me.StreamError, match=r'latency=\'high\': need "throughput" or "low"'):
        FrameStream(OneByOne(doubled), [], latency="high")  # type: ignore[arg-type]


def test_a_restorer_hands_it_on(portable: Callable[..., me.Restorer]) -> None:
    frames = [frame_of(20, 30, seed=seed) for seed in range(3)]
    with portable(halo=4) as restore:
        expected = restore(frames[-1])
        *_, last = restore.stream(frames, latency="low")
        np.testing.assert_array_equal(last, expected)
