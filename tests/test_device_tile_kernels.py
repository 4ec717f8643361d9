"""The tile kernels through their typed calls, on a GPU in host memory, against their twins."""

from __future__ import annotations

import itertools
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fake_gpu import FakeGpu
from kernel_host import (
    KERNELS,
    assert_same,
    awkward_tiles,
    disjoint_regions,
    random_samples,
    rows_in,
    shape_of,
    some_origins,
)
from kernel_host import host_fixture as host_fixture
from kernel_twins import (
    COLOURS,
    ORDERS,
    SAMPLES,
    VALUES,
    YUV_FORMATS,
    Array,
    blend_tiles,
    load_tiles,
    load_tiles_yuv,
    luma_sums,
    store_tiles,
    store_tiles_yuv,
)

from mirnet_edge.cuda import Device, DeviceBuffer, Graph, Stream
from mirnet_edge.device import layouts
from mirnet_edge.device.layouts import DeviceFrame, DeviceTiles, Plane
from mirnet_edge.device.tile_kernels import TileKernels
from mirnet_edge.errors import DeviceError, FrameError, TilingError
from mirnet_edge.tiling.geometry import Tiling

pytestmark = pytest.mark.usefixtures("host")

FORMATS = [f"{order}_{sample}" for order, sample in itertools.product(ORDERS, SAMPLES)]
COLOUR = COLOURS["bt709-limited"]
Check = Callable[[Array, Array, str], None]


class Memory:
    """Arrays on the device."""

    def __init__(self, device: Device, stream: Stream) -> None:
        self.device, self.stream = device, stream
        self.buffers: dict[int, DeviceBuffer] = {}

    def put(self, array: Array) -> int:
        """The address of a copy."""
        buffer = DeviceBuffer(self.device, array.nbytes)
        buffer.upload(np.ascontiguousarray(array), stream=self.stream)
        self.stream.synchronize()
        self.buffers[buffer.address] = buffer
        return buffer.address

    def take(self, address: int, like: Array) -> Array:
        """What is there once the stream has done its work."""
        found = np.empty(like.shape, like.dtype)
        self.buffers[address].download(found, stream=self.stream)
        self.stream.synchronize()
        return found

    def put_tiles(self, tiles_nchw: Array, channels_last: bool = False) -> DeviceTiles:
        tiles = tiles_nchw.transpose(0, 2, 3, 1) if channels_last else tiles_nchw
        return DeviceTiles(
            self.put(tiles), *tiles_nchw.shape, tiles_nchw.dtype.name, channels_last=channels_last
        )

    def take_tiles(self, tiles: DeviceTiles) -> Array:
        """(N, C, H, W)."""
        nchw = (tiles.count, tiles.channels, tiles.height, tiles.width)
        if not tiles.channels_last:
            return self.take(tiles.address, np.empty(nchw, tiles.dtype))
        nhwc = (nchw[0], *nchw[2:], nchw[1])
        return self.take(tiles.address, np.empty(nhwc, tiles.dtype)).transpose(0, 3, 1, 2)

    def put_frame(self, frame: Array, frame_format: str, gap_samples: int = 0) -> DeviceFrame:
        """Behind a gap, and with one between the rows."""
        pitch = int(np.prod(frame.shape[1:])) + gap_samples
        buffer = np.zeros((frame.shape[0] + 1) * pitch, frame.dtype)
        rows_in(buffer, frame.shape, gap_samples)[...] = frame
        offset, pitch_bytes = gap_samples * frame.itemsize, pitch * frame.itemsize
        plane = Plane(self.put(buffer) + offset, pitch_bytes)
        return DeviceFrame(frame_format, *frame.shape[:2], (plane,))

    def take_frame(self, frame: DeviceFrame, like: Array, gap_samples: int = 0) -> Array:
        """What `put_frame` put; nothing may have been written into its gaps."""
        pitch = frame.planes[0].pitch_bytes // like.itemsize
        empty = np.empty((like.shape[0] + 1) * pitch, like.dtype)
        buffer = self.take(frame.planes[0].address - gap_samples * like.itemsize, empty)
        pixels = rows_in(buffer, like.shape, gap_samples).copy()
        rows_in(buffer, like.shape, gap_samples)[...] = 0
        assert not buffer.any(), "wrote outside its frame"
        return pixels

    def put_yuv(self, planes: Sequence[Array], layout: str) -> DeviceFrame:
        return DeviceFrame(
            f"{layout}_u8",
            len(planes[0]),
            planes[0].shape[1] * (2 if layout == "yuyv" else 1),
            tuple(Plane(self.put(plane), plane.strides[0]) for plane in planes),
            tuple(COLOUR.to_rgb.tolist()),
            tuple(COLOUR.to_yuv.tolist()),
        )


@dataclass(frozen=True)
class Sizes:
    """In pixels; even ones where pixels share chroma."""

    frame: tuple[int, int] = (25, 37)
    yuv: tuple[int, int] = (26, 38)
    tile: tuple[int, int] = (20, 28)


@pytest.fixture
def sizes() -> Sizes:
    return Sizes()


@pytest.fixture
def same() -> Check:
    """How kernel and twin are compared: on the host, bit by bit."""
    return assert_same


@pytest.fixture
def stream(device: Device) -> Stream:
    return Stream(device)


@pytest.fixture
def memory(device: Device, stream: Stream) -> Memory:
    return Memory(device, stream)


@pytest.fixture
def kernels(device: Device) -> TileKernels:
    return TileKernels(device)


def random_yuv(layout: str, size_px: tuple[int, int]) -> list[Array]:
    height, width = size_px
    half = (height // 2, width // 2)
    shapes: dict[str, list[tuple[int, ...]]] = {
        "nv12": [size_px, (*half, 2)],
        "i420": [size_px, half, half],
        "yuyv": [(height, width // 2, 4)],
    }
    random = np.random.default_rng(71)
    return [random.integers(0, 256, shape, np.uint8) for shape in shapes[layout]]


def random_frame(frame_format: str, size_px: tuple[int, int]) -> Array:
    shape, sample = shape_of(size_px, frame_format), SAMPLES[frame_format.split("_")[1]]
    count = int(np.prod(shape))
    return random_samples(np.random.default_rng(72), count, sample).reshape(shape)


@pytest.mark.parametrize(("value", "channels", "last"), [("f16", 3, False), ("f32", 8, True)])
@pytest.mark.parametrize("gap", [0, 1])
@pytest.mark.parametrize("frame_format", FORMATS)
def test_load(
    frame_format: str,
    gap: int,
    value: str,
    channels: int,
    last: bool,
    sizes: Sizes,
    same: Check,
    kernels: TileKernels,
    memory: Memory,
    stream: Stream,
) -> None:
    frame = random_frame(frame_format, sizes.frame)
    origins = some_origins(sizes.frame, sizes.tile)
    empty = np.full((len(origins), channels, *sizes.tile), np.nan, VALUES[value])
    tiles = memory.put_tiles(empty, last)
    source = memory.put_frame(frame, frame_format, gap)
    kernels.load(source, memory.put(origins), tiles, stream=stream)
    order = frame_format.split("_")[0]
    expected = load_tiles(frame, order, origins, sizes.tile, channels, VALUES[value])
    same(memory.take_tiles(tiles), expected, frame_format)


@pytest.mark.parametrize(("value", "channels", "last"), [("f16", 3, False), ("f32", 8, True)])
@pytest.mark.parametrize("gap", [0, 1])
@pytest.mark.parametrize("frame_format", FORMATS)
def test_store(
    frame_format: str,
    gap: int,
    value: str,
    channels: int,
    last: bool,
    sizes: Sizes,
    same: Check,
    kernels: TileKernels,
    memory: Memory,
    stream: Stream,
) -> None:
    frame = random_frame(frame_format, sizes.frame)
    order = frame_format.split("_")[0]
    random = np.random.default_rng(73)
    origins, kept = disjoint_regions(random, sizes.frame, sizes.tile)
    values = awkward_tiles(random, (len(origins), channels, *sizes.tile), VALUES[value])
    tiles, where, regions = memory.put_tiles(values, last), memory.put(origins), memory.put(kept)
    other = memory.put_frame(frame[::-1], frame_format)
    for alpha in ("none", "own", "other") if len(ORDERS[order]) == 4 else ("none",):
        target = memory.put_frame(frame, frame_format, gap)
        given = {"none": None, "own": target, "other": other}[alpha]
        kernels.store(tiles, where, regions, target, stream=stream, alpha=given)
        source = {"none": None, "own": frame, "other": frame[::-1]}[alpha]
        expected = store_tiles(frame, order, values, origins, kept, source)
        same(memory.take_frame(target, frame, gap), expected, f"{frame_format}, alpha {alpha}")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("layout", YUV_FORMATS)
def test_load_and_store_yuv(
    layout: str,
    value: str,
    sizes: Sizes,
    same: Check,
    kernels: TileKernels,
    memory: Memory,
    stream: Stream,
) -> None:
    planes = random_yuv(layout, sizes.yuv)
    frame = memory.put_yuv(planes, layout)
    origins = some_origins(sizes.yuv, sizes.tile)
    tiles = memory.put_tiles(np.zeros((len(origins), 3, *sizes.tile), VALUES[value]))
    kernels.load(frame, memory.put(origins), tiles, stream=stream)
    expected = load_tiles_yuv(planes, layout, COLOUR, origins, sizes.tile, 3, VALUES[value])
    same(memory.take_tiles(tiles), expected, "loaded")

    random = np.random.default_rng(73)
    places, kept = disjoint_regions(random, sizes.yuv, sizes.tile, 2)
    values = awkward_tiles(random, (len(places), 3, *sizes.tile), VALUES[value])
    tiles = memory.put_tiles(values)
    kernels.store(tiles, memory.put(places), memory.put(kept), frame, stream=stream)
    stored = store_tiles_yuv(planes, layout, COLOUR, values, places, kept)
    for plane, before, after in zip(frame.planes, planes, stored, strict=True):
        same(memory.take(plane.address, before), after, "stored")


@pytest.mark.parametrize("frame_format", [*FORMATS, "yuyv_u8", "nv12_u8"])
def test_luma_sums(
    frame_format: str, sizes: Sizes, kernels: TileKernels, memory: Memory, stream: Stream
) -> None:
    order = frame_format.split("_")[0]
    if order in YUV_FORMATS:
        pixels, *rest = random_yuv(order, sizes.yuv)
        frame = memory.put_yuv([pixels, *rest], order)
        pixels = pixels.reshape(*sizes.yuv, -1)
    else:
        pixels = random_frame(frame_format, sizes.frame)
        frame = memory.put_frame(pixels, frame_format, 1)
    sums = np.zeros((8, 8), np.uint64)
    address = memory.put(sums)
    kernels.luma_sums(frame, 2, address, stream=stream)
    twin_order = "gray" if order == "nv12" else order
    assert_same(memory.take(address, sums), luma_sums(pixels, twin_order, 2), frame_format)


def test_one_graph_restores_a_frame_batch_by_batch(
    sizes: Sizes,
    same: Check,
    kernels: TileKernels,
    memory: Memory,
    stream: Stream,
) -> None:
    """Load, blend in the ring, store: the same fixed launches for every batch and every frame."""
    batch, blend, value = 3, 4, "f16"
    cover = Tiling(sizes.tile, halo=3, blend=blend).cover(*sizes.frame)
    columns, count = len(cover.columns), len(cover)
    batches = -(-count // batch)
    beyond = ((0, batches * batch - count), (0, 0))
    origins = np.array([(column.origin, row.origin) for row, column in cover], np.int32)
    settled = np.array(
        [
            (row.settled.start, column.settled.start, row.settled.stop, column.settled.stop)
            for row, column in cover
        ],
        np.int32,
    )
    fading = next(span for span in (*cover.rows, *cover.columns) if span.fade_in)
    ramp = fading.weights[:blend].astype(np.float32)

    frame = np.random.default_rng(75).integers(0, 256, (*sizes.frame, 3), np.uint8)
    source, target = memory.put_frame(frame, "rgb_u8"), memory.put_frame(frame * 0, "rgb_u8")
    tables = [memory.put(np.pad(table, beyond)) for table in (origins, settled)]
    rows = [memory.put(np.zeros((batch, size), np.int32)) for size in (2, 4)]
    cursor, ramp_address = memory.put(np.zeros(1, np.int32)), memory.put(ramp)
    clock = np.zeros(2, np.uint64)
    clock_address = memory.put(clock)
    # The ring in whole batches, so that a batch is one row of it.
    ring_rows = -(-(columns + 1) // batch) + 1
    shape = (ring_rows * batch, 3, *sizes.tile)
    ring = memory.put_tiles(np.full(shape, np.nan, VALUES[value]))
    tiles = memory.put_tiles(np.zeros((batch, *shape[1:]), VALUES[value]))
    words = tiles.size_bytes // 4
    blended = memory.put_tiles(np.zeros((batch, *shape[1:]), VALUES[value]))

    def work() -> None:
        kernels.lap(clock_address, 0, stream=stream)
        for table, row, size in zip(tables, rows, (2, 4), strict=True):
            kernels.take_row(table, size * batch, cursor, batches, row, stream=stream)
        kernels.load(source, rows[0], tiles, stream=stream)
        kernels.put_row(tiles.address, words, cursor, ring_rows, ring.address, stream=stream)
        kernels.blend(ring, *tables, cursor, batch, columns, ramp_address, blend, stream=stream)
        kernels.take_row(ring.address, words, cursor, ring_rows, blended.address, stream=stream)
        kernels.store(blended, *rows, target, stream=stream)
        kernels.lap(clock_address, 1, stream=stream)
        kernels.advance(cursor, stream=stream)

    loaded = load_tiles(frame, "rgb", origins, sizes.tile, 3, VALUES[value])
    joined = blend_tiles(loaded, origins, settled, columns, ramp)
    expected = store_tiles(frame * 0, "rgb", joined, origins, settled, None)
    assert (expected == frame).all(), "what fades into its like comes back"
    work()  # compiles and loads the kernels, which a capture may not do
    stream.synchronize()
    with Graph(stream, work) as graph:
        for _ in range(2):
            memory.buffers[cursor].fill(0, stream=stream)
            for _ in range(batches):
                graph.launch(stream)
            same(memory.take_frame(target, frame), expected, "frame")
            assert memory.take(cursor, np.zeros(1, np.int32)) == batches
    begun, spent = memory.take(clock_address, clock).tolist()
    assert 0 < spent < begun


def test_rows_of_any_size(kernels: TileKernels, memory: Memory, stream: Stream) -> None:
    for words in (1, 4, 31, 33, 1025, 700_001):
        table = np.random.default_rng(76).integers(0, 1 << 32, (3, words), np.uint32)
        addresses = [memory.put(array) for array in (table, np.int32([5]), table[0], table)]
        taken, put = addresses[2], addresses[3]
        kernels.take_row(addresses[0], words, addresses[1], 3, taken, stream=stream)
        kernels.put_row(taken, words, addresses[1], 2, put, stream=stream)
        assert_same(memory.take(taken, table[0]), table[2], f"{words} words taken")
        expected = table.copy()
        expected[1] = table[2]
        assert_same(memory.take(put, table), expected, f"{words} words put")


def test_laps_on_the_fake_take_a_microsecond(
    kernels: TileKernels, memory: Memory, stream: Stream
) -> None:
    clock = np.zeros(3, np.uint64)
    address = memory.put(clock)
    for index in (0, 2, 2):
        kernels.lap(address, index, stream=stream)
    assert memory.take(address, clock)[1:].tolist() == [0, 2000]


# What a launch passes, against what the kernels take


class Recorder:
    """In place of `Kernels`: remembers names and formats, and how many arguments came."""

    def __init__(self) -> None:
        self.formats: dict[tuple[str, str], str] = {}

    def get(self, stem: str, name: str, argument_format: str) -> Recorder:
        self.formats[stem, name] = self._expected = argument_format
        return self

    def close(self) -> None:
        pass

    def launch(self, *arguments: float, grid: object, block: object, stream: object) -> None:
        struct.pack(self._expected, *arguments)


def every_call(kernels: TileKernels, stream: Stream) -> dict[tuple[str, str], str]:
    """The formats of all kernels, by file and name."""
    recorder = Recorder()
    kernels._kernels = recorder  # type: ignore[assignment]
    plane = Plane(256, 64)
    matrices = (0.0,) * 6, (0.0,) * 10
    counts = {"nv12": 2, "i420": 3}
    for frame_format, dtype in itertools.product(layouts.FORMATS, ("float16", "float32")):
        planes = (plane,) * counts.get(frame_format.split("_")[0], 1)
        frame = DeviceFrame(frame_format, 8, 8, planes, *matrices)
        tiles = DeviceTiles(256, 9, 3, 8, 8, dtype)
        kernels.load(frame, 256, tiles, stream=stream)
        kernels.store(tiles, 256, 256, frame, stream=stream)
        kernels.luma_sums(frame, 1, 256, stream=stream)
        kernels.blend(tiles, 256, 256, 256, 2, 3, 256, 4, stream=stream)
    kernels.take_row(256, 4, 256, 3, 256, stream=stream)
    kernels.put_row(256, 4, 256, 3, 256, stream=stream)
    kernels.advance(256, stream=stream)
    kernels.lap(256, 1, stream=stream)
    return recorder.formats


@pytest.mark.slow
def test_every_kernel_is_called_with_its_parameters(
    kernels: TileKernels, stream: Stream, tmp_path: Path
) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed: the kernels' parameters cannot be read")
    sizes = {"P": 8, "q": 8, "i": 4}
    formats = every_call(kernels, stream)
    found: dict[tuple[str, str], list[int]] = {}
    for source in sorted(KERNELS.glob("*.cu")):
        ptx = tmp_path / f"{source.stem}.ptx"
        command = [nvcc, "-ptx", "-arch=compute_90", "-o", str(ptx), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        for name, parameters in re.findall(r"\.entry (\w+)\((.*?)\)", ptx.read_text(), re.DOTALL):
            types = re.findall(
                r"\.param [^\n]*?\.[ub](64|32|8) [^\n\[,]*(?:\[(\d+)\])?", parameters
            )
            found[source.stem, name] = [int(size or int(bits) // 8) for bits, size in types]
    assert sorted(found) == sorted(formats)
    for key, argument_format in formats.items():
        passed: list[int] = []
        for letter, group in itertools.groupby(argument_format):
            count = len(list(group))
            passed += [4 * count] if letter == "f" else [sizes[letter]] * count
        assert passed == found[key], (key, argument_format)


# What is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "rgb_u32"}, r"no kernel takes 'rgb_u32'; need one of gray_u8, .*yuyv_u8"),
        ({"height": 0}, "0x4 pixels"),
        ({"format": "nv12_u8", "height": 5}, "5x4 pixels; need a height that is a multiple of 2"),
        ({"planes": ()}, "0 planes of rgb_u16; need 1"),
        ({"planes": (Plane(3, 24),)}, "at 0x3 with rows 24 bytes apart; need multiples of 2"),
        ({"planes": (Plane(4, -25),)}, "rows -25 bytes apart"),
        ({"load_matrix": (1.0,)}, "a load_matrix of 1 numbers; need 6"),
        ({"store_matrix": (1.0,) * 6}, "a store_matrix of 6 numbers; need 10"),
    ],
)
def test_frames_that_no_kernel_takes(change: dict, said: str) -> None:
    frame = {"format": "rgb_u16", "height": 4, "width": 4, "planes": (Plane(256, 24),)}
    with pytest.raises(FrameError, match=said):
        DeviceFrame(**{**frame, **change})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "int8"}, "tiles of int8; need float16 or float32"),
        ({"channels": 2}, "tiles of 2 channels; need 3 or more"),
        ({"channels_last": True, "channels": 6}, "of 6 channels; .*multiple of 4"),
        ({"channels_last": True, "channels": 8, "address": 258}, "at 0x102; need a multiple of 8"),
        ({"count": 65536}, "65536 tiles of 8x8 pixels; need 1 to 65535"),
        ({"width": 0}, "2 tiles of 8x0 pixels"),
    ],
)
def test_tiles_that_no_kernel_takes(change: dict, said: str) -> None:
    tiles = {"address": 256, "count": 2, "channels": 3, "height": 8, "width": 8}
    with pytest.raises(TilingError, match=said):
        DeviceTiles(**{**tiles, "dtype": "float16", **change})


def test_calls_that_cannot_be(kernels: TileKernels, stream: Stream) -> None:
    planes = (Plane(256, 16), Plane(512, 16))
    nv12 = DeviceFrame("nv12_u8", 4, 16, planes)
    rgb, rgba = (DeviceFrame(f, 4, 4, (Plane(256, 16),)) for f in ("rgb_u8", "rgba_u8"))
    smaller = DeviceFrame("rgba_u8", 3, 4, (Plane(256, 16),))
    tiles = DeviceTiles(256, 4, 3, 8, 8, "float32")
    with pytest.raises(FrameError, match="nv12_u8 frame without load_matrix"):
        kernels.load(nv12, 0, tiles, stream=stream)
    with pytest.raises(FrameError, match="nv12_u8 frame without store_matrix"):
        kernels.store(tiles, 0, 0, nv12, stream=stream)
    with pytest.raises(FrameError, match="alpha frame for nv12_u8"):
        kernels.store(tiles, 0, 0, nv12, stream=stream, alpha=nv12)
    for frame, alpha in ((rgb, rgb), (rgba, rgb), (rgba, smaller)):
        with pytest.raises(FrameError, match=f"alpha of {alpha.format} .*need the same format"):
            kernels.store(tiles, 0, 0, frame, stream=stream, alpha=alpha)
    with pytest.raises(TilingError, match=r"ring of 4 tiles for batches of 2 .* 2; need 5"):
        kernels.blend(tiles, 0, 0, 0, 2, 2, 0, 4, stream=stream)


def test_closed_kernels_launch_nothing(
    gpu: FakeGpu, kernels: TileKernels, stream: Stream, memory: Memory
) -> None:
    cursor = memory.put(np.zeros(1, np.int32))
    kernels.advance(cursor, stream=stream)
    stream.synchronize()
    assert gpu.live["module"] == 1
    kernels.close()
    kernels.close()
    assert gpu.live["module"] == 0
    with pytest.raises(DeviceError, match="is closed; make a new one"):
        kernels.advance(cursor, stream=stream)


def test_memory_that_is_not_there_is_an_error(kernels: TileKernels, stream: Stream) -> None:
    kernels.advance(4096, stream=stream)
    with pytest.raises(DeviceError, match="illegal memory access"):
        stream.synchronize()
