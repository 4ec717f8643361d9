"""The plugins' kernels, run on the host and on a GPU, against their NumPy twins."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kernel_host
import numpy as np
import pytest
from kernel_host import HOST_SOURCES, KERNELS, in_memory, pointer
from kernel_twins import fusions as twins

from mirnet_edge._files import atomic_path

SLOPE = 0.2


def compile_library(library: Path) -> None:
    flags = "-std=c++17 -O1 -fno-strict-aliasing -ffp-contract=off -shared -fPIC -Wall -Wextra"
    flags += " -fsanitize=undefined -Werror -Wno-unknown-pragmas"
    folders = [f"-I{HOST_SOURCES}", f"-I{KERNELS}"]
    with atomic_path(library) as temporary:
        source = HOST_SOURCES / "plugin_launchers.cpp"
        command = ["g++", *flags.split(), *folders, "-o", temporary, source]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def compile_for_gpu(library: Path) -> None:
    flags = ["-std=c++17", "-O3", "--fmad=false", "-shared", "-Xcompiler", "-fPIC", "-arch=native"]
    sources = [HOST_SOURCES / "plugin_queues.cu", KERNELS / "plugins" / "launch.cu"]
    with atomic_path(library) as temporary:
        command = ["nvcc", *flags, f"-I{KERNELS}", "-o", temporary, *sources]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


@functools.cache
def compiled(where: str) -> ctypes.CDLL:
    assert kernel_host.made_once is not None
    compile_there = compile_for_gpu if where == "gpu" else compile_library
    return ctypes.CDLL(str(kernel_host.made_once(f"plugin_kernels_{where}.so", compile_there)))


@pytest.fixture(params=["host", pytest.param("gpu", marks=[pytest.mark.gpu, pytest.mark.slow])])
def library(
    request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> Iterator[ctypes.CDLL]:
    """Functions on arrays of the host."""
    compiler = "nvcc" if request.param == "gpu" else "g++"
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed: the kernels cannot be compiled")
    yield compiled(request.param)
    report = capfd.readouterr().err
    assert "runtime error" not in report, report


def halves(random: np.random.Generator, *shape: int) -> Any:
    return random.normal(0, 2, shape).astype(np.float16)


def filled(shape: tuple[int, ...], dtype: Any) -> Any:
    """Memory of a result, aligned, of what no result is."""
    return in_memory(np.full(shape, -1000, dtype))


def assert_near(actual: Any, expected: Any, tolerance: float) -> None:
    worst = np.abs(actual.astype(np.float64) - expected).max()
    scale = max(1.0, np.abs(expected).max())
    assert worst <= tolerance * scale, f"{worst} of {scale}"


HALF = 2.0**-11
"""Of the largest value: what rounding to FP16 may cost."""


@pytest.mark.parametrize("channels", [4, 8, 20, 64])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 9)])
@pytest.mark.parametrize(("images", "rows"), [(1, 1), (2, 5)])
@pytest.mark.parametrize("has_context", [False, True])
def test_residual_sum(
    library: ctypes.CDLL,
    channels: int,
    size: tuple[int, int],
    images: int,
    rows: int,
    has_context: bool,
) -> None:
    random = np.random.default_rng(1)
    branch, skip = (halves(random, images, channels, *size) for _ in range(2))
    context = in_memory(random.normal(0, 1, (images, channels)).astype(np.float32))
    octets = -(-channels // 8)
    # Fewer threads than positions, so that they go round, with the last round not whole.
    threads = 8 * octets
    arrays = [in_memory(twins.channels_last(a)) for a in (branch, skip)]
    out = filled((images, *size, 8 * octets), np.float16)
    partials = filled((images, rows, channels), np.float32)
    library.host_residual_sum(
        *map(pointer, arrays),
        pointer(context) if has_context else None,
        *map(pointer, (out, partials)),
        images,
        ctypes.c_longlong(size[0] * size[1]),
        channels,
        rows,
        threads,
        ctypes.c_float(SLOPE),
    )
    total, mean = twins.residual_sum(branch, skip, SLOPE, context if has_context else None)
    assert_near(twins.channels_first(out, channels), total, HALF)
    assert not out[..., channels:].any(), "zeros beyond the last channel"
    assert_near(partials.sum(1), mean, 1e-6)


@pytest.mark.parametrize(("channels", "squeezed"), [(4, 4), (8, 3), (20, 24), (80, 80)])
@pytest.mark.parametrize("positions", [1, 37, 300])
@pytest.mark.parametrize(("images", "rows"), [(1, 1), (2, 4)])
@pytest.mark.parametrize("scale", [1, 30], ids=["logits of 1", "logits of 100"])
def test_context(
    library: ctypes.CDLL,
    channels: int,
    squeezed: int,
    positions: int,
    images: int,
    rows: int,
    scale: float,
) -> None:
    """Some rows have no positions, and logits are such as exp() alone would not hold."""
    random = np.random.default_rng(6)
    x = halves(random, images, channels, positions, 1)
    mask = (random.normal(0, scale / channels**0.5, channels)).astype(np.float32)
    tables = [
        random.normal(0, 0.5, shape).astype(np.float32)
        for shape in ((channels, squeezed), (squeezed, channels))
    ]
    sums = filled((images, rows, channels + 4), np.float32)
    vector = filled((images, channels), np.float32)
    threads = 8 * -(-channels // 8)
    arrays = (in_memory(twins.channels_last(x)), in_memory(mask), *map(in_memory, tables))
    library.host_context(
        *map(pointer, (*arrays, sums, vector)),
        *(images, positions, channels, squeezed, rows, threads),
        ctypes.c_float(SLOPE),
    )
    whole = twins.context_rows(x, mask)
    assert_near(sums[..., channels].max(1), whole[:, 0, channels], 1e-5)
    assert not sums[..., channels + 2 :].any()
    expected = twins.context_vector(whole, *tables, SLOPE)
    assert_near(vector, expected, 1e-5 * scale)


@pytest.mark.parametrize(
    ("size", "images", "rows"),
    [((5, 20), 2, 1), pytest.param((17, 31), 1, 3, marks=pytest.mark.slow)],
)
def test_residual_block(
    library: ctypes.CDLL, size: tuple[int, int], images: int, rows: int
) -> None:
    random = np.random.default_rng(5)
    x = random.normal(0, 1, (images, 32, *size)).astype(np.float16)
    weights = [random.normal(0, 0.1, (9, 32, 32)).astype(np.float32) for _ in range(2)]
    array = in_memory(twins.channels_last(x))
    out = filled((images, *size, 32), np.float16)
    partials = filled((images, rows, 32), np.float32)
    library.host_residual_block(
        *map(pointer, (array, *weights, out, partials)),
        *(images, *size, rows),
        ctypes.c_float(SLOPE),
        ctypes.c_float(0.1),
    )
    total, mean = twins.residual_block(x, *weights, SLOPE, 0.1)
    # Values of the map between that lie next to the middle of two FP16 numbers round either way.
    assert_near(twins.channels_first(out, 32), total, 2 * HALF)
    assert_near(partials.sum(1), mean, 1e-5)


@pytest.mark.parametrize(("channels", "squeezed"), [(4, 4), (8, 1), (20, 3), (64, 8)])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (11, 13)])
@pytest.mark.parametrize(("images", "rows"), [(1, 1), (2, 3)])
def test_attention(
    library: ctypes.CDLL,
    channels: int,
    squeezed: int,
    size: tuple[int, int],
    images: int,
    rows: int,
) -> None:
    random = np.random.default_rng(7)
    y = halves(random, images, channels, *size) - np.float16(3)  # the largest channel below zero
    spatial = random.normal(0, 0.2, (2, 5, 5)).astype(np.float32)
    tables = [
        random.normal(0, 0.5, shape).astype(np.float32)
        for shape in ((channels, squeezed), (squeezed, channels))
    ]
    planes, sums = (filled(s, np.float32) for s in ((images, 2, *size), (images, rows, channels)))
    gate = filled((images, channels), np.float32)
    paired = channels % 8 == 0  # what the copies beside each other must be of
    both = filled((images, *size, 2 * channels), np.float16) if paired else None
    arrays = [in_memory(array) for array in (twins.channels_last(y), spatial, *tables)]
    library.host_attention(
        *map(pointer, (*arrays, planes, sums, gate)),
        None if both is None else pointer(both),
        *(images, *size, channels, squeezed, rows, 8 * -(-channels // 8)),
        ctypes.c_float(0.0),
    )
    expected_planes, mean = twins.attention_pools(y)
    assert_near(planes, expected_planes, 1e-6)
    assert_near(sums.sum(1), mean, 1e-6)
    assert_near(gate, twins.channel_gate(mean[:, None], *tables, 0.0), 1e-5)
    if both is not None:
        expected = twins.dual_gate(y, planes, spatial, gate)
        assert_near(twins.channels_first(both, 2 * channels), expected, 2 * HALF)


@pytest.mark.parametrize("sizes", [(8, 8, 1), (32, 64, 4), (40, 20, 7)])
@pytest.mark.parametrize("images", [1, 2])
def test_fusion_gate(library: ctypes.CDLL, sizes: tuple[int, int, int], images: int) -> None:
    random = np.random.default_rng(2)
    channels, small_channels, squeezed = sizes
    rows, small_rows = 9, 1
    large = random.normal(0, 0.3, (images, rows, channels)).astype(np.float32)
    small = random.normal(0, 1, (images, small_rows, small_channels)).astype(np.float32)
    tables = [
        random.normal(0, 0.5, shape).astype(np.float32)
        for shape in ((small_channels, channels), (channels, squeezed), (squeezed, channels))
    ]
    gate, mean = (filled((images, channels), np.float32) for _ in range(2))
    threads = max(sizes) + 3
    library.host_fusion_gate(
        *map(pointer, (large, small, *tables, gate, mean)),
        *(images, rows, small_rows, *sizes, threads),
        ctypes.c_float(SLOPE),
    )
    for actual, expected in zip((gate, mean), twins.fusion_gate(large, small, *tables, SLOPE)):
        assert_near(actual, expected, 1e-5)


@pytest.mark.parametrize("channels", [4, 8, 20])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1), (5, 6)])
def test_gated_sum(library: ctypes.CDLL, channels: int, size: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    height, width = size
    x = halves(random, 2, channels, 2 * height, 2 * width)
    small = halves(random, 2, channels, height, width)
    gate = in_memory(random.random((2, channels), np.float32))
    arrays = [in_memory(twins.channels_last(a)) for a in (x, small)]
    out = filled((2, 2 * height, 2 * width, -(-channels // 8) * 8), np.float16)
    library.host_gated_sum(*map(pointer, (*arrays, gate, out)), 2, height, width, channels)
    expected = twins.gated_sum(x, small, gate)
    assert_near(twins.channels_first(out, channels), expected, HALF)
    assert not out[..., channels:].any(), "zeros beyond the last channel"


@pytest.mark.parametrize("channels", [4, 20, 64])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 9)])
@pytest.mark.parametrize(("images", "rows"), [(1, 1), (2, 5)])
def test_mean_rows(
    library: ctypes.CDLL, channels: int, size: tuple[int, int], images: int, rows: int
) -> None:
    random = np.random.default_rng(7)
    maps = [halves(random, images, channels, *size) for _ in range(3)]
    sums = filled((images, rows, channels), np.float32)
    threads = 8 * -(-channels // 8)
    arrays = [in_memory(twins.channels_last(a)) for a in maps]
    sizes = (images, size[0] * size[1], channels, rows, threads)
    library.host_mean_rows(*map(pointer, (*arrays, sums)), *sizes)
    assert_near(sums.sum(1), twins.mean_of_sum(maps), 1e-6)


@pytest.mark.parametrize(
    ("channels", "squeezed"), [(4, 1), (20, 24), (64, 8), (256, 32), (512, 512)]
)
@pytest.mark.parametrize(("images", "rows"), [(1, 1), (2, 70)])
@pytest.mark.parametrize("scale", [1, 300], ids=["logits of 1", "logits of 300"])
def test_select_gate(
    library: ctypes.CDLL, channels: int, squeezed: int, images: int, rows: int, scale: float
) -> None:
    """Logits are such as exp() alone would not hold."""
    random = np.random.default_rng(8)
    sums = random.normal(0, rows**-0.5, (images, rows, channels)).astype(np.float32)
    squeeze = random.normal(0, channels**-0.5, (channels, squeezed)).astype(np.float32)
    expand = random.normal(0, scale / squeezed**0.5, (3, squeezed, channels)).astype(np.float32)
    gates = filled((3, images, channels), np.float32)
    arrays = map(pointer, (sums, squeeze, expand, gates))
    threads = max(channels, squeezed) + 3 * (channels < 512)
    sizes = (images, channels, squeezed, rows, threads)
    library.host_select_gate(*arrays, *sizes, ctypes.c_float(SLOPE))
    assert_near(gates, twins.select_gate(sums, squeeze, expand, SLOPE), 1e-6 * scale)


@pytest.mark.parametrize("channels", [4, 20, 64])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 9)])
def test_select_sum(library: ctypes.CDLL, channels: int, size: tuple[int, int]) -> None:
    random = np.random.default_rng(9)
    maps = [halves(random, 2, channels, *size) for _ in range(3)]
    gates = in_memory(random.random((3, 2, channels), np.float32))
    out = filled((2, *size, -(-channels // 8) * 8), np.float16)
    arrays = [in_memory(twins.channels_last(a)) for a in maps]
    sizes = (2, size[0] * size[1], channels)
    library.host_select_sum(*map(pointer, (*arrays, gates, out)), *sizes)
    assert_near(twins.channels_first(out, channels), twins.select_sum(maps, gates), HALF)
    assert not out[..., channels:].any(), "zeros beyond the last channel"


@pytest.mark.parametrize("value", ["f16", "f32"])
@pytest.mark.parametrize("side", [2, 4])
@pytest.mark.parametrize(("planes", "channels"), [(4, 3), (3, 3), (1, 1)])
def test_shuffles(library: ctypes.CDLL, value: str, side: int, planes: int, channels: int) -> None:
    random = np.random.default_rng(4)
    height, width = 3, 7
    dtype = np.float16 if value == "f16" else np.float32
    image = in_memory(random.random((2, planes, side * height, side * width)).astype(dtype))
    added = halves(random, 2, channels * side**2, height, width)
    blocks = filled((2, height, width, -(-planes * side**2 // 8) * 8), np.float16)
    out = filled((2, channels, side * height, side * width), dtype)
    last = in_memory(twins.channels_last(added))
    function = getattr(library, f"host_shuffles_{value}_{side}")
    function(*map(pointer, (image, blocks, last, out)), 2, planes, channels, height, width)
    expected = twins.channels_last(twins.unshuffle(image, side).astype(np.float16))
    np.testing.assert_array_equal(blocks, expected)
    total = twins.shuffle(added, side).astype(np.float32) + image[:, :channels].astype(np.float32)
    np.testing.assert_array_equal(out, total.astype(dtype))
