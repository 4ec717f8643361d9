"""Queues of work on the device: streams, marks in them, and graphs of what was queued once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mirnet_edge._imports import require
from mirnet_edge.cuda.device import Device, Owner
from mirnet_edge.errors import DeviceError, DeviceMemoryError, MissingDependencyError, first_line

DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING
OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: the default stream's work and ours do not wait in turn


class Stream(Owner):
    """A queue of work on the device, which waits for no other stream.

    Attributes:
        handle: the driver's ``CUstream`` as a number, for TensorRT.
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        with device.doing("making a stream"):
            self.native = device.driver.Stream(NON_BLOCKING)
        self.handle: int = self.native.handle
        self._opened()

    def synchronize(self) -> None:
        """Wait until all that was queued is done.

        Raises:
            DeviceError: some of it failed.
        """
        self._require_open()
        with self.device.doing("running what was queued on the GPU"):
            self.native.synchronize()

    def wait(self, event: Event) -> None:
        """Let what is queued from now on wait for ``event``."""
        self._require_open()
        with self.device.doing("waiting for an event"):
            self.native.wait_for_event(event.native)

    def wait_for_handle(self, handle: int) -> None:
        """Let what is queued from now on wait for what another library has queued on its stream.

        Args:
            handle: of that stream, a ``CUstream`` as a number; 1 is the default stream.
        """
        self._require_open()
        with self.device.doing("waiting for another library's stream"):
            try:
                api = _load_driver_api()
            except (MissingDependencyError, DeviceError):  # they are missing, or cannot be loaded
                self.device.driver.Context.synchronize()  # waits for more, and on the host
                return
            event = _call(api, self.device, "cuEventCreate", DISABLE_TIMING)
            try:
                _call(api, self.device, "cuEventRecord", event, api.CUstream(handle))
                _call(api, self.device, "cuStreamWaitEvent", api.CUstream(self.handle), event, 0)
            finally:
                _call(api, self.device, "cuEventDestroy", event)  # once it has happened

    def _release(self) -> None:
        self.native = None


class Event(Owner):
    """A mark in a stream that takes the time when the device reaches it."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        with device.doing("making an event"):
            self.native = device.driver.Event()
        self._opened()

    def record(self, stream: Stream) -> None:
        """Queue the mark."""
        self._require_open()
        with self.device.doing("recording an event"):
            self.native.record(stream.native)

    def synchronize(self) -> None:
        """Wait until the device has reached the mark."""
        self._require_open()
        with self.device.doing("running what was queued on the GPU"):
            self.native.synchronize()

    def elapsed_ms(self, start: Event) -> float:
        """Milliseconds since ``start``, both reached."""
        self._require_open()
        with self.device.doing("taking the time between two events"):
            return float(self.native.time_since(start.native))

    def _release(self) -> None:
        self.native = None


class Graph(Owner):
    """Work captured from a stream, to be launched again in one call.

    Shapes, addresses and kernels are those of the capture, in the relaxed mode: other threads may
    go on using the device meanwhile. Do the work once and synchronize first, so that nothing is
    loaded or allocated while it is captured.

    Args:
        stream: captured from.
        work: queues on ``stream``; nothing of it runs.

    Raises:
        MissingDependencyError: cuda-python's bindings (package cuda-bindings) are not installed.
        DeviceMemoryError: there is not enough memory for the graph.
        DeviceError: the driver cannot capture this work. The stream can be used as before.
    """

    def __init__(self, stream: Stream, work: Callable[[], object]) -> None:
        super().__init__(stream.device)
        self._api = _load_driver_api()
        with stream.device.doing("capturing a CUDA graph"):
            captured = self._capture(stream, work)
            try:
                self._executable = self._call("cuGraphInstantiate", captured, 0)
            finally:
                self._call("cuGraphDestroy", captured)
        self._opened()

    def launch(self, stream: Stream) -> None:
        """Queue all of it."""
        self._require_open()
        with self.device.doing("launching a CUDA graph"):
            self._call("cuGraphLaunch", self._executable, self._api.CUstream(stream.handle))

    def _capture(self, stream: Stream, work: Callable[[], object]) -> Any:
        handle = self._api.CUstream(stream.handle)
        relaxed = self._api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        self._call("cuStreamBeginCapture", handle, relaxed)
        try:
            work()
        except BaseException:
            with suppress(DeviceError):  # what work raised says more
                self._call("cuGraphDestroy", self._call("cuStreamEndCapture", handle))
            raise
        return self._call("cuStreamEndCapture", handle)

    def _call(self, function: str, *arguments: Any) -> Any:
        return _call(self._api, self.device, function, *arguments)

    def _release(self) -> None:
        self._call("cuGraphExecDestroy", self._executable)


def _call(api: Any, device: Device, function: str, *arguments: Any) -> Any:
    """A function of cuda-python's driver bindings, and its result if it has one.

    Raises:
        DeviceMemoryError: there is not enough memory for it.
        DeviceError: it failed, or the driver has no such function.
    """
    try:
        code, *results = getattr(api, function)(*arguments)
    except RuntimeError as error:  # the driver has no such function
        raise DeviceError(
            f"{function} failed: {first_line(error)}; install the cuda-bindings of the CUDA "
            f"that this driver runs, {device.facts.driver_version}"
        ) from error
    if int(code) != 0:
        kind = DeviceMemoryError if int(code) == OUT_OF_MEMORY else DeviceError
        raise kind(f"{function} failed: {getattr(code, 'name', code)} ({int(code)})")
    return results[0] if results else None


def _load_driver_api() -> Any:
    """cuda-python's driver bindings, under their name since 12.6 or the one before."""
    purpose = "capturing CUDA graphs"
    try:
        try:
            return require("cuda.bindings.driver", purpose)
        except MissingDependencyError:
            return require("cuda.cuda", purpose)
    except ImportError as error:
        raise DeviceError(f"cuda-bindings cannot be loaded: {first_line(error)}") from error
