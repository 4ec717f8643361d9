"""Every kernel on a real GPU, compiled there, against the NumPy twins: `kernel_cases`, with frames
and tiles of many blocks.

A GPU may differ from the twin by one step of the type that is written, the one rounding that the
kernels are allowed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernel_cases import Check, KernelCases, Memory, Sizes
from kernel_cases import bench as bench
from kernel_cases import kernels as kernels
from kernel_cases import memory as memory
from kernel_cases import stream as stream
from kernel_twins import Array
from noise_weights import random_estimator as random_estimator

from mirnet_edge.cuda import Device, Kernels, Stream, open_device
from mirnet_edge.cuda.compiler import _find_nvcc, _find_nvrtc, _sealed, find_compiler
from mirnet_edge.device.tile_kernels import TileKernels
from mirnet_edge.errors import DeviceError

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def device(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """The first GPU; kernels are compiled into a cache of these tests' own."""
    monkeypatch.setenv("MIRNET_EDGE_CACHE", str(cache))
    device = open_device()
    try:
        find_compiler(device.facts)
    except DeviceError as error:
        pytest.skip(str(error))
    return device


@pytest.fixture
def sizes() -> Sizes:
    """More pixels across than a block has, in frame and tile; nothing a multiple of it."""
    return Sizes(frame=(211, 317), yuv=(214, 318), tile=(72, 140))


@pytest.fixture
def same() -> Check:
    return assert_within_a_step


def assert_within_a_step(actual: Array, expected: Array, what: str) -> None:
    """Equal, both not a number, or neighbours in the values of their type."""
    equal = (actual == expected) | ((actual != actual) & (expected != expected))
    with np.errstate(invalid="ignore"):
        if actual.dtype.kind == "f":
            near = np.abs(actual - expected) <= np.spacing(np.abs(expected))
        else:
            near = np.abs(actual.astype(np.int64) - expected.astype(np.int64)) <= 1
    wrong = ~(equal | near)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{what}: {np.count_nonzero(wrong)} of {wrong.size} differ by more than a step, first "
            f"at {where}: GPU {actual[where]!r}, twin {expected[where]!r}"
        )


class TestOnTheGpu(KernelCases):
    """Within a step of the twins."""


def test_laps_measure_time(kernels: TileKernels, memory: Memory, stream: Stream) -> None:
    size = 1 << 28
    clock, filled = np.zeros(3, np.uint64), memory.put(np.zeros(size, np.uint8))
    address = memory.put(clock)
    for _ in range(20):
        kernels.lap(address, 0, stream=stream)
        kernels.lap(address, 1, stream=stream)
        memory.buffers[filled].fill(1, stream=stream)
        kernels.lap(address, 2, stream=stream)
    _, nothing_ns, filling_ns = memory.take(address, clock).tolist()
    # 256 MiB take 30 us at 9 TB/s; between two empty kernels lie a few.
    assert nothing_ns < filling_ns
    assert 20 * 30_000 < filling_ns < 20 * 1_000_000_000


def test_every_compiler_at_hand_makes_kernels_that_load(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIRNET_EDGE_CACHE", str(tmp_path))
    target = device.facts
    found = [
        each for each in (_find_nvrtc(target), _find_nvcc(target)) if not isinstance(each, str)
    ]
    for compiler in found:
        monkeypatch.setattr("mirnet_edge.cuda.compiler.find_compiler", lambda _, one=compiler: one)
        with Kernels(device) as fresh:
            assert fresh.get("tile_loop", "advance", "P").name == "advance"
    assert len(list(tmp_path.rglob("*.cubin"))) == len(found)


def test_a_damaged_cubin_is_made_again(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIRNET_EDGE_CACHE", str(tmp_path))
    with Kernels(device) as first:
        first.get("tile_loop", "advance", "P")
    (path,) = tmp_path.rglob("*.cubin")
    whole = path.read_bytes()
    # The last has a checksum that is right: it is the driver that refuses it.
    for damaged in (b"", b"no cubin at all", whole[:64], _sealed(bytes(4096))):
        path.write_bytes(damaged)
        with Kernels(device) as again:
            again.get("tile_loop", "advance", "P")
        assert path.read_bytes().startswith(b"\x7fELF")
        assert len(path.read_bytes()) > len(damaged)
