"""Arrays of other libraries are described as they are, and our own are taken by others, without a
GPU: DLPack of the host is read and written by the code that serves CUDA."""

from __future__ import annotations

import array
import ctypes
import gc
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mirnet_edge.device import dlpack
from mirnet_edge.device.device_array import DeviceArray
from mirnet_edge.device.foreign import (
    LEGACY_STREAM,
    ForeignArray,
    describe,
    require_device,
    require_packed,
    require_writable,
)
from mirnet_edge.errors import FrameError
from mirnet_edge.frames.layout import FrameLayout

DTYPES = [np.uint8, np.uint16, np.float32]


def pixels(shape: tuple[int, ...], dtype: Any = np.uint8) -> NDArray[Any]:
    values = np.random.default_rng(8).integers(1, 255, shape)
    return values.astype(dtype)


class Cuda:
    """A fake of an array on a GPU."""

    def __init__(self, shape: tuple[int, ...] = (5, 7, 3), **changes: Any) -> None:
        interface = {
            "version": 3,
            "shape": shape,
            "typestr": "|u1",
            "data": (0x7000, False),
            "strides": None,
            "stream": None,
        }
        self.__cuda_array_interface__ = {
            key: value for key, value in (interface | changes).items() if value != "left out"
        }


class Shared:
    """A fake of an array whose capsules are numpy's, said to lie on some device."""

    def __init__(self, source: NDArray[Any], kind: int = dlpack.CUDA, index: int = 1) -> None:
        self.source, self.kind, self.index = source, kind, index
        self.requests: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, self.index

    def __dlpack__(self, **request: Any) -> Any:
        self.requests.append(request)
        source = self.source
        return dlpack.capsule_of(
            source.ctypes.data, source.shape, source.dtype, self.kind, self.index, source
        )


class OldShared(Shared):
    """The same, of before DLPack 1.0."""

    def __dlpack__(self, stream: int | None = None) -> Any:  # type: ignore[override]
        return super().__dlpack__(stream=stream)


class Both(Shared):
    """The same, with the interface that PyTorch has."""

    __cuda_array_interface__: Any = Cuda(version=2, stream="left out").__cuda_array_interface__


# ---------------------------------------------------------------- the host


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
        assert (found.on_device, found.device_index, found.stream) == (False, None, None)
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
        assert (found.on_device, found.device_index, found.read_only) == (False, None, False)
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


def test_numpy_capsules_of_both_kinds() -> None:
    source = pixels((9, 11, 3), np.uint16)
    crop = source[2:7, 3:8]
    for capsule in (crop.__dlpack__(), crop.__dlpack__(max_version=(1, 0))):
        found = dlpack.parse(capsule)
        assert (found.shape, found.strides) == (crop.shape, crop.strides)
        assert (found.address, found.dtype) == (crop.ctypes.data, crop.dtype)
        assert (found.kind, found.index, found.read_only) == (dlpack.CPU, 0, False)
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
    tensor.device.kind = dlpack.CUDA
    tensor.dtype.lanes = 4
    with pytest.raises(FrameError, match=r"array of uint16 x 4, shape \(5, 7, 3\): numpy has no"):
        dlpack.parse(capsule)
    tensor.dtype.lanes, tensor.dtype.bits = 1, 4
    with pytest.raises(FrameError, match="array of uint4, shape"):
        dlpack.parse(capsule)
    tensor.dtype.code = 9
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


# ---------------------------------------------------------------- the device


def test_interface() -> None:
    source = Cuda(typestr="<u2", data=(0x7654, True), stream=99)
    found = describe(source)
    assert (found.shape, found.strides, found.dtype) == ((5, 7, 3), (42, 6, 2), np.uint16)
    assert (found.address, found.read_only, found.stream) == (0x7654, True, 99)
    assert (found.on_device, found.device_index, found.host) == (True, None, None)
    assert found.owner is source
    assert describe(Cuda(strides=(-100, 3, 1))).strides == (-100, 3, 1)
    assert describe(Cuda((1, 1, 3), strides=(77, 88, 1))).strides == (3, 3, 1)
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
    assert (found.address, found.on_device, found.device_index) == (source.ctypes.data, True, 1)
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
    assert (found.on_device, found.device_index, found.stream) == (False, None, None)
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


# ---------------------------------------------------------------- what is required


def test_device_is_required() -> None:
    found = describe(Shared(pixels((5, 7)), index=1), stream=1)
    require_device(found, 1)
    with pytest.raises(FrameError, match="the array is on GPU 1 and the engine on GPU 0; copy it"):
        require_device(found, 0)
    require_device(describe(Cuda()), 3)
    require_device(describe(pixels((5, 7))), 3)


def test_packed_pixels_are_required() -> None:
    large = pixels((9, 11, 3), np.uint16)
    column = np.lib.stride_tricks.as_strided(large, (9, 1, 3), (66, 999, 2))
    for frame in (large, large[2:7, 3:8], large[::-2], large[:, :1], column, large[0, 0]):
        require_packed(describe(frame))
    for frame in (large[:, ::2], large[..., ::-1], large[..., :2], large.transpose(1, 0, 2)):
        with pytest.raises(FrameError, match=r"strides \(.*with strides \(any, \d+, 2\);.*contig"):
            require_packed(describe(frame))
    with pytest.raises(FrameError, match=r"strides \(any, 1\)"):
        require_packed(describe(Cuda((5, 7), strides=(32, 2))))
    for changes in ({"data": (0x7001, False)}, {"strides": (45, 6, 2)}):
        with pytest.raises(
            FrameError, match=r"rows 4[25] bytes apart: both must be multiples of 2"
        ):
            require_packed(describe(Cuda(typestr="<u2", **changes)))


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


# ---------------------------------------------------------------- what goes out


class Memory:
    """Memory of the host in the place of a device's."""

    def __init__(self, source: NDArray[Any]) -> None:
        self.source, self.address, self.closed = source, source.ctypes.data, 0

    def close(self) -> None:
        self.closed += 1


def download(address: int, target: NDArray[Any]) -> None:
    ctypes.memmove(target.ctypes.data, address, target.nbytes)


def result(memory: Memory, **arguments: Any) -> DeviceArray:
    source = memory.source
    arguments = {"kind": dlpack.CPU, **arguments}
    return DeviceArray(memory, source.shape, source.dtype, download, **arguments)


CONSUMERS = [np.from_dlpack, torch.from_dlpack, describe]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 1), (7, 1, 4), (11,)])
@pytest.mark.parametrize("take", CONSUMERS)
def test_results_are_shared(take: Any, shape: tuple[int, ...], dtype: Any) -> None:
    memory = Memory(pixels(shape, dtype))
    taken = take(result(memory))
    taken = taken.host if isinstance(taken, ForeignArray) else taken
    assert tuple(taken.shape) == shape
    view = np.asarray(taken)
    assert (view.dtype, view.ctypes.data) == (dtype, memory.address)
    np.testing.assert_array_equal(view, memory.source)
    if take is np.from_dlpack:  # read-only where a capsule cannot say that it is not
        memory.source[...] = 9
    else:
        taken[...] = 9
    np.testing.assert_array_equal(memory.source, np.asarray(taken))
    assert (memory.source == 9).all()


@pytest.mark.parametrize("take", CONSUMERS)
def test_memory_is_closed_once_when_the_last_has_let_go(take: Any) -> None:
    memory = Memory(pixels((5, 7, 3)))
    mine = result(memory)
    first, second = take(mine), take(mine)
    mine.close()
    mine.close()
    del first
    gc.collect()
    assert memory.closed == 0
    del second
    assert memory.closed == 1
    with pytest.raises(FrameError, match="this DeviceArray is closed"):
        take(mine)
    del mine
    gc.collect()
    assert memory.closed == 1


def test_a_view_alone_keeps_the_memory() -> None:
    memory = Memory(pixels((5, 7, 3)))
    view = torch.from_dlpack(result(memory))[1:3].numpy()[0]
    gc.collect()
    assert memory.closed == 0
    del view
    assert memory.closed == 1


def test_memory_without_consumers_is_closed() -> None:
    memories = [Memory(pixels((5, 7))) for _ in range(3)]
    with result(memories[0]) as first:
        first.__dlpack__()  # dropped, not consumed
        assert memories[0].closed == 0
    assert memories[0].closed == 1
    second = result(memories[1])
    capsule = second.__dlpack__()
    del second
    assert memories[1].closed == 0
    del capsule
    assert memories[1].closed == 1
    result(memories[2], owned=False).close()
    assert memories[2].closed == 0


def test_a_capsule_dropped_while_an_exception_passes() -> None:
    memory = Memory(pixels((5, 7)))
    with pytest.raises(TypeError, match="int"):
        int(result(memory).__dlpack__())
    gc.collect()
    assert memory.closed == 1


def test_errors_of_closing_are_nobodys() -> None:
    class Lost(Memory):
        def close(self) -> None:
            super().close()
            raise OSError("the device is gone")

    memory = Lost(pixels((5, 7)))
    result(memory).close()
    assert memory.closed == 1


def test_results_of_a_device_say_where_they_are() -> None:
    memory = Memory(pixels((5, 7, 3), np.float32))
    mine = result(memory, kind=dlpack.CUDA, index=2)
    assert mine.__dlpack_device__() == (2, 2)
    assert mine.size_bytes == 5 * 7 * 3 * 4
    assert mine.__cuda_array_interface__ == {
        "version": 3,
        "shape": (5, 7, 3),
        "typestr": "<f4",
        "data": (memory.address, False),
        "strides": None,
        "stream": None,
    }
    found = dlpack.parse(mine.__dlpack__())
    assert (found.kind, found.index, found.address) == (2, 2, memory.address)
    ours = describe(mine)
    assert (ours.on_device, ours.device_index, ours.address) == (True, 2, memory.address)
    assert not hasattr(result(memory), "__cuda_array_interface__")


def test_consumers_wait_for_the_result() -> None:
    waiting: list[int] = []
    memory = Memory(pixels((5, 7)))
    mine = result(memory, kind=dlpack.CUDA, stream=55, order=waiting.append)
    assert mine.__cuda_array_interface__["stream"] == 55
    for stream in (None, 1, 2, 77, -1):
        mine.__dlpack__(stream=stream)
    assert waiting == [LEGACY_STREAM, 1, 2, 77]
    for arguments in ({"stream": 5}, {"order": waiting.append}):
        with pytest.raises(FrameError, match="give both, or neither"):
            result(memory, **arguments)


def test_no_other_device_and_no_copies() -> None:
    mine = result(Memory(pixels((5, 7))), kind=dlpack.CUDA)
    mine.__dlpack__(dl_device=(2, 0), copy=False, max_version=(1, 0))
    for request in ({"dl_device": (1, 0)}, {"copy": True}):
        with pytest.raises(BufferError, match=r"on DLPack device \(2, 0\) .*copy_to_host"):
            mine.__dlpack__(**request)


def test_copies_to_the_host() -> None:
    memory = Memory(pixels((5, 7, 3), np.uint16))
    mine = result(memory)
    copy = mine.copy_to_host()
    np.testing.assert_array_equal(copy, memory.source)
    assert not np.may_share_memory(copy, memory.source)
    out = np.zeros_like(copy)
    assert mine.copy_to_host(out) is out
    np.testing.assert_array_equal(out, memory.source)
    frozen = np.zeros_like(copy)
    frozen.flags.writeable = False
    for wrong in (out[:4], out.astype(np.uint8), np.asfortranarray(out), frozen):
        with pytest.raises(FrameError, match=r"need a writable, C-contiguous uint16 \(5, 7, 3\)"):
            mine.copy_to_host(wrong)
    mine.close()
    with pytest.raises(FrameError, match="closed"):
        mine.copy_to_host()
