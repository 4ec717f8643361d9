"""DLPack capsules, numpy's and torch's, are read as dlpack.h has them."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from foreign_arrays import pixels

from mirnet_edge.device import dlpack
from mirnet_edge.errors import FrameError


def test_numpy_capsules_of_both_kinds() -> None:
    source = pixels((9, 11, 3), np.uint16)
    crop = source[2:7, 3:8]
    for capsule in (crop.__dlpack__(), crop.__dlpack__(max_version=(1, 0))):
        found = dlpack.parse(capsule)
        assert (found.shape, found.strides) == (crop.shape, crop.strides)
        assert (found.address, found.dtype) == (crop.ctypes.data, crop.dtype)
        assert (found.device, found.read_only) == ((dlpack.CPU, 0), False)
        dlpack.parse(capsule)  # it is still whole
    assert "dltensor_versioned" in repr(crop.__dlpack__(max_version=(1, 0)))
    crop.flags.writeable = False
    assert dlpack.parse(crop.__dlpack__(max_version=(1, 0))).read_only


@pytest.mark.parametrize("dtype", [*"bBhHiIlLefdFD?"])
def test_dtypes_of_capsules(dtype: str) -> None:
    source = np.zeros((3, 5), dtype)
    found = dlpack.parse(source.__dlpack__())
    assert found.dtype == source.dtype
    assert (found.strides or source.strides) == source.strides
    assert dlpack.parse(torch.from_numpy(source).__dlpack__()).dtype == source.dtype


def test_byte_offset_and_missing_strides() -> None:
    source = pixels((5, 7, 3), np.uint16)
    capsule = source.__dlpack__()
    tensor = dlpack._Tensor.from_address(dlpack._pointer_of(capsule, b"dltensor"))
    tensor.byte_offset = 42
    assert dlpack.parse(capsule).address == source.ctypes.data + 42
    tensor.strides = ctypes.POINTER(ctypes.c_int64)()
    assert dlpack.parse(capsule).strides is None
    tensor.kind = dlpack.CUDA
    tensor.lanes = 4
    with pytest.raises(FrameError, match=r"array of uint16 x 4, shape \(5, 7, 3\): numpy has no"):
        dlpack.parse(capsule)
    tensor.lanes, tensor.bits = 1, 4
    with pytest.raises(FrameError, match="array of uint4, shape"):
        dlpack.parse(capsule)
    tensor.code = 9
    with pytest.raises(FrameError, match="array of DLPack type 9, 4, shape"):
        dlpack.parse(capsule)


def test_what_is_no_capsule() -> None:
    capsule = pixels((5, 7)).__dlpack__()
    torch.from_dlpack(capsule)
    for wrong in (capsule, None, 3):
        with pytest.raises(FrameError, match="is no DLPack capsule, or was consumed"):
            dlpack.parse(wrong)
    versioned = pixels((5, 7)).__dlpack__(max_version=(1, 0))
    managed = dlpack._VersionedTensor.from_address(
        dlpack._pointer_of(versioned, b"dltensor_versioned")
    )
    managed.major = 2
    with pytest.raises(FrameError, match=r"DLPack 2\.\d+; need 1\.x"):
        dlpack.parse(versioned)
