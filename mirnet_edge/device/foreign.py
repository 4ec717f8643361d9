"""Arrays of other libraries, in memory of the host or of a GPU: where they lie and what they hold.

    numpy.ndarray                                        host
    __cuda_array_interface__, version 3 or 2             CuPy, PyCUDA, Numba, PyTorch
    __dlpack__ and __dlpack_device__                     PyTorch, JAX, CuPy, CV-CUDA; either place
    __array_interface__, buffers                         Pillow, memoryview, bytes, array.array

None of those libraries is imported, and no memory is copied. The protocols are those of DLPack
(`dlpack`) and Numba's description of the CUDA array interface.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.device.dlpack import CPU, CUDA, CUDA_HOST, ON_DEVICE, Exporter, numpy_at, parse
from mirnet_edge.errors import FrameError, first_line
from mirnet_edge.frames.layout import MAXIMUM, require_unmasked

LEGACY_STREAM = 1  # the default stream, as both protocols and the driver's CU_STREAM_LEGACY say it
T = TypeVar("T")
ACCEPTED = (
    "a numpy array, or an object with __cuda_array_interface__ (CuPy, PyCUDA, Numba), __dlpack__ "
    "(PyTorch, JAX), __array_interface__ (Pillow) or the buffer protocol"
)


@dataclass(frozen=True, eq=False)
class ForeignArray:
    """Where an array lies and what it holds; made by `describe`.

    Attributes:
        strides: in bytes; those of a dimension of size 1 may be anything.
        dtype: uint8, uint16 or float32.
        address: of the first element, on the device or the host.
        owner: keeps the memory alive.
        host: the same memory as a numpy array; None where a kernel, and not the CPU, can read it.
        device_index: of its GPU; None on the host, or where the array does not say.
        stream: handle of the CUDA stream whose work must be waited for; None if there is none.

    Raises:
        FrameError: empty, of another dtype, or without memory.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    address: int
    read_only: bool
    owner: object = field(repr=False)
    host: NDArray[Any] | None = field(default=None, repr=False)
    device_index: int | None = None
    stream: int | None = None

    def __post_init__(self) -> None:
        shape, dtype = self.shape, self.dtype
        if 0 in shape:
            raise FrameError(f"array of shape {shape} has no pixels")
        if dtype not in MAXIMUM:
            wanted = ", ".join(map(str, MAXIMUM))
            raise FrameError(
                f"array of {dtype}, shape {shape}: need one of {wanted}; convert it first"
            )
        if not self.address:
            raise FrameError(f"array of shape {shape} has no memory; was it closed or freed?")


def describe(array: object, *, stream: int | None = None) -> ForeignArray:
    """Find out what an array of any library is; nothing is copied.

    Args:
        array: see the list above.
        stream: handle of the CUDA stream that will read it. A DLPack producer lets that stream wait
            for its own work. None stands for the default stream.

    Raises:
        FrameError: none of those, empty, masked, of another dtype or on another kind of device.
    """
    if isinstance(array, np.ndarray):
        require_unmasked(array)
        return _of_numpy(array, array)
    name = f"a {type(array).__module__}.{type(array).__qualname__}"
    interface = _asked(
        lambda: getattr(array, "__cuda_array_interface__", None),
        f"{name} cannot be used as a frame",
    )
    dlpack = hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__")
    # Version 2 has no stream. PyTorch writes it, and with DLPack it orders its work as well.
    old = isinstance(interface, dict) and interface.get("version", 0) < 3
    if interface is not None and not (dlpack and old):
        return _of_interface(array, interface)
    if dlpack:
        return _of_dlpack(cast("Exporter", array), stream)
    try:
        whole = array if hasattr(array, "__array_interface__") else memoryview(array)  # type: ignore[arg-type]
        return _of_numpy(np.asarray(whole), array)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise FrameError(f"{name} is no frame: give {ACCEPTED}") from error


def require_device(foreign: ForeignArray, index: int) -> None:
    """Check that the array is not on another GPU than that, as far as it says where it is."""
    if foreign.device_index not in (None, index):
        raise FrameError(
            f"the array is on GPU {foreign.device_index} and the engine on GPU {index}; copy it "
            "there, or open the engine where the array is"
        )


def require_writable(foreign: ForeignArray) -> None:
    """Check that the array is not read-only, and that no two of its elements share memory."""
    if foreign.read_only:
        raise FrameError(f"the output of shape {foreign.shape} is read-only; give a writable array")
    extents = sorted(
        (abs(stride), size) for stride, size in zip(foreign.strides, foreign.shape) if size > 1
    )
    reach = foreign.dtype.itemsize
    for stride, size in extents:
        if stride < reach:
            raise FrameError(
                f"elements of the output of shape {foreign.shape}, strides {foreign.strides} "
                "bytes, share memory; give an array of its own, e.g. a .copy()"
            )
        reach = stride * (size - 1) + reach


def share_memory(first: ForeignArray, second: ForeignArray) -> bool:
    """Tell whether an element of the one lies where an element of the other does."""

    def addresses(it: ForeignArray) -> NDArray[Any]:  # numpy looks at nothing else
        return numpy_at(it.address, it.shape, it.strides, it.dtype, owner=it)

    return bool(np.shares_memory(addresses(first), addresses(second)))


def packed_strides(shape: tuple[int, ...], item: int) -> tuple[int, ...]:
    """Compute the strides of a C-contiguous array, in bytes."""
    return tuple(item * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _asked(question: Callable[[], T], refusal: str) -> T:
    """Ask a library, which raises what it likes to say why there is no answer."""
    try:
        return question()
    except Exception as error:
        raise FrameError(f"{refusal}: {first_line(error)}") from error


def _of_numpy(array: NDArray[Any], owner: object) -> ForeignArray:
    return ForeignArray(
        shape=array.shape,
        strides=array.strides,
        dtype=array.dtype,
        address=array.__array_interface__["data"][0],
        read_only=not array.flags.writeable,
        owner=owner,
        host=array,
    )


def _of_interface(array: object, interface: dict[str, Any]) -> ForeignArray:
    try:
        version, shape = int(interface["version"]), tuple(map(int, interface["shape"]))
        address, read_only = interface["data"]
        dtype, strides = np.dtype(interface["typestr"]), interface.get("strides")
    except (KeyError, TypeError, ValueError) as error:
        raise FrameError(
            f"the __cuda_array_interface__ of a {type(array).__qualname__} is broken: {error!r}"
        ) from error
    if version < 2 or interface.get("mask") is not None:
        what = "a mask" if version >= 2 else f"version {version}"
        raise FrameError(
            f"a __cuda_array_interface__ with {what}; need version 2 or 3, without a mask"
        )
    stream = interface.get("stream") if version >= 3 else LEGACY_STREAM
    if stream == 0:
        raise FrameError(
            "a __cuda_array_interface__ with stream 0, which is ambiguous: its library must say 1 "
            "(the default stream), 2 (the thread's) or a handle"
        )
    return ForeignArray(
        shape=shape,
        strides=tuple(map(int, strides or packed_strides(shape, dtype.itemsize))),
        dtype=dtype,
        address=int(address or 0),
        read_only=bool(read_only),
        owner=array,
        device_index=_device_of(array)[1] if hasattr(array, "__dlpack_device__") else None,  # type: ignore[arg-type]
        stream=stream,
    )


def _device_of(array: Exporter) -> tuple[int, int]:
    """DLPack's type of the device, and its number."""
    refusal = f"a {type(array).__qualname__} cannot be shared by DLPack"
    kind, index = _asked(array.__dlpack_device__, refusal)
    return int(kind), int(index)


def _of_dlpack(array: Exporter, stream: int | None) -> ForeignArray:
    name, kind = f"a {type(array).__qualname__}", _device_of(array)[0]
    if kind not in (CPU, CUDA_HOST, *ON_DEVICE):
        raise FrameError(
            f"{name} is on a device of DLPack's type {kind}; need the CPU ({CPU}) or CUDA "
            f"({CUDA}): copy it there first"
        )
    on_device = kind in ON_DEVICE
    request = {"stream": stream} if on_device else {}  # of the host it is none of our business

    def export() -> object:
        try:
            return array.__dlpack__(**request, max_version=(1, 0))
        except TypeError:  # older than DLPack 1.0
            return array.__dlpack__(**request)

    # The capsule keeps its name, so that it stays the owner and frees what it holds.
    capsule = _asked(export, f"{name} cannot be shared by DLPack")
    shape, strides, dtype, address, (_, index), read_only = parse(capsule)
    if not on_device:
        # Not numpy.from_dlpack: before numpy 2 that is read-only, and its errors name no dtype.
        host = numpy_at(address, shape, strides, dtype, read_only=read_only, owner=capsule)
        return _of_numpy(host, capsule)
    return ForeignArray(
        shape=shape,
        strides=strides or packed_strides(shape, dtype.itemsize),
        dtype=dtype,
        address=address,
        read_only=read_only,
        owner=capsule,
        device_index=index,
        stream=LEGACY_STREAM if stream is None else None,
    )
