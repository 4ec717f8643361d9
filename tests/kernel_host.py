"""The CUDA kernels compiled for the host, as functions on NumPy arrays."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from kernel_twins import SAMPLES, VALUES, YUV_FORMATS, Array

from mirnet_edge._files import atomic_path

KERNELS = Path(__file__).parents[1] / "kernels"
HOST_SOURCES = Path(__file__).parent / "kernels"
Size = tuple[int, int, int]
BLOCK = (2, 3, 1)


class Dim3(ctypes.Structure):
    _fields_ = (("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint))


class HostKernels:
    """Launches kernels, and asserts that they write nothing outside their arrays."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))

    def load_tiles(
        self,
        frame: Array,
        order: str,
        origins: Array,
        tile_size_px: tuple[int, int],
        value: str,
        guard_bytes: int = 16,
        planes: int = 3,
    ) -> Array:
        batch = GuardedTiles(len(origins), tile_size_px, value, guard_bytes, planes)
        self._launch_tiles(
            f"load_tiles_{order}_{name_of(frame)}_{value}",
            len(origins),
            pointer(frame),
            ctypes.c_longlong(frame.strides[0]),
            *frame.shape[:2],
            pointer(origins),
            *batch.arguments,
        )
        return batch.written()

    def store_tiles(
        self,
        frame: Array,
        order: str,
        tiles: Array,
        origins: Array,
        kept: Array,
        alpha: Array | None,
    ) -> int:
        """How many values were not finite."""
        batch, nonfinite = in_memory(tiles), np.zeros(1, np.uint64)
        self._launch_tiles(
            f"store_tiles_{order}_{name_of(frame)}_{value_of(tiles)}",
            len(origins),
            pointer(batch),
            *tiles.shape[2:],
            pointer(origins),
            pointer(kept),
            pointer(frame),
            ctypes.c_longlong(frame.strides[0]),
            *frame.shape[:2],
            None if alpha is None else pointer(alpha),
            ctypes.c_longlong(0 if alpha is None else alpha.strides[0]),
            pointer(nonfinite),
        )
        return int(nonfinite[0])

    def load_tiles_yuv(
        self,
        planes: Sequence[Array],
        frame_format: str,
        matrix: Array,
        origins: Array,
        tile_size_px: tuple[int, int],
        value: str,
        planes_of_tile: int = 3,
    ) -> Array:
        batch = GuardedTiles(len(origins), tile_size_px, value, planes=planes_of_tile)
        self._launch_tiles(
            f"load_tiles_{frame_format}_u8_{value}",
            len(origins),
            *plane_arguments(planes),
            *size_of(planes, frame_format),
            pointer(matrix),
            pointer(origins),
            *batch.arguments,
        )
        return batch.written()

    def store_tiles_yuv(
        self,
        planes: Sequence[Array],
        frame_format: str,
        matrix: Array,
        tiles: Array,
        origins: Array,
        kept: Array,
    ) -> int:
        """How many values were not finite."""
        batch, nonfinite = in_memory(tiles), np.zeros(1, np.uint64)
        self._launch_tiles(
            f"store_tiles_{frame_format}_u8_{value_of(tiles)}",
            len(origins),
            pointer(batch),
            *tiles.shape[2:],
            pointer(origins),
            pointer(kept),
            pointer(matrix),
            *plane_arguments(planes),
            *size_of(planes, frame_format),
            pointer(nonfinite),
        )
        return int(nonfinite[0])

    def blend_tiles(
        self,
        ring: Array,
        origins: Array,
        settled: Array,
        cursor: int,
        batch: int,
        columns: int,
        ramp: Array,
    ) -> None:
        """Blends ``batch`` tiles from ``cursor`` * ``batch`` on, in the ring (tiles, 3, H, W)."""
        tiles = in_memory(ring)
        where = np.array([cursor], np.int32)
        self._launch_tiles(
            f"blend_tiles_{value_of(ring)}",
            batch,
            pointer(tiles),
            len(ring),
            *ring.shape[2:],
            pointer(origins),
            pointer(settled),
            pointer(where),
            batch,
            columns,
            pointer(ramp),
            len(ramp),
        )
        ring[...] = tiles

    def enlarge_tiles(
        self,
        planes: Array,
        width: int,
        scale: int,
        origins: Array,
        tile_size_px: tuple[int, int],
        guard_bytes: int = 16,
        tile_planes: int = 3,
    ) -> Array:
        """Of planes (3, height, plane width), of which ``width`` columns count."""
        value = value_of(planes)
        frame = in_memory(planes)
        batch = GuardedTiles(len(origins), tile_size_px, value, guard_bytes, tile_planes)
        self._launch_tiles(
            f"enlarge_tiles_x{scale}_{value}",
            len(origins),
            pointer(frame),
            planes.shape[2],
            planes.shape[1],
            width,
            pointer(origins),
            *batch.arguments,
        )
        return batch.written()

    def enlarge_alpha(self, frame: Array, enlarged: Array, scale: int) -> None:
        self.launch(
            f"enlarge_alpha_x{scale}_{name_of(frame)}",
            (2, 5, 1),
            BLOCK,
            pointer(frame),
            ctypes.c_longlong(frame.strides[0]),
            *frame.shape[:2],
            pointer(enlarged),
            ctypes.c_longlong(enlarged.strides[0]),
        )

    def luma_sums(self, frame: Array, order: str, row_step: int) -> Array:
        sums = np.zeros((8, 8), np.uint64)
        self.launch(
            f"luma_sums_{order}_{name_of(frame)}",
            (2, 5, 1),
            BLOCK,
            pointer(frame),
            ctypes.c_longlong(frame.strides[0]),
            *frame.shape[:2],
            row_step,
            pointer(sums),
        )
        return sums

    def take_row(self, table: Array, cursor: int, out: Array) -> None:
        """Row ``cursor`` of a table (rows, words) of 32 bits, modulo its rows."""
        where = np.array([cursor], np.int32)
        pointers = pointer(table), len(out), pointer(where), len(table), pointer(out)
        self._launch_row("take_row", *pointers)

    def put_row(self, row: Array, cursor: int, table: Array) -> None:
        where = np.array([cursor], np.int32)
        pointers = pointer(row), len(row), pointer(where), len(table), pointer(table)
        self._launch_row("put_row", *pointers)

    def advance(self, cursor: Array) -> None:
        self.launch("advance", (1, 1, 1), (1, 1, 1), pointer(cursor))

    def lap(self, clock: Array, index: int) -> int:
        """The time of the lap."""
        self.launch("lap", (1, 1, 1), (1, 1, 1), pointer(clock), index)
        return ctypes.c_ulonglong.in_dll(self.library, "timer_now_ns").value

    def launch(self, kernel: str, grid: Size, block: Size, *arguments: Any) -> None:
        """Any kernel of any grid; structs by value as pointers to their floats."""
        function = ctypes.cast(getattr(self.library, kernel), ctypes.c_void_p)
        sizes = (Dim3(*grid), Dim3(*block))
        getattr(self.library, f"launch_{family_of(kernel)}")(function, *sizes, *arguments)

    def _launch_tiles(self, kernel: str, count: int, *arguments: Any) -> None:
        # Smaller than tiles, so that the loops that stride over the grid run too.
        self.launch(kernel, (2, 2, count), BLOCK, *arguments)

    def _launch_row(self, kernel: str, *arguments: Any) -> None:
        self.launch(kernel, (2, 1, 1), (3, 1, 1), *arguments)


class GuardedTiles:
    """A batch for a kernel to write, with ``guard_bytes`` of 0xA5 on either side."""

    def __init__(
        self,
        count: int,
        tile_size_px: tuple[int, int],
        value: str,
        guard_bytes: int = 16,
        planes: int = 3,
    ) -> None:
        shape = (count, planes, *tile_size_px)
        size_bytes = int(np.prod(shape)) * VALUES[value].itemsize
        buffer = np.full(size_bytes + 2 * guard_bytes, 0xA5, np.uint8)
        inside = buffer[guard_bytes : guard_bytes + size_bytes]
        self._outside = (buffer[:guard_bytes], buffer[guard_bytes + size_bytes :])
        self._tiles: Array = inside.view(VALUES[value]).reshape(shape)
        self.arguments = (pointer(self._tiles), *shape[1:])

    def written(self) -> Array:
        """The tiles, (N, planes, H, W)."""
        assert all((guard == 0xA5).all() for guard in self._outside), "wrote outside its array"
        return self._tiles


made_once: Callable[[str, Callable[[Path], None]], Path] | None = None
"""`exports.made_once` in the folder of the run, which conftest.py knows and puts here."""


sanitized = False
"""Whether kernels are run that the sanitizer watches: it takes several times as long, so where the
fixture `host` reads what it says, and nowhere else."""


@functools.cache
def compiled(watched: bool) -> HostKernels | str:
    """All kernels, compiled once in a run, with the sanitizer or without; or what the compiler has
    against them."""
    assert made_once is not None, "imported outside a run of tests"
    name = "kernels-sanitized.so" if watched else "kernels.so"
    try:
        return HostKernels(made_once(name, lambda library: compile_kernels(library, watched)))
    except subprocess.CalledProcessError as error:
        return str(error.stderr)


def compile_kernels(library: Path, watched: bool) -> None:
    # Samples are read as words, as every CUDA kernel may: hence no strict aliasing. No contraction,
    # which would round once where the twin rounds twice. A word off its alignment is an error on a
    # GPU and none on most hosts: the sanitizer reports it, and overflow and bad shifts besides.
    flags = "-std=c++17 -fno-strict-aliasing -ffp-contract=off -shared -fPIC -Wall -Wextra"
    flags += f" -Werror -Wno-unknown-pragmas -I{HOST_SOURCES} -I{KERNELS}"
    # Optimizing what the sanitizer adds to the many kernels takes g++ 20 s instead of five. The few
    # of the noise's level run long, and their fmaf is one instruction where the machine has it.
    levels = {"launchers.cpp": "-Og", "noise_launchers.cpp": "-O2 -march=native"}
    if watched:
        flags += " -fsanitize=undefined"
        levels = {"launchers.cpp": "-O0", "noise_launchers.cpp": "-O1 -march=native"}
    with atomic_path(library) as temporary, TemporaryDirectory() as folder:
        objects = []
        for source, level in levels.items():
            objects.append(f"{folder}/{source}.o")
            _run_compiler(
                *flags.split(), *level.split(), "-c", HOST_SOURCES / source, "-o", objects[-1]
            )
        _run_compiler(*flags.split(), *objects, "-o", temporary)


def _run_compiler(*arguments: str | Path) -> None:
    subprocess.run(["g++", *arguments], capture_output=True, text=True, check=True)


def host_kernels() -> HostKernels:
    """The kernels; the test is skipped where there is no compiler."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: the kernels cannot be compiled for the host")
    kernels = compiled(sanitized)
    assert isinstance(kernels, HostKernels), kernels
    return kernels


@pytest.fixture(name="host")
def host_fixture(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[HostKernels]:
    """The kernels, which GPUs in host memory run too; the test fails if the sanitizer has something
    to say of what it ran."""
    monkeypatch.setattr(sys.modules[__name__], "sanitized", True)
    yield host_kernels()
    report = capfd.readouterr().err
    assert "runtime error" not in report, report


def family_of(kernel: str) -> str:
    """The family of a kernel, after which its launcher is named: the name without formats."""
    first, *rest = kernel.split("_")
    yuv = first in ("load", "store") and rest[1] in YUV_FORMATS
    return "_".join([first, *rest[:1], *(["yuv"] if yuv else [])])


def pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def name_of(frame: Array) -> str:
    return next(name for name, dtype in SAMPLES.items() if dtype == frame.dtype)


def value_of(tiles: Array) -> str:
    return next(name for name, dtype in VALUES.items() if dtype == tiles.dtype)


def in_memory(tiles: Array) -> Array:
    """Tiles as a kernel takes them, aligned as an allocation on the device is."""
    aligned = np.empty(tiles.nbytes + 16, np.uint8)
    start = -aligned.ctypes.data % 16
    out: Array = aligned[start : start + tiles.nbytes].view(tiles.dtype).reshape(tiles.shape)
    out[...] = tiles
    return out


def plane_arguments(planes: Sequence[Array]) -> list[ctypes.c_void_p | ctypes.c_longlong | None]:
    """Pointer and pitch of y, cb and cr; null and 0 for planes that the format lacks."""
    arguments: list[ctypes.c_void_p | ctypes.c_longlong | None] = []
    for plane in planes:
        arguments += [pointer(plane), ctypes.c_longlong(plane.strides[0])]
    for _ in range(3 - len(planes)):
        arguments += [None, ctypes.c_longlong(0)]
    return arguments


def size_of(planes: Sequence[Array], frame_format: str) -> tuple[int, int]:
    """Height and width in pixels."""
    height, width = planes[0].shape[:2]
    return height, 2 * width if frame_format == "yuyv" else width
