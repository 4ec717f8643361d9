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
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.device.dlpack import CPU, CUDA, CUDA_HOST, ON_DEVICE, RawMemory, parse
from mirnet_edge.errors import FrameError, first_line
from mirnet_edge.frames.layout import MAXIMUM, require_unmasked

LEGACY_STREAM = 1  # the default stream, as both protocols and the driver's CU_STREAM_LEGACY say it
ACCEPTED = (
    "a numpy array, or an object with __cuda_array_interface__ (CuPy, PyCUDA, Numba), __dlpack__ "
    "(PyTorch, JAX), __array_interface__ (Pillow) or the buffer protocol"
)


@dataclass(frozen=True, eq=False)
class ForeignArray:
    """Where an array lies and what it holds; made by `describe`.

    Attributes:
        shape: of the array.
        strides: in bytes; of a dimension of size 1, which has none, as if the array were packed.
        dtype: uint8, uint16 or float32.
        address: of the first element, on the device or the host.
        on_device: whether a kernel, and not the CPU, can read it.
        device_index: of its GPU; None on the host, or where the array does not say.
        read_only: whether it must not be written to.
        owner: keeps the memory alive.
        host: the same memory as a numpy array; None on the device.
        stream: handle of the CUDA stream whose work must be waited for; None if there is none.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    address: int
    on_device: bool
    device_index: int | None
    read_only: bool
    owner: Any = field(repr=False)
    host: NDArray[Any] | None = field(default=None, repr=False)
    stream: int | None = None


def describe(array: Any, *, stream: int | None = None) -> ForeignArray:
    """What an array of any library is; nothing is copied.

    Args:
        array: see the list above.
        stream: handle of the CUDA stream that will read it. A DLPack producer lets that stream wait
            for its own work. None stands for the default stream.

    Raises:
        FrameError: none of those, empty, masked, of another dtype or on another kind of device.
    """
    if isinstance(array, np.ndarray):
        require_unmasked(array)
        return _of_numpy(array)
    interface = _asked(array, "__cuda_array_interface__")
    dlpack = hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__")
    # Version 2 has no stream. PyTorch writes it, and with DLPack it orders its work as well.
    old = isinstance(interface, dict) and interface.get("version", 0) < 3
    if interface is not None and not (dlpack and old):
        return _of_interface(array, interface)
    if dlpack:
        return _of_dlpack(array, stream)
    try:
        if hasattr(array, "__array_interface__"):
            return _of_numpy(np.asarray(array), array)
        return _of_numpy(np.asarray(memoryview(array)), array)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise FrameError(
            f"a {type(array).__module__}.{type(array).__qualname__} is no frame: give {ACCEPTED}"
        ) from error


def require_device(foreign: ForeignArray, index: int) -> None:
    """Check that a kernel on GPU ``index`` may use the array, if it is on a device at all and says
    on which.

    Raises:
        FrameError: it is on another GPU.
    """
    if foreign.on_device and foreign.device_index not in (None, index):
        raise FrameError(
            f"the array is on GPU {foreign.device_index} and the engine on GPU {index}; copy it "
            "there, or open the engine where the array is"
        )


def require_packed(foreign: ForeignArray) -> None:
    """Check that the pixels of each row lie side by side; rows may be any distance apart.

    Raises:
        FrameError: they do not, or elements lie where their size does not divide the address.
    """
    item = foreign.dtype.itemsize
    pitch = foreign.strides[0] if foreign.strides else 0
    packed = _packed_strides(foreign.shape, item)
    if foreign.strides[1:] != packed[1:]:
        raise FrameError(
            f"array of shape {foreign.shape}, strides {foreign.strides} bytes: the pixels of a row "
            f"must lie side by side, with strides (any, {', '.join(map(str, packed[1:]))}); copy "
            "it with .contiguous(), ascontiguousarray() or .copy()"
        )
    if foreign.address % item or pitch % item:
        raise FrameError(
            f"array of {foreign.dtype} at address {foreign.address:#x}, rows {pitch} bytes "
            f"apart: both must be multiples of {item}; copy it with .contiguous() or .copy()"
        )


def require_writable(foreign: ForeignArray) -> None:
    """Check that a frame can be written to the array.

    Raises:
        FrameError: it is read-only, or some of its elements share their memory.
    """
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
    """Whether an element of the one lies where an element of the other does."""

    def addresses(foreign: ForeignArray) -> NDArray[Any]:  # numpy looks at nothing else
        lies = foreign.address, foreign.shape, foreign.strides, foreign.dtype
        return np.asarray(RawMemory(*lies, foreign.read_only, foreign.owner))

    return bool(np.shares_memory(addresses(first), addresses(second)))


def _asked(array: Any, attribute: str) -> Any:
    """An attribute, or None; libraries raise what they like to say why there is none."""
    try:
        return getattr(array, attribute, None)
    except Exception as error:
        raise FrameError(
            f"a {type(array).__module__}.{type(array).__qualname__} cannot be used as a frame: "
            f"{first_line(error)}"
        ) from error


def _packed_strides(shape: tuple[int, ...], item: int) -> tuple[int, ...]:
    return tuple(item * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _checked(foreign: ForeignArray) -> ForeignArray:
    shape, dtype = foreign.shape, foreign.dtype
    if 0 in shape:
        raise FrameError(f"array of shape {shape} has no pixels")
    if dtype not in MAXIMUM:
        wanted = ", ".join(map(str, MAXIMUM))
        raise FrameError(f"array of {dtype}, shape {shape}: need one of {wanted}; convert it first")
    if not foreign.address:
        raise FrameError(f"array of shape {shape} has no memory; was it closed or freed?")
    return foreign


def _strides_of(
    shape: tuple[int, ...], strides: tuple[int, ...] | None, item: int
) -> tuple[int, ...]:
    packed = _packed_strides(shape, item)
    if strides is None:
        return packed
    return tuple(
        stride if size > 1 else alone for size, stride, alone in zip(shape, strides, packed)
    )


def _of_numpy(array: NDArray[Any], owner: Any = None) -> ForeignArray:
    return _checked(
        ForeignArray(
            shape=array.shape,
            strides=_strides_of(array.shape, array.strides, array.itemsize),
            dtype=array.dtype,
            address=array.__array_interface__["data"][0],
            on_device=False,
            device_index=None,
            read_only=not array.flags.writeable,
            owner=array if owner is None else owner,
            host=array,
        )
    )


def _of_interface(array: Any, interface: dict[str, Any]) -> ForeignArray:
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
    device = _dlpack_device(array) if hasattr(array, "__dlpack_device__") else None
    return _checked(
        ForeignArray(
            shape=shape,
            strides=_strides_of(shape, strides and tuple(map(int, strides)), dtype.itemsize),
            dtype=dtype,
            address=int(address or 0),
            on_device=True,
            device_index=device and device[1],
            read_only=bool(read_only),
            owner=array,
            stream=stream,
        )
    )


def _of_dlpack(array: Any, stream: int | None) -> ForeignArray:
    """From a capsule whose name is left as it is: it stays the owner, and frees what it holds."""
    kind = _dlpack_device(array)[0]
    if kind not in (CPU, CUDA_HOST, *ON_DEVICE):
        raise FrameError(
            f"a {type(array).__qualname__} is on a device of DLPack's type {kind}; need the CPU "
            f"({CPU}) or CUDA ({CUDA}): copy it there first"
        )
    on_device = kind in ON_DEVICE
    request = {"stream": stream} if on_device else {}
    try:
        try:
            capsule = array.__dlpack__(**request, max_version=(1, 0))
        except TypeError:  # older than DLPack 1.0
            capsule = array.__dlpack__(**request)
    except Exception as error:
        raise _not_shared(array, error) from error
    return _of_capsule(capsule, LEGACY_STREAM if on_device and stream is None else None)


def _dlpack_device(array: Any) -> tuple[int, int]:
    try:
        kind, index = array.__dlpack_device__()
        return int(kind), int(index)
    except Exception as error:
        raise _not_shared(array, error) from error


def _not_shared(array: Any, error: Exception) -> FrameError:
    """Libraries raise what they like."""
    name = type(array).__qualname__
    return FrameError(f"a {name} cannot be shared by DLPack: {first_line(error)}")


def _of_capsule(capsule: Any, stream: int | None) -> ForeignArray:
    tensor = parse(capsule)
    on_device = tensor.kind in ON_DEVICE
    strides = _strides_of(tensor.shape, tensor.strides, tensor.dtype.itemsize)
    foreign = ForeignArray(
        shape=tensor.shape,
        strides=strides,
        dtype=tensor.dtype,
        address=tensor.address,
        on_device=on_device,
        device_index=tensor.index if on_device else None,
        read_only=tensor.read_only,
        owner=capsule,
        stream=stream,
    )
    _checked(foreign)
    if on_device:
        return foreign
    # Not numpy.from_dlpack: before numpy 2 that is read-only, and its errors name no dtype.
    memory = RawMemory(
        tensor.address, tensor.shape, strides, tensor.dtype, tensor.read_only, capsule
    )
    return replace(foreign, host=np.asarray(memory))
