"""What is asked of the tile kernels on any GPU, through their typed calls: a module that has one
inherits `KernelCases`, which compares them with their NumPy twins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from kernel_samples import (
    FORMATS,
    assert_near,
    assert_same,
    awkward_tiles,
    disjoint_regions,
    plane_shapes,
    ramp_of,
    random_samples,
    regions_of,
    rows_in,
    shape_of,
    some_origins,
)
from kernel_twins import (
    COLOURS,
    ORDERS,
    SAMPLES,
    VALUES,
    YUV_FORMATS,
    Array,
    blend_tiles,
    enlarge_alpha,
    enlarge_tiles,
    load_tiles,
    load_tiles_yuv,
    luma_sums,
    nonfinite_values,
    store_tiles,
    store_tiles_yuv,
)

from mirnet_edge.cuda import Device, DeviceBuffer, Stream
from mirnet_edge.device.layouts import DeviceFrame, DeviceTiles, Plane
from mirnet_edge.device.noise_samples import NoiseSamples
from mirnet_edge.device.tile_kernels import TileKernels
from mirnet_edge.frames.noise_level import estimate_noise
from mirnet_edge.tiling.geometry import Tiling

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

    def put_tiles(self, tiles: Array) -> DeviceTiles:
        return DeviceTiles(self.put(tiles), tiles.shape, tiles.dtype.name)

    def take_tiles(self, tiles: DeviceTiles) -> Array:
        """(N, 3, H, W)."""
        return self.take(tiles.address, np.empty(tiles.shape, tiles.dtype))

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
def stream(device: Device) -> Stream:
    return Stream(device)


@pytest.fixture
def memory(device: Device, stream: Stream) -> Memory:
    return Memory(device, stream)


@pytest.fixture
def kernels(device: Device) -> TileKernels:
    return TileKernels(device)


def random_yuv(layout: str, size_px: tuple[int, int]) -> list[Array]:
    random = np.random.default_rng(71)
    return [random.integers(0, 256, shape, np.uint8) for shape in plane_shapes(size_px, layout)]


def random_frame(frame_format: str, size_px: tuple[int, int]) -> Array:
    shape, sample = shape_of(size_px, frame_format), SAMPLES[frame_format.split("_")[1]]
    count = int(np.prod(shape))
    return random_samples(np.random.default_rng(72), count, sample).reshape(shape)


@dataclass(frozen=True)
class Bench:
    """What a case runs on.

    Attributes:
        kernels, memory, stream: of a GPU.
        sizes: of frames and tiles.
        same: how kernel and twin are compared.
    """

    kernels: TileKernels
    memory: Memory
    stream: Stream
    sizes: Sizes
    same: Check


@pytest.fixture
def bench(kernels: TileKernels, memory: Memory, stream: Stream, sizes: Sizes, same: Check) -> Bench:
    return Bench(kernels, memory, stream, sizes, same)


class KernelCases:
    """Inherited where `device`, `sizes` and `same` are fixtures."""

    @pytest.mark.parametrize("value", VALUES)
    @pytest.mark.parametrize("gap", [0, 1])
    @pytest.mark.parametrize("frame_format", FORMATS)
    def test_load(self, frame_format: str, gap: int, value: str, bench: Bench) -> None:
        memory, sizes = bench.memory, bench.sizes
        frame = random_frame(frame_format, sizes.frame)
        origins = some_origins(sizes.frame, sizes.tile)
        empty = np.full((len(origins), 3, *sizes.tile), np.nan, VALUES[value])
        tiles = memory.put_tiles(empty)
        source = memory.put_frame(frame, frame_format, gap)
        bench.kernels.load(source, memory.put(origins), tiles, stream=bench.stream)
        order = frame_format.split("_")[0]
        expected = load_tiles(frame, order, origins, sizes.tile, VALUES[value])
        bench.same(memory.take_tiles(tiles), expected, frame_format)

    @pytest.mark.parametrize("value", VALUES)
    @pytest.mark.parametrize("gap", [0, 1])
    @pytest.mark.parametrize("frame_format", FORMATS)
    def test_store(self, frame_format: str, gap: int, value: str, bench: Bench) -> None:
        memory, sizes = bench.memory, bench.sizes
        frame = random_frame(frame_format, sizes.frame)
        order = frame_format.split("_")[0]
        random = np.random.default_rng(73)
        origins, kept = disjoint_regions(random, sizes.frame, sizes.tile)
        values = awkward_tiles(random, (len(origins), 3, *sizes.tile), VALUES[value])
        tiles, where, regions = memory.put_tiles(values), memory.put(origins), memory.put(kept)
        other = memory.put_frame(frame[::-1], frame_format)
        counter = np.zeros(1, np.uint64)
        stream, wrong = bench.stream, nonfinite_values(values, origins, kept, sizes.frame)
        for alpha in ("none", "own", "other") if len(ORDERS[order]) == 4 else ("none",):
            target = memory.put_frame(frame, frame_format, gap)
            given = {"none": None, "own": target, "other": other}[alpha]
            counted = memory.put(counter)
            bench.kernels.store(
                tiles, where, regions, target, stream=stream, alpha=given, nonfinite=counted
            )
            assert memory.take(counted, counter)[0] == wrong
            source = {"none": None, "own": frame, "other": frame[::-1]}[alpha]
            expected = store_tiles(frame, order, values, origins, kept, source)
            found = memory.take_frame(target, frame, gap)
            bench.same(found, expected, f"{frame_format}, alpha {alpha}")

    @pytest.mark.parametrize("value", VALUES)
    @pytest.mark.parametrize("layout", YUV_FORMATS)
    def test_load_and_store_yuv(self, layout: str, value: str, bench: Bench) -> None:
        memory, sizes = bench.memory, bench.sizes
        planes = random_yuv(layout, sizes.yuv)
        frame = memory.put_yuv(planes, layout)
        origins = some_origins(sizes.yuv, sizes.tile)
        tiles = memory.put_tiles(np.zeros((len(origins), 3, *sizes.tile), VALUES[value]))
        bench.kernels.load(frame, memory.put(origins), tiles, stream=bench.stream)
        expected = load_tiles_yuv(planes, layout, COLOUR, origins, sizes.tile, VALUES[value])
        bench.same(memory.take_tiles(tiles), expected, "loaded")

        random = np.random.default_rng(73)
        places, kept = disjoint_regions(random, sizes.yuv, sizes.tile, 2)
        values = awkward_tiles(random, (len(places), 3, *sizes.tile), VALUES[value])
        tiles, where, regions = memory.put_tiles(values), memory.put(places), memory.put(kept)
        counter = np.zeros(1, np.uint64)
        counted = memory.put(counter)
        bench.kernels.store(tiles, where, regions, frame, stream=bench.stream, nonfinite=counted)
        shared = (1 if layout == "yuyv" else 2, 2)
        wrong = nonfinite_values(values, places, kept, sizes.yuv, shared)
        assert memory.take(counted, counter)[0] == wrong
        stored = store_tiles_yuv(planes, layout, COLOUR, values, places, kept)
        for plane, before, after in zip(frame.planes, planes, stored, strict=True):
            bench.same(memory.take(plane.address, before), after, "stored")

    @pytest.mark.parametrize("value", VALUES)
    def test_blend(self, value: str, bench: Bench) -> None:
        memory, (height, width) = bench.memory, bench.sizes.tile
        batch, blend = 5, 4
        cover = Tiling((height, width), halo=3, blend=blend).cover(3 * height - 15, 2 * width + 27)
        columns, count = len(cover.columns), len(cover)
        beyond = ((0, -count % batch), (0, 0))
        origins, settled = regions_of(cover)
        ramp = ramp_of(cover, blend)
        shape = (count + -count % batch + columns + 1, 3, height, width)
        values = np.random.default_rng(81).normal(0.5, 0.3, shape).astype(VALUES[value])
        ring = memory.put_tiles(values)
        tables = [memory.put(np.pad(table, beyond)) for table in (origins, settled)]
        ramp_address = memory.put(ramp)
        for index in range(-(-count // batch)):
            cursor = memory.put(np.array([index], np.int32))
            bench.kernels.blend(
                ring, *tables, cursor, batch, columns, ramp_address, blend, stream=bench.stream
            )
        expected = blend_tiles(values[:count], origins, settled, columns, ramp)
        bench.same(memory.take_tiles(ring)[:count], expected, value)

    @pytest.mark.parametrize("frame_format", [*FORMATS, "yuyv_u8", "nv12_u8"])
    def test_luma_sums(self, frame_format: str, bench: Bench) -> None:
        memory, sizes = bench.memory, bench.sizes
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
        bench.kernels.luma_sums(frame, 2, address, stream=bench.stream)
        twin_order = "gray" if order == "nv12" else order
        # Whole numbers: no step is allowed, on any GPU.
        assert_same(memory.take(address, sums), luma_sums(pixels, twin_order, 2), frame_format)

    @pytest.mark.parametrize("value", VALUES)
    @pytest.mark.parametrize("scale", [2, 3, 4])
    def test_enlarge(self, scale: int, value: str, bench: Bench) -> None:
        """A frame loaded as one tile, enlarged into tiles that have one plane more, which is set
        after."""
        memory, (height, width) = bench.memory, bench.sizes.frame
        frame = random_frame("rgb_u8", (height, width))
        planes = memory.put_tiles(np.full((1, 3, height, width + 3), np.nan, VALUES[value]))
        source, corner = memory.put_frame(frame, "rgb_u8", 1), memory.put(np.zeros(2, np.int32))
        bench.kernels.load(source, corner, planes, stream=bench.stream)
        loaded = memory.take_tiles(planes)[0, ..., :width]

        tile = tuple(12 * (-(-side // 12)) for side in bench.sizes.tile)
        anywhere = some_origins((scale * height, scale * width), tile)
        origins = np.concatenate([np.array([(0, 0), (24, 12), (12, 48)], np.int32), anywhere])
        empty = np.full((len(origins), 4, *tile), np.nan, VALUES[value])
        tiles, where = memory.put_tiles(empty), memory.put(origins)
        size = (height, width)
        bench.kernels.enlarge(planes, size, where, tiles, scale, stream=bench.stream)
        bench.kernels.fill_plane(tiles, 0.3, stream=bench.stream)
        found = memory.take_tiles(tiles)
        assert_near(found[:, :3], enlarge_tiles(loaded, scale, origins, tile), f"x{scale}")
        assert_same(found[:, 3:], np.full_like(found[:, 3:], 0.3), "the last plane")

    @pytest.mark.parametrize("sample", SAMPLES)
    @pytest.mark.parametrize("scale", [2, 3, 4])
    def test_enlarge_alpha(self, scale: int, sample: str, bench: Bench) -> None:
        memory, (height, width) = bench.memory, bench.sizes.frame
        frame = random_frame(f"rgba_{sample}", (height, width))
        larger = random_frame(f"rgba_{sample}", (scale * height, scale * width))
        source = memory.put_frame(frame, f"rgba_{sample}", 1)
        target = memory.put_frame(larger, f"rgba_{sample}", 1)
        bench.kernels.enlarge_alpha(source, target, scale, stream=bench.stream)
        found = memory.take_frame(target, larger, 1)
        expected = enlarge_alpha(frame, larger, scale)
        assert_same(found[..., :3], expected[..., :3], "colours")
        difference = np.abs(found[..., 3].astype(np.float64) - expected[..., 3])
        assert difference.max() <= (4e-6 if sample == "f32" else 1)

    @pytest.mark.parametrize("value", VALUES)
    @pytest.mark.parametrize("frame_format", ["rgb_u8", "gray_u16", "nv12_u8", "yuyv_u8"])
    def test_load_leaves_other_planes_alone(
        self, frame_format: str, value: str, bench: Bench
    ) -> None:
        memory, sizes = bench.memory, bench.sizes
        layout = frame_format.split("_")[0]
        if layout in YUV_FORMATS:
            frame = memory.put_yuv(random_yuv(layout, sizes.yuv), layout)
        else:
            frame = memory.put_frame(random_frame(frame_format, sizes.frame), frame_format)
        origins = memory.put(some_origins(sizes.yuv, sizes.tile))
        loaded = []
        for planes in (3, 4):
            empty = np.full((6, planes, *sizes.tile), -7, VALUES[value])
            tiles = memory.put_tiles(empty)
            bench.kernels.load(frame, origins, tiles, stream=bench.stream)
            loaded.append(memory.take_tiles(tiles))
        assert_same(loaded[1][:, :3], loaded[0], frame_format)
        assert (loaded[1][:, 3] == -7).all()
        assert (loaded[0] != -7).all()

    @pytest.mark.parametrize("frame_format", ["rgb_u8", "gray_f32", "nv12_u8"])
    @pytest.mark.usefixtures("random_estimator")
    def test_noise(self, frame_format: str, bench: Bench) -> None:
        """As in NumPy, of the frame as it was once what is queued on the second stream has ended,
        in sizes of several numbers of crops, which come again."""
        memory, second = bench.memory, Stream(bench.stream.device)
        layout, corner, value = (
            frame_format.split("_")[0],
            np.zeros((1, 2), np.int32),
            VALUES["f32"],
        )
        with NoiseSamples(bench.kernels, uploads=bench.stream, compute=second) as samples:
            for size in ((66, 202), (130, 70), (30, 202), (66, 202)):
                if layout == "nv12":
                    planes = random_yuv(layout, size)
                    frame = memory.put_yuv(planes, layout)
                    loaded = load_tiles_yuv(planes, layout, COLOUR, corner, size, value)
                else:
                    pixels = random_frame(frame_format, size).clip(-2, 3)
                    frame = memory.put_frame(pixels, frame_format)
                    loaded = load_tiles(pixels, layout, corner, size, value)
                found = samples.begin(frame)
                second.synchronize()
                for plane in frame.planes:
                    memory.buffers[plane.address].fill(0, stream=second)
                second.synchronize()
                assert found() == pytest.approx(estimate_noise(loaded[0]), rel=1e-3)

    def test_rows_of_any_size(self, bench: Bench) -> None:
        kernels, memory, stream = bench.kernels, bench.memory, bench.stream
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
            kernels.advance(addresses[1], stream=stream)
            assert memory.take(addresses[1], np.int32([0])) == 6
