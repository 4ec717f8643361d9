"""Loading kernels and launching them, on a GPU in host memory."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from fake_gpu import FakeGpu, LogicError
from kernel_host import host_fixture as host_fixture
from kernel_sources import Compiler
from kernel_sources import counting as counting

from mirnet_edge.cuda import Device, Kernels, Stream, compiler
from mirnet_edge.cuda import kernels as cuda_kernels
from mirnet_edge.cuda.compiler import Binaries
from mirnet_edge.errors import DeviceError


@pytest.fixture
def real_cache(
    device: Device, counting: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The package's own kernels and cache, with a compiler that counts."""
    monkeypatch.setenv("MIRNET_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(cuda_kernels, "Binaries", Binaries)
    return tmp_path / "kernels"


def test_a_file_is_compiled_once_for_all_its_kernels(
    device: Device, real_cache: Path, counting: Compiler, host: object
) -> None:
    for _ in range(2):
        with Kernels(device) as kernels:
            first = kernels.get("tile_loop", "advance", "P")
            assert kernels.get("tile_loop", "advance", "P") is first
            kernels.get("tile_loop", "lap", "Pi")
    assert counting.compiled == [("tile_loop.cu", "sm_90")]


def test_a_cubin_that_the_driver_refuses_is_compiled_again_once(
    device: Device,
    real_cache: Path,
    counting: Compiler,
    host: object,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with Kernels(device) as kernels:
        kernels.get("tile_loop", "advance", "P")
    (path,) = real_cache.iterdir()
    sealed = path.read_bytes()
    path.write_bytes(compiler._sealed(b"of another age"))
    with Kernels(device) as kernels:
        kernels.get("tile_loop", "advance", "P")
    assert path.read_bytes() == sealed
    assert len(counting.compiled) == 2
    assert "cached kernels of tile_loop.cu are compiled again: loading the kernels" in caplog.text


def test_fresh_code_that_the_driver_refuses_is_an_error(
    gpu: FakeGpu, device: Device, real_cache: Path, counting: Compiler
) -> None:
    gpu.failures["cuModuleLoadDataEx"] = LogicError("cuModuleLoadDataEx failed: no kernel image")
    with (
        Kernels(device) as kernels,
        pytest.raises(
            DeviceError, match=r"loading the kernels of tile_loop\.cu, 18 bytes: .*no kernel image"
        ),
    ):
        kernels.get("tile_loop", "advance", "P")
    assert len(counting.compiled) == 1


def test_a_kernel_that_is_not_in_the_file(device: Device, host: object) -> None:
    with (
        Kernels(device) as kernels,
        pytest.raises(
            DeviceError, match=r"finding the kernel retreat in tile_loop\.cu: .*symbol not found"
        ),
    ):
        kernels.get("tile_loop", "retreat", "P")


def test_a_grid_that_the_gpu_does_not_have(device: Device, host: object) -> None:
    with Stream(device) as stream, Kernels(device) as kernels:
        advance = kernels.get("tile_loop", "advance", "P")
        said = r"launching advance, grid \(1, 1, 70000\), block \(1, 1, 1\): .*invalid argument"
        with pytest.raises(DeviceError, match=said):
            advance.launch(256, grid=(1, 1, 70000), block=(1, 1, 1), stream=stream)


def test_use_after_close(gpu: FakeGpu, device: Device, host: object) -> None:
    with Stream(device) as stream:
        kernels = Kernels(device)
        advance = kernels.get("tile_loop", "advance", "P")
        kernels.close()
        kernels.close()
        assert gpu.live["module"] == 0
        with pytest.raises(DeviceError, match="this Kernels is closed; make a new one"):
            kernels.get("tile_loop", "advance", "P")
        with pytest.raises(DeviceError, match="this Kernel is closed; make a new one"):
            advance.launch(256, grid=(1, 1, 1), block=(1, 1, 1), stream=stream)
