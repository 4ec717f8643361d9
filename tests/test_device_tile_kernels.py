"""The tile kernels through their typed calls, on a GPU in host memory, against their twins."""

from __future__ import annotations

import itertools
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fake_gpu import FakeGpu
from kernel_cases import Check, KernelCases, Memory, Sizes
from kernel_cases import bench as bench
from kernel_cases import kernels as kernels
from kernel_cases import memory as memory
from kernel_cases import stream as stream
from kernel_host import KERNELS
from kernel_host import host_fixture as host_fixture
from kernel_samples import FORMATS, assert_same, ramp_of, regions_of
from kernel_sources import all_families, hasty
from kernel_twins import SAMPLES, VALUES, YUV_FORMATS, blend_tiles, load_tiles, store_tiles
from noise_weights import random_estimator as random_estimator
from noise_weights import random_weights

from mirnet_edge.cuda import Graph, Stream
from mirnet_edge.device.layouts import DeviceFrame, DeviceTiles, Plane
from mirnet_edge.device.noise_network import NoiseNetwork
from mirnet_edge.device.tile_kernels import TileKernels
from mirnet_edge.errors import DeviceError, FrameError
from mirnet_edge.frames.noise_estimator import NoiseEstimator
from mirnet_edge.tiling.geometry import Tiling

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture
def sizes() -> Sizes:
    return Sizes()


@pytest.fixture
def same() -> Check:
    """How kernel and twin are compared: on the host, bit by bit."""
    return assert_same


class TestOnAGpuInHostMemory(KernelCases):
    """Bit by bit as the twins."""


def test_one_graph_restores_a_frame_batch_by_batch(
    sizes: Sizes,
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
    origins, settled = regions_of(cover)
    ramp = ramp_of(cover, blend)

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

    loaded = load_tiles(frame, "rgb", origins, sizes.tile, VALUES[value])
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
            assert_same(memory.take_frame(target, frame), expected, "frame")
            assert memory.take(cursor, np.zeros(1, np.int32)) == batches
    begun, spent = memory.take(clock_address, clock).tolist()
    assert 0 < spent < begun


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
    matrices = (0.0,) * 6, (0.0,) * 10  # of Y'CbCr frames alone, as `ArrayLayout.frame_at` has it
    counts = {"nv12": 2, "i420": 3}
    every = [*FORMATS, *(f"{layout}_u8" for layout in YUV_FORMATS)]
    for frame_format, dtype in itertools.product(every, ("float16", "float32")):
        layout = frame_format.split("_")[0]
        planes = (plane,) * counts.get(layout, 1)
        conversions = matrices if layout in YUV_FORMATS else ()
        frame = DeviceFrame(frame_format, 8, 8, planes, *conversions)
        tiles = DeviceTiles(256, (9, 3, 8, 8), dtype)
        kernels.load(frame, 256, tiles, stream=stream)
        kernels.store(tiles, 256, 256, frame, stream=stream)
        kernels.luma_sums(frame, 1, 256, stream=stream)
        kernels.blend(tiles, 256, 256, 256, 2, 3, 256, 4, stream=stream)
    for scale, dtype in itertools.product((2, 3, 4), ("float16", "float32")):
        tiles = DeviceTiles(256, (9, 3, 24, 24), dtype)
        kernels.enlarge(tiles, (8, 8), 256, tiles, scale, stream=stream)
        kernels.fill_plane(tiles, 0.5, stream=stream)
    for scale, sample in itertools.product((2, 3, 4), SAMPLES):
        frames = (DeviceFrame(f"rgba_{sample}", size, size, (plane,)) for size in (8, 8 * scale))
        kernels.enlarge_alpha(*frames, scale, stream=stream)
    kernels.take_row(256, 4, 256, 3, 256, stream=stream)
    kernels.put_row(256, 4, 256, 3, 256, stream=stream)
    kernels.advance(256, stream=stream)
    kernels.lap(256, 1, stream=stream)
    network = NoiseNetwork(NoiseEstimator(random_weights()), stream=stream)
    network._kernels = recorder  # type: ignore[assignment]
    network._queue(1)
    return recorder.formats


@pytest.mark.slow
def test_every_kernel_is_called_with_its_parameters(
    kernels: TileKernels, stream: Stream, tmp_path: Path
) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed: the kernels' parameters cannot be read")
    options = ["-ptx", "-arch=compute_90", f"-I{KERNELS}", *hasty(nvcc)]
    sizes = {"P": 8, "q": 8, "i": 4}
    formats = every_call(kernels, stream)
    everything, ptx = tmp_path / "kernels.cu", tmp_path / "kernels.ptx"
    all_families(everything)
    subprocess.run([nvcc, *options, "-o", ptx, everything], check=True, capture_output=True)
    # The preprocessor, which puts the names of kernels together, tells whose each is.
    texts = {}
    for source in KERNELS.glob("*.cu"):
        command = ["g++", "-E", "-P", "-x", "c++", source]
        texts[source.stem] = subprocess.run(
            command, check=True, capture_output=True
        ).stdout.decode()
    found: dict[tuple[str, str], list[int]] = {}
    for name, parameters in re.findall(r"\.entry (\w+)\((.*?)\)", ptx.read_text(), re.DOTALL):
        types = re.findall(r"\.param [^\n]*?\.[ubf](64|32|8) [^\n\[,]*(?:\[(\d+)\])?", parameters)
        (stem,) = [stem for stem, text in texts.items() if re.search(rf"\b{name}\s*\(", text)]
        found[stem, name] = [int(size or int(bits) // 8) for bits, size in types]
    assert sorted(found) == sorted(formats)
    for key, argument_format in formats.items():
        passed: list[int] = []
        for letter, group in itertools.groupby(argument_format):
            count = len(list(group))
            passed += [4 * count] if letter == "f" else [sizes[letter]] * count
        assert passed == found[key], (key, argument_format)


@pytest.mark.parametrize("plane", [Plane(3, 24), Plane(4, -25)])
def test_planes_that_are_not_aligned_to_their_samples(plane: Plane) -> None:
    said = f"at {plane.address:#x} with rows {plane.pitch_bytes} bytes apart; need multiples of 2"
    with pytest.raises(FrameError, match=said):
        DeviceFrame("rgb_u16", 4, 4, (plane,))


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
