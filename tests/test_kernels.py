"""The CUDA kernels, run on the host from the same source, against their NumPy twins; and compiled
by nvcc for every architecture the project serves.

Both sides do the same float32 operations in the same order, so the comparisons ask for equal bits:
the one rounding step that the kernels are allowed is not needed on the host.
"""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_twins import ORDERS, SAMPLES, VALUES, Array, load_tiles, reflected, store_tiles

KERNELS = Path(__file__).parents[1] / "kernels"
HOST_HEADERS = Path(__file__).parent / "kernels"

FORMATS = [f"{order}_{sample}" for order, sample in itertools.product(ORDERS, SAMPLES)]
SYMBOLS = [
    f"{kernel}_{frame}_{value}"
    for kernel, frame, value in itertools.product(("load_tiles", "store_tiles"), FORMATS, VALUES)
]
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 110, 120, 121)

# Height and width of frames and of tiles, odd ones and tiles larger than the frame on purpose.
FRAME_SIZES_PX = ((1, 1), (1, 6), (5, 1), (2, 3), (13, 17), (24, 40))
TILE_SIZES_PX = ((8, 8), (7, 5), (20, 28))
# Between rows, and before the first.
GAPS_SAMPLES = (0, 1, 7)

# The kernels of one shape share one launcher; the grid is smaller than the tile, so that the loops
# that stride over it run too.
LAUNCHERS = """
#include "host_cuda.h"
#include "load_tiles.cu"
#include "store_tiles.cu"

extern "C" void launch_load_tiles(decltype(&load_tiles_rgb_u8_f16) kernel, unsigned tile_count,
                                  const void* frame, long long pitch_bytes, int height, int width,
                                  const int2* origins, void* tiles, int tile_height,
                                  int tile_width, int padded_channels) {
    launch(kernel, {2, 2, tile_count}, {2, 3, 1}, frame, pitch_bytes, height, width, origins, tiles,
           tile_height, tile_width, padded_channels);
}

extern "C" void launch_store_tiles(decltype(&store_tiles_rgb_u8_f16) kernel, unsigned tile_count,
                                   const void* tiles, int tile_height, int tile_width,
                                   int padded_channels, const int2* origins, const int4* kept,
                                   void* frame, long long pitch_bytes, int height, int width,
                                   const void* alpha, long long alpha_pitch_bytes) {
    launch(kernel, {2, 2, tile_count}, {2, 3, 1}, tiles, tile_height, tile_width, padded_channels,
           origins, kept, frame, pitch_bytes, height, width, alpha, alpha_pitch_bytes);
}

extern "C" void halves_of(const float* values, __half* halves, int count) {
    for (int i = 0; i < count; ++i) halves[i] = __float2half_rn(values[i]);
}

extern "C" void floats_of(const __half* halves, float* values, int count) {
    for (int i = 0; i < count; ++i) values[i] = __half2float(halves[i]);
}
"""


class HostKernels:
    """The kernels as host functions on NumPy arrays."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))

    def load_tiles(
        self,
        frame: Array,
        order: str,
        origins: Array,
        tile_size_px: tuple[int, int],
        padded_channels: int,
        value: str,
        guard_bytes: int = 16,
    ) -> Array:
        shape = (len(origins), padded_channels, *tile_size_px)
        buffer, tiles = guarded(shape, VALUES[value], guard_bytes)
        self.library.launch_load_tiles(
            self._kernel(f"load_tiles_{order}_{name_of(frame)}_{value}"),
            len(origins),
            pointer(frame),
            ctypes.c_longlong(frame.strides[0]),
            *frame.shape[:2],
            pointer(origins),
            pointer(tiles),
            *tile_size_px,
            padded_channels,
        )
        outside = np.concatenate([buffer[:guard_bytes], buffer[guard_bytes + tiles.nbytes :]])
        assert (outside == 0xA5).all(), "the kernel wrote outside its array"
        return tiles

    def store_tiles(
        self,
        frame: Array,
        order: str,
        tiles: Array,
        origins: Array,
        kept: Array,
        alpha: Array | None,
    ) -> None:
        value = "f16" if tiles.dtype == np.float16 else "f32"
        self.library.launch_store_tiles(
            self._kernel(f"store_tiles_{order}_{name_of(frame)}_{value}"),
            len(origins),
            pointer(tiles),
            *tiles.shape[2:],
            tiles.shape[1],
            pointer(origins),
            pointer(kept),
            pointer(frame),
            ctypes.c_longlong(frame.strides[0]),
            *frame.shape[:2],
            None if alpha is None else pointer(alpha),
            ctypes.c_longlong(0 if alpha is None else alpha.strides[0]),
        )

    def _kernel(self, name: str) -> ctypes.c_void_p:
        return ctypes.cast(getattr(self.library, name), ctypes.c_void_p)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed: the kernels cannot be compiled for the host")
    folder = tmp_path_factory.mktemp("host_kernels")
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text(LAUNCHERS)
    # Samples are read as words, as every CUDA kernel may: hence no strict aliasing. No contraction,
    # which would round once where the twin rounds twice. A word off its alignment is an error on a
    # GPU and none on most hosts: the sanitizer reports it, and overflow and bad shifts besides.
    flags = "-std=c++17 -O1 -fno-strict-aliasing -ffp-contract=off -shared -fPIC -Wall -Wextra"
    flags += f" -fsanitize=undefined -Werror -Wno-unknown-pragmas -I{HOST_HEADERS} -I{KERNELS}"
    run([compiler, *flags.split(), "-o", str(library), str(source)])
    return HostKernels(library)


@pytest.fixture(autouse=True)
def no_sanitizer_report(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    report = capfd.readouterr().err
    assert "runtime error" not in report, report


def run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"


def pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def name_of(frame: Array) -> str:
    return next(name for name, dtype in SAMPLES.items() if dtype == frame.dtype)


def guarded(shape: tuple[int, ...], dtype: np.dtype[Any], guard_bytes: int) -> tuple[Array, Array]:
    """A buffer of 0xA5 and a view of it with ``guard_bytes`` on either side."""
    size_bytes = int(np.prod(shape)) * dtype.itemsize
    buffer = np.full(size_bytes + 2 * guard_bytes, 0xA5, np.uint8)
    return buffer, buffer[guard_bytes : guard_bytes + size_bytes].view(dtype).reshape(shape)


def random_samples(random: np.random.Generator, count: int, sample: np.dtype[Any]) -> Array:
    if sample.kind == "f":
        return random.normal(0.5, 1.0, count).astype(sample)
    return random.integers(0, np.iinfo(sample).max, count, sample, endpoint=True)


def pitched_buffer(
    random: np.random.Generator, size_px: tuple[int, int], frame_format: str, gap_samples: int
) -> Array:
    """Room for a frame that begins ``gap_samples`` in and whose rows lie as many samples apart, so
    that they are aligned to a sample and to nothing more."""
    order, sample = frame_format.split("_")
    row_samples = size_px[1] * len(ORDERS[order]) + gap_samples
    return random_samples(random, gap_samples + size_px[0] * row_samples, SAMPLES[sample])


def frame_in(buffer: Array, size_px: tuple[int, int], frame_format: str, gap_samples: int) -> Array:
    """The frame (H, W, C) that lies in a buffer of ``pitched_buffer``."""
    (height, width), channels = size_px, len(ORDERS[frame_format.split("_")[0]])
    item = buffer.itemsize
    strides = ((width * channels + gap_samples) * item, channels * item, item)
    return np.lib.stride_tricks.as_strided(buffer[gap_samples:], (height, width, channels), strides)


def some_origins(size_px: tuple[int, int], tile_size_px: tuple[int, int]) -> Array:
    """x, y of tiles inside, over each border, and several frames away."""
    height, width = size_px
    tile_height, tile_width = tile_size_px
    return np.array(
        [
            (0, 0),
            (1, 2),
            (-3, -2),
            (width - tile_width + 3, height - tile_height + 1),
            (-5 * width - 2, 1 - height),
            (4 * width + 1, 7 * height + 3),
        ],
        np.int32,
    )


def assert_same(actual: Array, expected: Array, what: str) -> None:
    same = (actual == expected) | ((actual != actual) & (expected != expected))
    if not same.all():
        where = tuple(int(i) for i in np.argwhere(~same)[0])
        raise AssertionError(
            f"{what}: {np.count_nonzero(~same)} of {same.size} differ, first at {where}: "
            f"kernel {actual[where]!r}, twin {expected[where]!r}"
        )


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_twins_reflection_is_that_of_numpy(size: int) -> None:
    expected = np.pad(np.arange(size), 25, mode="reflect")
    assert [reflected(i, size) for i in range(-25, size + 25)] == expected.tolist()


def test_host_halves_are_those_of_numpy(host: HostKernels) -> None:
    every = np.arange(65536, dtype=np.uint16)
    floats = np.empty(65536, np.float32)
    host.library.floats_of(pointer(every), pointer(floats), 65536)
    assert_same(floats, every.view(np.float16).astype(np.float32), "half to float")

    # Each half, the middles between halves (ties), a bit to either side of those, and overflow.
    finite = np.sort(floats[np.isfinite(floats)])
    middles = (finite[:-1] + finite[1:]) / np.float32(2)
    above, below = np.nextafter(middles, np.float32(9e9)), np.nextafter(middles, np.float32(-9e9))
    extremes = np.array([65519.99, 65520, -65520, 1e9, 1e-9, -1e-30], np.float32)
    values = np.concatenate([floats, middles, above, below, extremes])
    halves = np.empty(len(values), np.float16)
    host.library.halves_of(pointer(values), pointer(halves), len(values))
    with np.errstate(over="ignore"):
        assert_same(halves, values.astype(np.float16), "float to half")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("frame_format", FORMATS)
def test_load_tiles(host: HostKernels, frame_format: str, value: str) -> None:
    random = np.random.default_rng(4)
    order = frame_format.split("_")[0]
    for size_px, tile_size_px, gap, padded in itertools.product(
        FRAME_SIZES_PX, TILE_SIZES_PX, GAPS_SAMPLES, (3, 8)
    ):
        buffer = pitched_buffer(random, size_px, frame_format, gap)
        frame = frame_in(buffer, size_px, frame_format, gap)
        origins = some_origins(size_px, tile_size_px)
        # Behind 16 bytes the batch is aligned for whole vectors; behind a value more it is not.
        guard_bytes = 16 if gap == 0 else 16 + VALUES[value].itemsize
        actual = host.load_tiles(frame, order, origins, tile_size_px, padded, value, guard_bytes)
        expected = load_tiles(frame, order, origins, tile_size_px, padded, VALUES[value])
        assert_same(actual, expected, f"frame {size_px}, tile {tile_size_px}, gap {gap}")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("frame_format", FORMATS)
def test_store_tiles(host: HostKernels, frame_format: str, value: str) -> None:
    random = np.random.default_rng(5)
    order = frame_format.split("_")[0]
    for size_px, tile_size_px, gap, padded in itertools.product(
        FRAME_SIZES_PX, TILE_SIZES_PX, GAPS_SAMPLES, (3, 5)
    ):
        buffer = pitched_buffer(random, size_px, frame_format, gap)
        frame = frame_in(buffer, size_px, frame_format, gap)
        other = frame_in(pitched_buffer(random, size_px, frame_format, 2), size_px, frame_format, 2)
        origins, kept = disjoint_regions(random, size_px, tile_size_px)
        tiles = awkward_tiles(random, (len(origins), padded, *tile_size_px), VALUES[value])
        for alpha in (frame, other, None):
            # The twin's buffer is compared whole: what lies between the rows must not change.
            expected = buffer.copy()
            frame_in(expected, size_px, frame_format, gap)[...] = store_tiles(
                frame, order, tiles, origins, kept, alpha
            )
            host.store_tiles(frame, order, tiles, origins, kept, alpha)
            assert_same(buffer, expected, f"frame {size_px}, tile {tile_size_px}, gap {gap}")


def disjoint_regions(
    random: np.random.Generator, size_px: tuple[int, int], tile_size_px: tuple[int, int]
) -> tuple[Array, Array]:
    """Origins and kept regions on a grid with a cell left out, each tile up to 3 pixels off its
    region, so that every alignment of tile and frame comes up. The regions in the last row and
    column leave the frame: the kernel must cut them."""
    rows, columns = (
        range(0, size, tile - 3) for size, tile in zip(size_px, tile_size_px, strict=True)
    )
    cells = list(itertools.product(rows, columns))
    cells = cells[: max(1, len(cells) - 1)]
    kept = [(y, x, y + tile_size_px[0] - 3, x + tile_size_px[1] - 3) for y, x in cells]
    halos = random.integers(0, 3, (len(cells), 2), endpoint=True)
    pairs = zip(cells, halos, strict=True)
    origins = [(x - halo_x, y - halo_y) for (y, x), (halo_y, halo_x) in pairs]
    return np.array(origins, np.int32), np.array(kept, np.int32)


def awkward_tiles(
    random: np.random.Generator, shape: tuple[int, ...], value: np.dtype[Any]
) -> Array:
    """Values inside and outside 0..1, with NaN, infinities and the ends of the range among them."""
    values = random.normal(0.5, 0.5, shape).astype(value).reshape(-1)
    values[::7] = np.resize([np.nan, np.inf, -np.inf, 0, 1, 2, -1, -0.0], len(values[::7]))
    return values.reshape(shape)


def test_rows_may_lie_bottom_first(host: HostKernels) -> None:
    frame = np.random.default_rng(7).integers(0, 256, (9, 11, 3), np.uint8)
    flipped = np.ascontiguousarray(frame[::-1])[::-1]
    assert flipped.strides[0] == -33
    origins, kept = np.array([(-2, -3)], np.int32), np.array([(0, 0, 9, 11)], np.int32)
    tiles = host.load_tiles(flipped, "rgb", origins, (16, 16), 3, "f16")
    expected = load_tiles(frame, "rgb", origins, (16, 16), 3, VALUES["f16"])
    assert_same(tiles, expected, "loaded from a negative pitch")
    back = np.zeros_like(frame)[::-1]
    host.store_tiles(back, "rgb", tiles, origins, kept, None)
    assert_same(back, frame, "stored to a negative pitch")


def test_a_kept_region_is_cut_to_its_tile(host: HostKernels) -> None:
    frame = np.full((9, 11, 3), 7, np.uint8)
    everything = np.array([(-100, -100, 100, 100)], np.int32)
    host.store_tiles(
        frame,
        "rgb",
        np.ones((1, 3, 4, 4), np.float32),
        np.array([(5, 3)], np.int32),
        everything,
        None,
    )
    expected = np.full((9, 11, 3), 7, np.uint8)
    expected[3:7, 5:9] = 255
    assert_same(frame, expected, "region of 200 x 200 pixels, tile of 4 x 4")


def test_an_empty_region_stores_nothing(host: HostKernels) -> None:
    frame = np.full((8, 8, 4), 7, np.uint8)
    tiles = np.ones((3, 3, 8, 8), np.float32)
    origins = np.array([(0, 0), (0, 0), (50, 0)], np.int32)
    kept = np.array([(2, 2, 2, 6), (5, 5, 3, 3), (0, 50, 8, 58)], np.int32)
    host.store_tiles(frame, "rgba", tiles, origins, kept, None)
    assert (frame == 7).all()


@pytest.mark.parametrize("sample", ["u8", "u16"])
def test_every_sample_is_divided_as_numpy_divides(host: HostKernels, sample: str) -> None:
    count = np.iinfo(SAMPLES[sample]).max + 1
    frame = np.arange(count).astype(SAMPLES[sample]).reshape(-1, 256, 1)
    tiles = host.load_tiles(frame, "gray", np.zeros((1, 2), np.int32), frame.shape[:2], 3, "f32")
    assert_same(tiles[0, 0], frame[..., 0].astype(np.float32) / np.float32(count - 1), sample)


@pytest.mark.parametrize("sample", ["u8", "u16"])
def test_samples_round_to_nearest_with_ties_to_even(host: HostKernels, sample: str) -> None:
    maximum = np.float32(np.iinfo(SAMPLES[sample]).max)
    levels = np.arange(0, 256, dtype=np.float32)
    values = (levels + np.float32(0.5)) / maximum
    ties = values * maximum == levels + np.float32(0.5)
    assert np.count_nonzero(ties) > 100, "too few exact ties to tell one rounding from another"
    tiles = np.broadcast_to(values.reshape(16, 16), (1, 3, 16, 16)).copy()
    frame = np.zeros((16, 16, 3), SAMPLES[sample])
    kept = np.array([(0, 0, 16, 16)], np.int32)
    host.store_tiles(frame, "rgb", tiles, np.zeros((1, 2), np.int32), kept, None)
    even = (2 * np.round((levels + 0.5) / 2)).reshape(16, 16)[ties.reshape(16, 16)]
    assert_same(frame[..., 1][ties.reshape(16, 16)], np.minimum(even, maximum), "ties")


@pytest.mark.parametrize(
    ("frame_format", "value"),
    [
        ("rgb_u8", "f16"),
        ("bgra_u8", "f16"),
        ("gray_u8", "f16"),
        ("bgr_u16", "f32"),
        ("rgba_f32", "f32"),
    ],
)
def test_a_frame_comes_back_from_its_tiles(
    host: HostKernels, frame_format: str, value: str
) -> None:
    # Everything a multiple of 4, as an engine has it: the path of whole vectors and words.
    order = frame_format.split("_")[0]
    buffer = pitched_buffer(np.random.default_rng(6), (24, 36), frame_format, 0)
    frame = frame_in(buffer, (24, 36), frame_format, 0)
    kept = np.array(
        [(y, x, y + 12, x + 12) for y in range(0, 24, 12) for x in range(0, 36, 12)], np.int32
    )
    origins = np.ascontiguousarray(kept[:, 1::-1] - 4)
    tiles = host.load_tiles(frame, order, origins, (20, 20), 4, value)
    back = np.zeros_like(frame)
    host.store_tiles(back, order, tiles, origins, kept, frame)
    assert_same(back, frame, f"{frame_format} through {value}")


def test_nvcc_compiles_every_kernel_for_every_architecture(tmp_path: Path) -> None:
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("nvcc is not installed: the kernels cannot be compiled for the GPU")
    listed = subprocess.run([compiler, "--list-gpu-arch"], capture_output=True, text=True).stdout
    architectures = [arch for arch in ARCHITECTURES if f"compute_{arch}" in listed.split()]
    assert architectures, f"this nvcc knows none of {ARCHITECTURES}: {listed}"
    # Both families in one source, whose headers are then parsed once for each architecture.
    source = tmp_path / "kernels.cu"
    source.write_text('#include "load_tiles.cu"\n#include "store_tiles.cu"\n')
    # One pass of the front end for each generation, whose machine codes are made from it.
    targets = []
    for _, generation in itertools.groupby(architectures, lambda arch: arch // 10):
        members = list(generation)
        codes = ",".join(f"sm_{arch}" for arch in members)
        targets.append(f"-gencode=arch=compute_{members[0]},code=[{codes}]")
    keep = ["--keep", f"--keep-dir={tmp_path}"]
    flags = ["-fatbin", "--threads=2", "-Werror=all-warnings", f"-I{KERNELS}"]
    run([compiler, *flags, *keep, *targets, "-o", str(tmp_path / "kernels.fatbin"), str(source)])
    cubins = {path.name: path.read_bytes() for path in tmp_path.glob("*.cubin")}
    assert len(cubins) == len(architectures), f"{sorted(cubins)} for {architectures}"
    for name, cubin in cubins.items():
        # The section of a kernel's code is named after it.
        missing = [symbol for symbol in SYMBOLS if f".text.{symbol}\0".encode() not in cubin]
        assert not missing, f"{name} lacks {missing}"
