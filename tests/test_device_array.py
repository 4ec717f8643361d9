"""Our results are taken by other libraries, and live as long as any of them holds one."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest
import torch
from foreign_arrays import DTYPES, pixels
from numpy.typing import NDArray

from mirnet_edge.device import dlpack
from mirnet_edge.device.device_array import DeviceArray, Lease
from mirnet_edge.device.foreign import ForeignArray, describe
from mirnet_edge.errors import FrameError


class Memory:
    """Memory of the host in the place of a device's."""

    def __init__(self, source: NDArray[Any]) -> None:
        self.source, self.address, self.closed = source, source.ctypes.data, 0

    def close(self) -> None:
        self.closed += 1


class HostArray(DeviceArray):
    """Says that it lies on the host, where its memory does, so that libraries can look into it."""

    _kind = dlpack.CPU
    __cuda_array_interface__ = None  # type: ignore[assignment]


def result(memory: Memory, made: type[DeviceArray] = HostArray, index: int = 0) -> DeviceArray:
    def download(target: NDArray[Any]) -> None:
        ctypes.memmove(target.ctypes.data, memory.address, target.nbytes)

    lease = Lease(memory.address, memory.close)
    return made(lease, memory.source.shape, memory.source.dtype, download, index=index)


CONSUMERS = [np.from_dlpack, torch.from_dlpack, describe]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 1), (7, 1, 4), (11,)])
@pytest.mark.parametrize("take", CONSUMERS)
def test_results_are_shared(take: Any, shape: tuple[int, ...], dtype: Any) -> None:
    memory = Memory(pixels(shape, dtype))
    taken = take(result(memory))
    taken = taken.host if isinstance(taken, ForeignArray) else taken
    assert tuple(taken.shape) == shape
    view = np.asarray(taken)
    assert (view.dtype, view.ctypes.data) == (dtype, memory.address)
    np.testing.assert_array_equal(view, memory.source)
    if take is np.from_dlpack:  # read-only where a capsule cannot say that it is not
        memory.source[...] = 9
    else:
        taken[...] = 9
    np.testing.assert_array_equal(memory.source, np.asarray(taken))
    assert (memory.source == 9).all()


@pytest.mark.parametrize("take", CONSUMERS)
def test_memory_is_closed_once_when_the_last_has_let_go(take: Any) -> None:
    memory = Memory(pixels((5, 7, 3)))
    mine = result(memory)
    first, second = take(mine), take(mine)
    mine.close()
    mine.close()
    del first
    gc.collect()
    assert memory.closed == 0
    del second
    assert memory.closed == 1
    with pytest.raises(FrameError, match="this DeviceArray is closed"):
        take(mine)
    del mine
    gc.collect()
    assert memory.closed == 1


def test_a_view_alone_keeps_the_memory() -> None:
    memory = Memory(pixels((5, 7, 3)))
    view = torch.from_dlpack(result(memory))[1:3].numpy()[0]
    gc.collect()
    assert memory.closed == 0
    del view
    assert memory.closed == 1


def test_memory_without_consumers_is_closed() -> None:
    memories = [Memory(pixels((5, 7))) for _ in range(2)]
    with result(memories[0]) as first:
        first.__dlpack__()  # dropped, not consumed
        assert memories[0].closed == 0
    assert memories[0].closed == 1
    second = result(memories[1])
    capsule = second.__dlpack__()
    del second
    assert memories[1].closed == 0
    del capsule
    assert memories[1].closed == 1


def test_a_capsule_dropped_while_an_exception_passes() -> None:
    memory = Memory(pixels((5, 7)))
    with pytest.raises(TypeError, match="int"):
        int(result(memory).__dlpack__())
    gc.collect()
    assert memory.closed == 1


def test_errors_of_closing_are_nobodys() -> None:
    class Lost(Memory):
        def close(self) -> None:
            super().close()
            raise OSError("the device is gone")

    memory = Lost(pixels((5, 7)))
    result(memory).close()
    assert memory.closed == 1


def test_results_of_a_device_say_where_they_are() -> None:
    memory = Memory(pixels((5, 7, 3), np.float32))
    mine = result(memory, DeviceArray, index=2)
    assert mine.__dlpack_device__() == (2, 2)
    assert mine.size_bytes == 5 * 7 * 3 * 4
    assert mine.__cuda_array_interface__ == {
        "version": 3,
        "shape": (5, 7, 3),
        "typestr": "<f4",
        "data": (memory.address, False),
        "strides": None,
        "stream": None,
    }
    found = dlpack.parse(mine.__dlpack__())
    assert (found.device, found.address) == ((2, 2), memory.address)
    ours = describe(mine)
    assert (ours.host, ours.device_index, ours.address) == (None, 2, memory.address)


def test_no_consumer_waits_for_a_result_that_is_whole() -> None:
    mine = result(Memory(pixels((5, 7))), DeviceArray)
    assert mine.__cuda_array_interface__["stream"] is None
    for stream in (None, 1, 2, 77, -1):
        assert dlpack.parse(mine.__dlpack__(stream=stream)).address == mine.address


def test_no_other_device_and_no_copies() -> None:
    mine = result(Memory(pixels((5, 7))), DeviceArray)
    mine.__dlpack__(dl_device=(2, 0), copy=False, max_version=(1, 0))
    for request in ({"dl_device": (1, 0)}, {"copy": True}):
        with pytest.raises(BufferError, match=r"on DLPack device \(2, 0\) .*copy_to_host"):
            mine.__dlpack__(**request)


def test_copies_to_the_host() -> None:
    memory = Memory(pixels((5, 7, 3), np.uint16))
    mine = result(memory)
    copy = mine.copy_to_host()
    np.testing.assert_array_equal(copy, memory.source)
    assert not np.may_share_memory(copy, memory.source)
    out = np.zeros_like(copy)
    assert mine.copy_to_host(out) is out
    np.testing.assert_array_equal(out, memory.source)
    frozen = np.zeros_like(copy)
    frozen.flags.writeable = False
    for wrong in (out[:4], out.astype(np.uint8), np.asfortranarray(out), frozen):
        with pytest.raises(FrameError, match=r"need a writable, C-contiguous uint16 \(5, 7, 3\)"):
            mine.copy_to_host(wrong)
    mine.close()
    with pytest.raises(FrameError, match="closed"):
        mine.copy_to_host()
