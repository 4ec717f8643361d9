"""The driver on a real GPU, through whatever there is: pycuda, or ctypes alone."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
import pytest
import torch

import mirnet_edge as me
from mirnet_edge.cuda import (
    DeviceBuffer,
    Event,
    Graph,
    LockedPages,
    PinnedBuffer,
    Stream,
    is_page_locked,
    open_device,
)

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


def test_the_driver_copies_times_and_captures() -> None:
    device = open_device()
    print(f"\n{device.facts}, by {getattr(device.driver, '__name__', 'ctypes')}")
    source = np.random.default_rng(0).integers(0, 256, (1 << 20,), np.uint8)
    with (
        Stream(device) as stream,
        DeviceBuffer(device, source.nbytes) as memory,
        DeviceBuffer(device, source.nbytes) as other,
        PinnedBuffer(device, source.shape, np.uint8) as pinned,
        Event(device) as start,
        Event(device) as end,
    ):
        start.record(stream)
        memory.upload(source, stream=stream)
        other.fill(7, stream=stream)
        stream.synchronize()
        copied = Graph(stream, lambda: other.copy_from(memory.address, 1000, stream=stream))
        copied.launch(stream)
        other.download(pinned.array, stream=stream)
        end.record(stream)
        stream.synchronize()
        copied.close()
        np.testing.assert_array_equal(pinned.array[:1000], source[:1000])
        assert (pinned.array[1000:] == 7).all()
        assert 0 < end.elapsed_ms(start) < 1000
    free, total = device.memory()
    assert 0 < free < total


def test_a_thread_that_ends_leaves_no_context() -> None:
    found: list[Any] = []

    def work() -> None:
        device = open_device()
        with Stream(device) as stream, DeviceBuffer(device, 64) as memory:
            array = np.arange(64, dtype=np.uint8)
            memory.upload(array, stream=stream)
            back = np.empty_like(array)
            memory.download(back, stream=stream)
            stream.synchronize()
        found.append(back)
        found.append(float(torch.ones(4, device="cuda").sum()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], np.arange(64))
    assert found[1] == 4


def test_memory_that_is_not_there() -> None:
    with pytest.raises(me.DeviceMemoryError, match="out of memory"):
        DeviceBuffer(open_device(), 1 << 42)


def test_pages_are_locked_where_they_are() -> None:
    device = open_device()
    source = np.random.default_rng(0).integers(0, 256, (1 << 20,), np.uint8)
    pages = LockedPages(device, source.shape, np.uint8)
    array = pages.lend(LockedPages.close)
    memory = (ctypes.c_ubyte * array.nbytes).from_address(array.ctypes.data)
    unknown = np.frombuffer(memory, np.uint8)  # of which only the driver knows
    assert is_page_locked(device, array[5:])
    assert is_page_locked(device, unknown[5:]), "the driver does not say"
    with Stream(device) as stream, DeviceBuffer(device, source.nbytes) as there:
        there.upload(source, stream=stream)
        there.download(array, stream=stream)
        stream.synchronize()
        np.testing.assert_array_equal(array, source)
    pages.close()
    assert not is_page_locked(device, array)
    np.testing.assert_array_equal(array, source)
