"""Arrays of other libraries are described as they are, without a GPU: DLPack of the host is read by
the code that serves CUDA."""

from __future__ import annotations

import array
import gc
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from foreign_arrays import DTYPES, Both, Cuda, OldShared, Shared, pixels
from PIL import Image

from mirnet_edge.device import dlpack
from mirnet_edge.device.array_layout import ArrayLayout
from mirnet_edge.device.foreign import (
    LEGACY_STREAM,
    describe,
    require_device,
    require_writable,
)
from mirnet_edge.device.layouts import DeviceFrame
from mirnet_edge.errors import FrameError
from mirnet_edge.frames.layout import FrameLayout

# The host


def test_modules_import_no_library_of_arrays() -> None:
    code = (
        "import sys, mirnet_edge.device.foreign, mirnet_edge.device.device_array\n"
        "print([name for name in ('torch', 'cupy', 'pycuda', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_as_it_is(dtype: Any) -> None:
    large = pixels((9, 11, 3), dtype)
    for frame in (large, large[2:7, 3:8], large[::-1], large[:, ::-2], large.transpose(1, 0, 2)):
        found = describe(frame)
        assert found.host is frame
        assert found.owner is frame
        assert (found.shape, found.strides, found.dtype) == (frame.shape, frame.strides, dtype)
        assert found.address == frame.ctypes.data
        assert (found.device_index, found.stream) == (None, None)
        assert found.read_only is False
    frame.flags.writeable = False
    assert describe(frame).read_only


@pytest.mark.parametrize("look", [describe, FrameLayout.of], ids=["device", "portable"])
@pytest.mark.parametrize("mask", [True, False, np.ma.nomask])
def test_masked_arrays_are_refused(look: Any, mask: Any) -> None:
    masked = np.ma.MaskedArray(pixels((5, 7, 3)), mask)
    with pytest.raises(FrameError, match=r"shape \(5, 7, 3\) is masked; .*frame\.filled\(0\)$"):
        look(masked)
    look(masked.filled(0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_of_the_host_is_shared(dtype: Any) -> None:
    source = pixels((9, 11, 3), dtype)
    whole = torch.from_numpy(source)
    for tensor, view in [
        (whole, source),
        (whole[2:7, 3:8], source[2:7, 3:8]),
        (whole[::2], source[::2]),
        (whole.permute(1, 0, 2), source.transpose(1, 0, 2)),
    ]:
        found = describe(tensor)
        assert found.address == tensor.data_ptr() == view.ctypes.data
        assert (found.shape, found.strides, found.dtype) == (view.shape, view.strides, dtype)
        assert (found.device_index, found.read_only) == (None, False)
        assert found.host is not None
        np.testing.assert_array_equal(found.host, view)
        found.host[1, 2] = 0
        assert (tensor[1, 2] == 0).all()


def test_a_tensor_lives_as_long_as_what_was_found_of_it() -> None:
    source = pixels((5, 7, 3))
    references = sys.getrefcount(source)
    found = describe(torch.from_numpy(source))
    host = found.host
    assert host is not None
    del found
    gc.collect()
    assert sys.getrefcount(source) > references, "the view alone keeps it"
    np.testing.assert_array_equal(host, source)
    del host
    assert sys.getrefcount(source) == references, "released, and not consumed twice"


def test_buffers_and_images() -> None:
    source = pixels((5, 7, 3))
    image = Image.fromarray(source)
    found = describe(image)
    assert found.host is not None
    np.testing.assert_array_equal(found.host, source)
    assert found.owner is image
    assert found.read_only
    view = memoryview(source)[1:4]
    found = describe(view)
    assert (found.address, found.shape) == (source[1:].ctypes.data, (3, 7, 3))
    assert not found.read_only
    assert describe(bytes(35)).read_only
    assert not describe(bytearray(35)).read_only
    assert describe(array.array("f", [1, 2, 3])).dtype == np.float32
    assert describe(array.array("H", [1, 2, 3])).shape == (3,)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (None, r"a builtins\.NoneType is no frame: give a numpy array, or .*CuPy.*PyTorch.*buffer"),
        ([[1, 2], [3, 4]], "a builtins.list is no frame"),
        ("photo.png", "a builtins.str is no frame"),
        (
            np.zeros((5, 7, 3)),
            r"array of float64, shape \(5, 7, 3\): need one of uint8, uint16, fl",
        ),
        (np.zeros((5, 7), ">u2"), "array of >u2"),
        (np.zeros((5, 7), complex), "array of complex128"),
        (np.zeros((5, 0, 3), np.uint8), r"shape \(5, 0, 3\) has no pixels"),
        (bytearray(), r"shape \(0,\) has no pixels"),
        (Image.new("1", (7, 5)), "array of bool"),
        (torch.zeros(5, 7, dtype=torch.bfloat16), r"array of bfloat16, shape \(5, 7\): numpy has"),
        (torch.zeros(5, 7, dtype=torch.complex64), "array of complex64"),
        (torch.zeros(5, 0), "has no pixels"),
        (torch.zeros(5, 7, requires_grad=True), "Tensor cannot be shared by DLPack: .*detach"),
        (torch.zeros(5, 7, device="meta"), "a Tensor cannot be shared by DLPack: .*meta"),
    ],
)
def test_what_is_no_frame(what: Any, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        describe(what)


# The device


def test_interface() -> None:
    source = Cuda(typestr="<u2", data=(0x7654, True), stream=99)
    found = describe(source)
    assert (found.shape, found.strides, found.dtype) == ((5, 7, 3), (42, 6, 2), np.uint16)
    assert (found.address, found.read_only, found.stream) == (0x7654, True, 99)
    assert (found.device_index, found.host) == (None, None)
    assert found.owner is source
    assert describe(Cuda(strides=(-100, 3, 1))).strides == (-100, 3, 1)
    assert describe(Cuda(stream="left out")).stream is None
    assert describe(Cuda(version=2, stream="left out")).stream == LEGACY_STREAM


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": Cuda()}, "with a mask; need version 2 or 3"),
        ({"version": 1}, "with version 1; need"),
        ({"stream": 0}, "stream 0, which is ambiguous"),
        ({"typestr": "|V2"}, r"array of \|V2"),
        ({"typestr": "<c8"}, "array of complex64"),
        ({"typestr": "what"}, "of a Cuda is broken: TypeError"),
        ({"data": "left out"}, "is broken: KeyError"),
        ({"data": (0, False)}, r"shape \(5, 7, 3\) has no memory"),
        ({"shape": (5, 0), "data": (0, False)}, r"shape \(5, 0\) has no pixels"),
    ],
)
def test_interfaces_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FrameError, match=message):
        describe(Cuda(**changes))


def test_an_interface_that_raises() -> None:
    class Leaf:
        @property
        def __cuda_array_interface__(self) -> Any:
            raise RuntimeError("requires grad; call detach()\nand more")

    with pytest.raises(FrameError, match=r"Leaf cannot be used as a frame: .*detach\(\)$"):
        describe(Leaf())


@pytest.mark.parametrize("kind", dlpack.ON_DEVICE)
@pytest.mark.parametrize("shared", [Shared, OldShared])
def test_dlpack_of_a_device(shared: type[Shared], kind: int) -> None:
    source = pixels((5, 7, 3), np.float32)
    producer = shared(source, kind)
    found = describe(producer, stream=1234)
    assert producer.requests[-1]["stream"] == 1234
    assert found.stream is None, "the producer orders its work"
    assert (found.shape, found.strides, found.dtype) == (source.shape, source.strides, "f4")
    assert (found.address, found.device_index) == (source.ctypes.data, 1)
    assert found.host is None
    assert describe(producer).stream == LEGACY_STREAM
    assert producer.requests[-1]["stream"] is None


def test_memory_of_a_device_lives_as_long_as_what_was_found_of_it() -> None:
    source = pixels((5, 7, 3))
    references = sys.getrefcount(source)
    found = describe(Shared(source))
    assert sys.getrefcount(source) > references
    del found
    assert sys.getrefcount(source) == references


def test_dlpack_of_pinned_memory() -> None:
    source = pixels((5, 7, 3))
    producer = Shared(source, dlpack.CUDA_HOST)
    found = describe(producer, stream=1234)
    assert "stream" not in producer.requests[-1], "it is for devices"
    assert (found.device_index, found.stream) == (None, None)
    assert found.host is not None
    assert found.host.ctypes.data == source.ctypes.data


def test_dlpack_before_an_interface_without_a_stream() -> None:
    source = pixels((5, 7, 3))
    producer = Both(source)
    assert describe(producer, stream=5).address == source.ctypes.data
    producer.__cuda_array_interface__ = Cuda(stream=99).__cuda_array_interface__
    found = describe(producer, stream=5)
    assert (found.address, found.stream, found.device_index) == (0x7000, 99, 1)
    assert len(producer.requests) == 1


def test_other_devices_are_refused() -> None:
    with pytest.raises(FrameError, match="a Shared is on a device of DLPack's type 10; need the"):
        describe(Shared(pixels((5, 7)), 10))


# What is required


def test_device_is_required() -> None:
    found = describe(Shared(pixels((5, 7)), index=1), stream=1)
    require_device(found, 1)
    with pytest.raises(FrameError, match="the array is on GPU 1 and the engine on GPU 0; copy it"):
        require_device(found, 0)
    require_device(describe(Cuda()), 3)
    require_device(describe(pixels((5, 7))), 3)


def taken(array: Any) -> DeviceFrame:
    """A gray, RGB or RGBA frame as the kernels are given it."""
    found = describe(array)
    layout = ArrayLayout.of(found.shape, found.dtype, None)
    return layout.frame_at(found.address, found.strides)


def test_packed_pixels_are_required() -> None:
    large = pixels((9, 11, 3), np.uint16)
    column = np.lib.stride_tricks.as_strided(large, (9, 1, 3), (66, 999, 2))
    for frame in (large, large[2:7, 3:8], large[::-2], large[:, :1], column):
        assert taken(frame).planes == ((frame.ctypes.data, frame.strides[0]),)
    assert taken(Cuda((1, 1, 3), strides=(77, 88, 1))).planes == ((0x7000, 3),)
    for frame in (large[:, ::2], large[..., ::-1], large.transpose(1, 0, 2)[:, :3]):
        with pytest.raises(FrameError, match=r"strides \(.*side by side .* \d+, 2\).*contig"):
            taken(frame)
    with pytest.raises(FrameError, match=r"side by side \(strides \.\.\., 1\)"):
        taken(Cuda((5, 7), strides=(32, 2)))
    with pytest.raises(FrameError, match=r"strides \(45, 6, 2\) .* a multiple of 2 apart; copy it"):
        taken(Cuda(typestr="<u2", strides=(45, 6, 2)))
    with pytest.raises(FrameError, match=r"0x7001 with rows 42 .* of 2 bytes: copy .*contiguous"):
        taken(Cuda(typestr="<u2", data=(0x7001, False)))


def test_an_output_is_written_to() -> None:
    large = pixels((9, 11, 3))
    for frame in (large, large[::-1, 2:5], large.transpose(2, 0, 1), large[:1], large[:, :1]):
        require_writable(describe(frame))
    with pytest.raises(FrameError, match=r"output of shape \(5,\) is read-only; give a writable"):
        require_writable(describe(bytes(5)))
    strided = np.lib.stride_tricks.as_strided
    for frame in (strided(large, (9, 11), (0, 3)), strided(large, (9, 7, 3), (20, 3, 1))):
        with pytest.raises(FrameError, match=r"shape \(9, .* share memory; give an array of its"):
            require_writable(describe(frame))
