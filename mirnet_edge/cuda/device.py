"""One GPU, the errors of its driver, and how what lives on it is owned."""

from __future__ import annotations

import functools
import gc
import itertools
import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from types import ModuleType
from typing import Any, TypeVar

from mirnet_edge._imports import require
from mirnet_edge.cuda.driver import NO_DEVICE, Driver, DriverMemoryError, start_driver
from mirnet_edge.cuda.native import NativeDriver
from mirnet_edge.deadline import something_hangs
from mirnet_edge.errors import (
    DeviceError,
    DeviceLostError,
    DeviceMemoryError,
    MissingDependencyError,
    first_line,
)

WITHOUT_GPU = "models run on the CPU as .onnx files; mirnet-edge doctor shows what is missing"
NO_DRIVER = f"no NVIDIA driver (libcuda.so.1) on this machine; {WITHOUT_GPU}"
NO_GPU = f"the NVIDIA driver reports no GPU; {WITHOUT_GPU}"

PROBE_BYTES = 256

Owned = TypeVar("Owned", bound="Owner")


class Device:
    """One GPU, what it is (`facts`), and its primary context; made by `open_device`.

    Attributes:
        shared_with: libraries that work in the context for us, and cannot go on after a reset.
    """

    def __init__(self, index: int) -> None:
        self.shared_with: set[str] = set()
        pycuda = _load_pycuda()
        self.library = _load_library()
        # For this package alone, like the library.
        self.driver: Any = pycuda or NativeDriver(self.library)
        count = self.library.device_count()
        if not count:
            raise DeviceError(NO_GPU)
        if not 0 <= index < count:
            raise DeviceError(
                f"GPU {index} was asked for, but the NVIDIA driver reports {count}, counted "
                "from 0; CUDA_VISIBLE_DEVICES may hide some"
            )
        self.facts = self.library.facts(index)
        try:
            self.driver.init()
            # Kept until the process ends: pycuda leaves a context that it lets go of current.
            self._context = self.driver.Device(index).retain_primary_context()
        except Exception as error:
            _raise_translated(error, self.driver, f"opening {self.facts.name}")
            raise

    def current(self) -> AbstractContextManager[None]:
        """Make the context the calling thread's for a block; blocks may be nested, and then cost
        next to nothing."""
        return _Current(self)

    def doing(self, what: str, size_bytes: int = 0) -> AbstractContextManager[None]:
        """Call the driver in a block: the context current, errors translated, with ``what`` failed
        and ``size_bytes`` of memory asked for.

        Raises:
            DeviceMemoryError: the driver reports that there is no more memory.
            DeviceError: it reports another error in the block.
        """
        return _Doing(self, what, size_bytes)

    def memory(self) -> tuple[int, int]:
        """Ask how many bytes of memory are free, and there in all."""
        with self.doing("asking for free memory"):
            free, total = self.driver.mem_get_info()
            return int(free), int(total)


class _Thread(threading.local):
    """Of each thread the devices whose contexts its blocks made current, the innermost last."""

    def __init__(self) -> None:
        self.entered: list[Device] = []


_devices: dict[int, Device] = {}
_devices_guard = threading.Lock()
_reviving = threading.Lock()
_thread = _Thread()


class _Current:
    """A block of `Device.current`. A class, as a frame enters some forty such blocks, and one
    made of a generator takes three times as long."""

    __slots__ = ("_device", "_pushed")

    def __init__(self, device: Device) -> None:
        self._device, self._pushed = device, False

    def __enter__(self) -> None:
        device, entered = self._device, _thread.entered
        if entered and entered[-1] is device:
            return
        try:
            device._context.push()
        except Exception as error:
            what = f"making the context of {device.facts.name} current"
            _raise_translated(error, device.driver, what)
            raise
        entered.append(device)
        self._pushed = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if self._pushed:
            _thread.entered.pop()
            self._device.driver.Context.pop()


class _Doing(_Current):
    """A block of `Device.doing`."""

    __slots__ = ("_size_bytes", "_what")

    def __init__(self, device: Device, what: str, size_bytes: int) -> None:
        super().__init__(device)
        self._what, self._size_bytes = what, size_bytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> None:
        try:
            if error is not None:
                _raise_translated(error, self._device.driver, self._what, self._size_bytes)
        finally:
            super().__exit__(kind, error, traceback)


def open_device(index: int = 0) -> Device:
    """Open the GPU of that index; the same object each time, for as long as the process lives.

    Raises:
        DeviceError: no driver, or no such GPU.
    """
    with _devices_guard:
        if index not in _devices:
            _devices[index] = Device(index)
            _close_at_exit()
        return _devices[index]


def revive(device: Device) -> None:
    """Where a GPU is lost to this process, as after a kernel that wrote where it must not, and
    every call fails: let go of all that was on it, reset it, and open it anew. What other libraries
    had in its primary context goes too. One that answers is left alone.

    Raises:
        DeviceLostError: the driver does not give it back to this process, as that of an H100 does
            not after an illegal access of memory; or it is `shared_with` a library.
    """
    with _reviving:
        # Of engines on one GPU the first makes it anew; another reset would take that away.
        if _devices.get(device.facts.index) is device:
            _revive(device)


def _revive(device: Device) -> None:
    """`revive`, of one that nobody else revives."""
    try:
        with device.doing("looking whether the GPU answers"):
            device.driver.mem_alloc(PROBE_BYTES).free()
        return
    except DeviceMemoryError:
        return
    except DeviceError as error:
        lost = error
    if device.shared_with:
        # They keep handles and memory for as long as the process lives, and would use them.
        raise DeviceLostError(
            f"{lost}. It cannot be reset in this process, where {' and '.join(device.shared_with)} "
            "works on it too; start the process again"
        ) from lost
    # All must be gone before the reset: what is freed later would be freed in the new context,
    # where the same addresses may be something else.
    with suppress(DeviceError), device.current():
        _close_owners(device)
        gc.collect()
    with suppress(Exception):
        device._context.detach()
    try:
        device.library.reset(device.facts.index)
        again = Device(device.facts.index)
    except DeviceError as error:
        # What CUDA says of a kernel that wrote where it must not: the process has to end.
        reasons = [first_line(each.__cause__ or each) for each in (lost, error)]
        raise DeviceLostError(
            f"{device.facts.name} is lost to this process: {reasons[0]}; it was reset and does not "
            f"come back: {reasons[1]}. Start the process again, and look for 'Xid' in dmesg"
        ) from error
    with _devices_guard:
        _devices[device.facts.index] = again


class Owner:
    """Owns something on a `device` and gives it back once: at `close`, at the end of a with block,
    when nothing refers to it any more, or when the process ends, newest first.

    A subclass makes its parts inside `_making` and hands each to `_own`, or registers what frees it
    as a callback of `_owned`.
    """

    _closed = True  # until there is something: __del__ also runs on what __init__ left half made

    def __init__(self, device: Device) -> None:
        self.device = device
        self._owned = ExitStack()

    @property
    def closed(self) -> bool:
        """Whether it was given back."""
        return self._closed

    def _opened(self) -> None:
        """Say that there is something to give back."""
        self._closed = False
        _owners[next(_numbers)] = self

    def _require_open(self) -> None:
        if self._closed:
            raise DeviceError(f"this {type(self).__name__} is closed; make a new one")

    def _doing(self, what: str) -> AbstractContextManager[None]:
        """Call the driver in a block, while this is open; see `Device.doing`."""
        self._require_open()
        return self.device.doing(what)

    @contextmanager
    def _making(self) -> Iterator[None]:
        """Make the parts in a block. Where it fails, those made so far are given back."""
        self._opened()
        try:
            yield
        except BaseException:
            with suppress(DeviceError):  # what failed first says more
                self.close()
            raise

    def _own(self, part: Owned) -> Owned:
        """Take a part over, to be closed with this and before all that was owned earlier."""
        self._owned.enter_context(part)
        return part

    def _release(self) -> None:
        """Give back what is owned, newest first; called once, with the context current."""
        self._owned.close()

    def close(self) -> None:
        """Give back what is owned. A second call does nothing.

        Raises:
            DeviceError: the driver reports an error, which may be an earlier one.
        """
        if not self._closed:
            self._closed = True
            with self.device.doing(f"freeing a {type(self).__name__}"):
                self._release()

    def __enter__(self: Owned) -> Owned:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):  # nobody could catch it
            self.close()


_owners: weakref.WeakValueDictionary[int, Owner] = weakref.WeakValueDictionary()
_numbers = itertools.count()


@functools.cache
def _close_at_exit() -> None:
    """Close all while the interpreter is whole: later, modules and the driver are half gone."""
    # Finalizers run newest first, so streams on a device, whose own are made after it was opened,
    # end before; an atexit hook would run before them all if anything had used weakref.finalize
    # earlier. The class lives as long as the process.
    weakref.finalize(Device, _close_all)


def _close_all() -> None:
    if something_hangs():
        return  # it would be waited for, for ever; the driver frees what a process had
    for device in _devices.values():
        _close_owners(device)
    for device in _devices.values():
        with suppress(Exception):
            # pycuda's destructor would release it as if it were no primary one, and warn (2026.1).
            device._context.detach()


def _close_owners(device: Device) -> None:
    """Close what lives on a GPU, newest first, whatever fails."""
    for _, owner in sorted(_owners.items(), reverse=True, key=lambda item: item[0]):
        if owner.device is device:
            with suppress(Exception):
                owner.close()


def _load_pycuda() -> ModuleType | None:
    """Import pycuda's driver; None where it is not installed, and ctypes does in its place."""
    try:
        pycuda: ModuleType = require("pycuda.driver", "using the GPU")
        return pycuda
    except MissingDependencyError:
        return None
    except ImportError as error:
        if "libcuda" in str(error):
            raise DeviceError(NO_DRIVER) from error
        raise DeviceError(
            f"pycuda is installed but cannot be loaded ({first_line(error)}); build it again for "
            "this CUDA: pip install --force-reinstall --no-binary pycuda --no-cache-dir pycuda"
        ) from error


def _load_library() -> Driver:
    try:
        driver = start_driver()
    except DeviceError as error:
        if NO_DEVICE in str(error):
            raise DeviceError(NO_GPU) from error
        raise DeviceError(f"the NVIDIA driver does not start: {error}; {WITHOUT_GPU}") from error
    if driver is None:
        raise DeviceError(NO_DRIVER)
    return driver


def _raise_translated(error: BaseException, driver: Any, what: str, size_bytes: int = 0) -> None:
    """The one gate through which the driver's errors pass; returns where it is another's."""
    if isinstance(error, (driver.MemoryError, DriverMemoryError)):
        numbers = f" ({error})" if isinstance(error, DriverMemoryError) else ""
        numbers += f", {size_bytes:,} bytes asked for" if size_bytes else ""
        with suppress(Exception):  # on top of an error that lost the device
            free, total = driver.mem_get_info()
            numbers += f", {free:,} of {total:,} free"
        raise DeviceMemoryError(
            f"{what}: out of memory{numbers}; close other engines and programs, or take a smaller "
            "tile or batch"
        ) from error
    if isinstance(error, driver.Error):
        raise DeviceError(
            f"{what}: {first_line(error)}; if every call now fails the device is lost: call "
            "Restorer.reopen(), or start the process again, and look for 'Xid' in dmesg"
        ) from error
