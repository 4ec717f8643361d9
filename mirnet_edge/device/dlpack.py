"""DLPack capsules: reading those of others, and making ours. The structures are those of dlpack.h,
of version 1.0 and of what came before."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mirnet_edge.errors import FrameError

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13  # DLDeviceType
ON_DEVICE = (CUDA, CUDA_MANAGED)
READ_ONLY = 1  # DLPACK_FLAG_BITMASK_READ_ONLY
TYPE_CODES = ("int", "uint", "float", "opaque", "bfloat", "complex", "bool")  # DLDataTypeCode
NUMPY_KINDS = {"int": "i", "uint": "u", "float": "f", "complex": "c", "bool": "b"}


class _Device(ctypes.Structure):
    """DLDevice."""

    _fields_: ClassVar = [("kind", ctypes.c_int32), ("index", ctypes.c_int32)]


class _DataType(ctypes.Structure):
    """DLDataType."""

    _fields_: ClassVar = [
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    ]


class _Tensor(ctypes.Structure):
    """DLTensor, with which DLManagedTensor begins."""

    _fields_: ClassVar = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _VersionedTensor(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_: ClassVar = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    ]


# Prototypes of our own: those of ctypes.pythonapi are shared with whoever sets their types.
_is_capsule = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


@dataclass(frozen=True)
class Tensor:
    """What a capsule holds.

    Attributes:
        shape, dtype: of the array.
        strides: in bytes; None for C-contiguous.
        address: of the first element.
        kind, index: of the device, as DLPack numbers them.
        read_only: whether the producer says so; before version 1.0 none could.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: np.dtype[Any]
    address: int
    kind: int
    index: int
    read_only: bool


def parse(capsule: Any) -> Tensor:
    """Read a capsule, "dltensor" or "dltensor_versioned". It is not consumed: its name stays, so
    that its own destructor frees what it holds. Keep it for as long as the memory is used.

    Raises:
        FrameError: no such capsule, consumed already, or of a type that numpy lacks.
    """
    read_only = False
    if _is_capsule(capsule, b"dltensor_versioned"):
        managed = _VersionedTensor.from_address(_pointer_of(capsule, b"dltensor_versioned"))
        if managed.major != 1:
            raise FrameError(
                f"a capsule of DLPack {managed.major}.{managed.minor}; need 1.x or older: take "
                "another version of the library that made it"
            )
        tensor, read_only = managed.tensor, bool(managed.flags & READ_ONLY)
    elif _is_capsule(capsule, b"dltensor"):
        tensor = _Tensor.from_address(_pointer_of(capsule, b"dltensor"))
    else:
        raise FrameError(
            f"{capsule!r} is no DLPack capsule, or was consumed; call __dlpack__ for a new one"
        )
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    dtype = _dtype_of(tensor.dtype, shape)
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[axis] * dtype.itemsize for axis in range(tensor.ndim))
    return Tensor(
        shape=shape,
        strides=strides,
        dtype=dtype,
        address=(tensor.data or 0) + tensor.byte_offset,
        kind=tensor.device.kind,
        index=tensor.device.index,
        read_only=read_only,
    )


@dataclass(frozen=True)
class RawMemory:
    """Memory at an address, as what numpy.asarray takes without looking at it.

    Attributes:
        address, shape, strides, dtype, read_only: of the array; strides in bytes.
        owner: lives as long as the array, or a view of it.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: np.dtype[Any]
    read_only: bool
    owner: Any

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "data": (self.address, self.read_only),
            "shape": self.shape,
            "strides": self.strides,
            "typestr": self.dtype.str,
        }


def capsule_of(
    address: int, shape: tuple[int, ...], dtype: np.dtype[Any], kind: int, index: int, owner: Any
) -> Any:
    """A "dltensor" capsule of writable, C-contiguous memory of any device. ``owner`` lives until
    the consumer's deleter ran, or the capsule goes without having been consumed.

    numpy makes it, of an array that nobody looks into, and the device is written over its own.
    A deleter in Python would break where consumers let go of tensors: while an exception is on its
    way (measured: a SystemError in its place, and a leak), or after the interpreter has ended.
    """
    memory = RawMemory(address, shape, None, dtype, False, owner)
    capsule: Any = np.asarray(memory).__dlpack__()
    tensor = _Tensor.from_address(_pointer_of(capsule, b"dltensor"))
    tensor.device.kind, tensor.device.index = kind, index
    return capsule


def _dtype_of(found: _DataType, shape: tuple[int, ...]) -> np.dtype[Any]:
    name = TYPE_CODES[found.code] if found.code < len(TYPE_CODES) else f"DLPack type {found.code}, "
    with suppress(KeyError, TypeError):
        if found.lanes == 1 and found.bits % 8 == 0:
            return np.dtype(f"{NUMPY_KINDS[name]}{found.bits // 8}")
    lanes = f" x {found.lanes}" if found.lanes != 1 else ""
    raise FrameError(
        f"array of {name}{found.bits}{lanes}, shape {shape}: numpy has no such type; convert it "
        "first, e.g. with .float()"
    )
