"""Memory of the device and of the host, and the pair of both that an engine reads and writes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mirnet_edge.cuda.device import Device, Owner
from mirnet_edge.cuda.streams import Stream
from mirnet_edge.errors import DeviceError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray


class DeviceBuffer(Owner):
    """Memory of the device; its `address` is the driver's ``CUdeviceptr``."""

    def __init__(self, device: Device, size_bytes: int) -> None:
        super().__init__(device)
        with self._making(), device.doing("allocating GPU memory", size_bytes):
            allocation = device.driver.mem_alloc(size_bytes)
            self._owned.callback(allocation.free)
        self.address, self.size_bytes = int(allocation), size_bytes

    def upload(self, source: NDArray[Any], *, stream: Stream) -> None:
        """Queue a copy of a whole C-contiguous array to the start of this memory. It is
        asynchronous if the array is pinned; it must live, unchanged, until the copy is done."""
        self._check(source)
        with self._doing(f"copying {source.nbytes:,} bytes to the GPU"):
            self.device.driver.memcpy_htod_async(self.address, source, stream.native)

    def download(self, target: NDArray[Any], *, stream: Stream) -> None:
        """Queue a copy of the start of this memory into a whole array; see `upload`."""
        self._check(target)
        with self._doing(f"copying {target.nbytes:,} bytes from the GPU"):
            self.device.driver.memcpy_dtoh_async(target, self.address, stream.native)

    def fill(self, byte: int, *, stream: Stream, start: int = 0) -> None:
        """Queue the setting of each byte of this memory, from ``start`` on, to ``byte``, 0 to
        255."""
        size_bytes = self.size_bytes - start
        with self._doing(f"filling {size_bytes:,} bytes of GPU memory"):
            address, native = self.address + start, stream.native
            self.device.driver.memset_d8_async(address, byte, size_bytes, native)

    def copy_from(self, address: int, size_bytes: int, *, stream: Stream) -> None:
        """Queue a copy of other memory of the device to the start of this; the two may not
        overlap."""
        if size_bytes > self.size_bytes:
            raise DeviceError(
                f"{size_bytes:,} bytes cannot be copied to a buffer of {self.size_bytes:,}; copy "
                "what fits, or make a larger one"
            )
        with self._doing(f"copying {size_bytes:,} bytes on the GPU"):
            self.device.driver.memcpy_dtod_async(self.address, address, size_bytes, stream.native)

    def _check(self, array: NDArray[Any]) -> None:
        if array.nbytes > self.size_bytes or not array.flags.c_contiguous:
            raise DeviceError(
                f"an array of {array.nbytes:,} bytes, strides {array.strides}, cannot be copied to "
                f"or from a buffer of {self.size_bytes:,}; need a C-contiguous one that fits"
            )


class PinnedBuffer(Owner):
    """A page-locked array of the host, which the device copies without waiting for the CPU, and
    reads and writes in place where it is ``mapped``.

    The memory is freed once no view of `array` is left, so keep none beyond `close`.
    """

    def __init__(
        self, device: Device, shape: tuple[int, ...], dtype: DTypeLike, mapped: bool = False
    ) -> None:
        # Here, because doctor asks this package's driver where numpy may be what is missing.
        import numpy as np

        super().__init__(device)
        item = np.dtype(dtype)
        flags = device.driver.host_alloc_flags.DEVICEMAP if mapped else 0
        size_bytes = math.prod(shape) * item.itemsize
        with self._making(), device.doing("allocating page-locked memory", size_bytes):
            self._array: NDArray[Any] = device.driver.pagelocked_empty(shape, item, mem_flags=flags)

    @property
    def array(self) -> NDArray[Any]:
        """The memory, of the shape and dtype asked for; its first contents are arbitrary."""
        self._require_open()
        return self._array

    def _release(self) -> None:
        self.__dict__.pop("_array", None)  # there is none where allocating failed


class MirroredBuffer(Owner):
    """A page-locked array and device memory of the same size, at `address`. On an integrated GPU
    both are one, and nothing is copied. `dtype` is as numpy spells it."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        super().__init__(device)
        shared = device.facts.integrated
        self._memory: DeviceBuffer | None = None
        with self._making():
            self._host = self._own(PinnedBuffer(device, shape, dtype, mapped=shared))
            self.shape, self.dtype = shape, str(self.array.dtype)
            self.size_bytes = self.array.nbytes
            if shared:
                with device.doing("mapping page-locked memory"):
                    address = self.array.base.get_device_pointer()  # type: ignore[union-attr]
                    self.address = int(address)
            else:
                self._memory = self._own(DeviceBuffer(device, self.size_bytes))
                self.address = self._memory.address

    @property
    def array(self) -> NDArray[Any]:
        """The host's side; see `PinnedBuffer.array`."""
        return self._host.array

    @property
    def mirrors(self) -> bool:
        """Whether both are two, and something is copied."""
        return self._memory is not None

    def upload(self, *, stream: Stream, source: NDArray[Any] | None = None) -> None:
        """Queue the copy to the device; leave `array` as it is until ``stream`` has done it. Where
        it `mirrors`, ``source`` may be another page-locked array of its shape."""
        self._require_open()
        if self._memory is not None:
            self._memory.upload(self._host.array if source is None else source, stream=stream)

    def download(self, *, stream: Stream, target: NDArray[Any] | None = None) -> None:
        """Queue the copy from the device; `array`, or another page-locked ``target`` where it
        `mirrors`, has it once ``stream`` is synchronized."""
        self._require_open()
        if self._memory is not None:
            self._memory.download(self._host.array if target is None else target, stream=stream)
