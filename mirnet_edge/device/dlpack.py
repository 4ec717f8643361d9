"""DLPack capsules: reading those of others, and making ours. The structures are those of dlpack.h,
of version 1.0 and of what came before."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import FrameError

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13  # DLDeviceType
ON_DEVICE = (CUDA, CUDA_MANAGED)
READ_ONLY = 1  # DLPACK_FLAG_BITMASK_READ_ONLY
TYPE_CODES = ("int", "uint", "float", "opaque", "bfloat", "complex", "bool")  # DLDataTypeCode
# By kind, not by name: where ml_dtypes is imported, numpy knows "bfloat16" and "uint4" by name.
NUMPY_KINDS = {"int": "i", "uint": "u", "float": "f", "complex": "c", "bool": "b"}


class _Tensor(ctypes.Structure):
    """DLTensor, with which DLManagedTensor begins."""

    # The device (kind, index) and the type (code, bits, lanes) are structures of their own in
    # dlpack.h; without gaps before or in them, so that their fields lie just here.
    _fields_: ClassVar = [
        ("data", ctypes.c_void_p),
        ("kind", ctypes.c_int32),
        ("index", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
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


class Exporter(Protocol):
    """An array of another library, as the protocol's consumers see it."""

    def __dlpack_device__(self) -> tuple[int, int]: ...

    def __dlpack__(self, **request: object) -> object: ...


class Tensor(NamedTuple):
    """What a capsule holds: strides in bytes, or None for C-contiguous; the device's type and
    number as DLPack has them. Before version 1.0 no producer could say `read_only`."""

    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: np.dtype[Any]
    address: int
    device: tuple[int, int]
    read_only: bool


def parse(capsule: object) -> Tensor:
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
    dtype = _dtype_of(tensor, shape)
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[axis] * dtype.itemsize for axis in range(tensor.ndim))
    return Tensor(
        shape=shape,
        strides=strides,
        dtype=dtype,
        address=(tensor.data or 0) + tensor.byte_offset,
        device=(tensor.kind, tensor.index),
        read_only=read_only,
    )


def numpy_at(
    address: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
    dtype: np.dtype[Any],
    *,
    read_only: bool = False,
    owner: object,
) -> NDArray[Any]:
    """Make an array of memory at an address, which numpy does not look at: any device's will do.
    ``owner`` lives as long as the array, or a view of it."""
    interface = {
        "version": 3,
        "data": (address, read_only),
        "shape": shape,
        "strides": strides,
        "typestr": dtype.str,
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface, owner=owner))


def capsule_of(
    address: int, shape: tuple[int, ...], dtype: np.dtype[Any], kind: int, index: int, owner: object
) -> object:
    """Make a "dltensor" capsule of writable, C-contiguous memory of any device. ``owner`` lives
    until the consumer's deleter ran, or the capsule goes without having been consumed."""
    # numpy makes it, of an array that nobody looks into, and the device is written over its own.
    # A deleter in Python would break where consumers let go of tensors: while an exception is on
    # its way (measured: a SystemError in its place, and a leak), or after the interpreter's end.
    capsule: object = numpy_at(address, shape, None, dtype, owner=owner).__dlpack__()
    tensor = _Tensor.from_address(_pointer_of(capsule, b"dltensor"))
    tensor.kind, tensor.index = kind, index
    return capsule


def _dtype_of(tensor: _Tensor, shape: tuple[int, ...]) -> np.dtype[Any]:
    known = tensor.code < len(TYPE_CODES)
    name = TYPE_CODES[tensor.code] if known else f"DLPack type {tensor.code}, "
    with suppress(KeyError, TypeError):
        if tensor.lanes == 1 and tensor.bits % 8 == 0:
            return np.dtype(f"{NUMPY_KINDS[name]}{tensor.bits // 8}")
    lanes = f" x {tensor.lanes}" if tensor.lanes != 1 else ""
    raise FrameError(
        f"array of {name}{tensor.bits}{lanes}, shape {shape}: numpy has no such type; convert it "
        "first, e.g. with .float()"
    )
