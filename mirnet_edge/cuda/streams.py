"""Queues of work on the device: streams, marks in them, and graphs of what was queued once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mirnet_edge.cuda.device import Device, Owner
from mirnet_edge.errors import DeviceError

# Of cuda.h: CU_EVENT_DISABLE_TIMING, CU_STREAM_NON_BLOCKING, CU_STREAM_CAPTURE_MODE_RELAXED.
DISABLE_TIMING, NON_BLOCKING, RELAXED = 2, 1, 2


class _Awaited(Owner):
    """Has an object of pycuda's, which frees it when nothing refers to it any more."""

    native: Any = None

    def synchronize(self) -> None:
        """Wait until the device has done all that was queued, or has reached the mark. A
        `DeviceError` says that some of it failed."""
        with self._doing("running what was queued on the GPU"):
            self.native.synchronize()

    def _release(self) -> None:
        self.native = None


class Stream(_Awaited):
    """A queue of work on the device, which waits for no other stream. Its `handle` is the driver's
    ``CUstream`` as a number, for TensorRT."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        with self._making(), device.doing("making a stream"):
            # The default stream's work and ours would wait in turn, were this a blocking one.
            self.native = device.driver.Stream(NON_BLOCKING)
            self.handle: int = self.native.handle

    def wait(self, event: Event) -> None:
        """Let what is queued from now on wait for ``event``."""
        with self._doing("waiting for an event"):
            self.native.wait_for_event(event.native)

    def wait_for_handle(self, handle: int) -> None:
        """Let what is queued from now on wait for what another library has queued on its stream,
        whose ``CUstream`` is ``handle``; 1 is the default stream."""
        library = self.device.library
        with self._doing("waiting for another library's stream"):
            event = library.make("cuEventCreate", DISABLE_TIMING)
            try:
                library.call("cuEventRecord", event, ctypes.c_void_p(handle))
                library.call("cuStreamWaitEvent", ctypes.c_void_p(self.handle), event, 0)
            finally:
                # The driver keeps it until it has happened.
                library.call("cuEventDestroy_v2", event)


class Event(_Awaited):
    """A mark in a stream that takes the time when the device reaches it."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        with self._making(), device.doing("making an event"):
            self.native = device.driver.Event()

    def record(self, stream: Stream) -> None:
        """Queue the mark."""
        with self._doing("recording an event"):
            self.native.record(stream.native)

    def elapsed_ms(self, start: Event) -> float:
        """Take the milliseconds since ``start``, both reached."""
        with self._doing("taking the time between two events"):
            return float(self.native.time_since(start.native))


class Graph(Owner):
    """Work captured from a stream, to be launched again in one call: ``work`` queues on ``stream``,
    and nothing of it runs.

    Shapes, addresses and kernels are those of the capture, in the relaxed mode: other threads may
    go on using the device meanwhile. Do the work once and synchronize first, so that nothing is
    loaded or allocated while it is captured.

    Raises:
        DeviceMemoryError: there is not enough memory for the graph.
        DeviceError: the driver cannot capture this work. The stream can be used as before.
    """

    def __init__(self, stream: Stream, work: Callable[[], object]) -> None:
        super().__init__(stream.device)
        library = self.device.library
        with self._making(), self.device.doing("capturing a CUDA graph"):
            captured = self._capture(stream, work)
            try:
                no_flags = ctypes.c_ulonglong(0)
                graph = library.make("cuGraphInstantiateWithFlags", captured, no_flags)
                self._owned.callback(library.call, "cuGraphExecDestroy", graph)
            finally:
                library.call("cuGraphDestroy", captured)
        self._graph = graph

    def launch(self, stream: Stream) -> None:
        """Queue all of it."""
        with self._doing("launching a CUDA graph"):
            queue = ctypes.c_void_p(stream.handle)
            self.device.library.call("cuGraphLaunch", self._graph, queue)

    def _capture(self, stream: Stream, work: Callable[[], object]) -> ctypes.c_void_p:
        """Make the graph of the work, to be destroyed once it is instantiated."""
        call = self.device.library.call
        queue, graph = ctypes.c_void_p(stream.handle), ctypes.c_void_p()
        call("cuStreamBeginCapture_v2", queue, RELAXED)
        try:
            work()
        except BaseException:
            # A capture that is left open would refuse everything the stream is asked from now on.
            with suppress(DeviceError):  # what work raised says more
                call("cuStreamEndCapture", queue, ctypes.byref(graph))
                call("cuGraphDestroy", graph)
            raise
        call("cuStreamEndCapture", queue, ctypes.byref(graph))
        return graph
