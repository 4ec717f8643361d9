"""Compiling kernels, keeping their machine code, and launching them, without a GPU."""

from __future__ import annotations

import ctypes
import logging
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import fake_cuda
import pytest
from fake_gpu import FakeGpu, LogicError
from kernel_host import host_fixture as host_fixture

from mirnet_edge.cuda import Device, Kernels, Stream, compiler
from mirnet_edge.cuda import kernels as cuda_kernels
from mirnet_edge.cuda.compiler import Binaries, Nvcc, Nvrtc, Target, cache_folder, find_compiler
from mirnet_edge.errors import DeviceError

TARGET = Target((8, 7), "12.6")


class Compiler(compiler.Compiler):
    """Counts, and makes what the fake driver loads."""

    def __init__(self, identity: str = "counting 1.0") -> None:
        self.identity = identity
        self.compiled: list[tuple[str, str]] = []

    def compile(self, source: Path, architecture: str) -> bytes:
        self.compiled.append((source.name, architecture))
        return fake_cuda.CUBIN + source.stem.encode()


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of kernels, and a cache beside it."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    for name in ("one.cu", "two.cu", "shared.cuh"):
        (folder / name).write_text(f"// {name}\n")
    monkeypatch.setattr(compiler, "resource_folder", lambda _: folder)
    monkeypatch.setenv("MIRNET_EDGE_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    made = Compiler()
    monkeypatch.setattr(compiler, "find_compiler", lambda _: made)
    return made


# The cache


def test_what_was_compiled_is_found_again(sources: Path, counting: Compiler) -> None:
    first = Binaries(TARGET)
    assert first.cached("one") is None
    cubin = first.compile("one")
    assert first.cached("one") == Binaries(TARGET).cached("one") == cubin
    assert counting.compiled == [("one.cu", "sm_87")]
    (path,) = cache_folder().iterdir()
    assert path.name.startswith("one-sm_87-")
    assert path.suffix == ".cubin"


def test_another_file_is_not_compiled_again(sources: Path, counting: Compiler) -> None:
    Binaries(TARGET).compile("one")
    (sources / "two.cu").write_text("// changed\n")
    assert Binaries(TARGET).cached("one") is not None
    assert Binaries(TARGET).cached("two") is None


@pytest.mark.parametrize("change", ["source", "header", "new header", "compiler", "architecture"])
def test_what_changes_the_code_misses_the_cache(
    change: str, sources: Path, counting: Compiler
) -> None:
    Binaries(TARGET).compile("one")
    target = TARGET
    if change == "source":
        (sources / "one.cu").write_text("// other\n")
    elif change == "header":
        (sources / "shared.cuh").write_text("// other\n")
    elif change == "new header":
        (sources / "more.cuh").touch()
    elif change == "compiler":
        counting.identity = "counting 1.1"
    else:
        target = Target((8, 9), "12.6")
    assert Binaries(target).cached("one") is None


def test_options_are_part_of_the_name(
    sources: Path, counting: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    Binaries(TARGET).compile("one")
    monkeypatch.setattr(compiler, "OPTIONS", ("--std=c++20",))
    assert Binaries(TARGET).cached("one") is None


def test_without_a_compiler_the_cache_serves(
    sources: Path, counting: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    cubin = Binaries(TARGET).compile("one")

    def none(target: Target) -> Compiler:
        raise DeviceError("no compiler: install one")

    monkeypatch.setattr(compiler, "find_compiler", none)
    assert Binaries(TARGET).cached("one") == cubin
    assert Binaries(Target((8, 9), "12.6")).cached("one") is None
    (sources / "shared.cuh").write_text("// other\n")
    assert Binaries(TARGET).cached("one") is None
    with pytest.raises(DeviceError, match="install one"):
        Binaries(TARGET).compile("one")


def test_a_file_in_the_cache_is_whole(
    sources: Path, counting: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(path: Path, cubin: bytes) -> None:
        with path.open("wb") as file:
            file.write(cubin[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", break_off)
    assert Binaries(TARGET).compile("one").endswith(b"one")
    assert list(cache_folder().iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, -1])
def test_a_file_that_was_cut_off_is_not_used(size: int, sources: Path, counting: Compiler) -> None:
    Binaries(TARGET).compile("one")
    (path,) = cache_folder().iterdir()
    path.write_bytes(path.read_bytes()[:size])
    assert Binaries(TARGET).cached("one") is None
    Binaries(TARGET).compile("one")
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert Binaries(TARGET).cached("one") is None


@pytest.mark.parametrize("place", ["below a file", "no home"])
def test_a_cache_that_cannot_be_written_is_no_error(
    place: str,
    sources: Path,
    counting: Compiler,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if place == "below a file":
        monkeypatch.setenv("MIRNET_EDGE_CACHE", str(sources / "one.cu"))
    else:
        for name in ("MIRNET_EDGE_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)

        def nowhere() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", nowhere)
    caplog.set_level(logging.INFO)
    binaries = Binaries(TARGET)
    assert binaries.cached("one") is None
    assert binaries.compile("one").endswith(b"one")
    assert binaries.cached("one") is None
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert any("kernels of one.cu are not kept" in text for text in said), said


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MIRNET_EDGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/mirnet-edge/kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/mirnet-edge/kernels"
    monkeypatch.setenv("MIRNET_EDGE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own/kernels"


def test_kernels_that_are_not_there(sources: Path, counting: Compiler) -> None:
    with pytest.raises(DeviceError, match=r"cannot read the kernels in .*three\.cu.*reinstall"):
        Binaries(TARGET).cached("three")


# nvcc


STUB = """#!/bin/sh
if [ "$1" = "--version" ]; then
    echo "Cuda compilation tools, release {version}, V{version}.68"
    exit 0
fi
{compile}
"""
MAKES = """echo "$@" > "$0.options"
while [ "$1" != "-o" ]; do shift; done
printf made > "$2"
"""


@pytest.fixture
def no_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.bindings", "cuda.bindings.nvrtc", "cuda.nvrtc"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts an nvcc where it may be looked for, which is nowhere else."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setattr(compiler, "TOOLKIT", tmp_path / "none")

    def write(compile: str = MAKES, version: str = "12.6", folder: str = "toolkit/bin") -> Path:
        path = tmp_path / folder / "nvcc"
        path.parent.mkdir(parents=True)
        path.write_text(STUB.format(version=version, compile=compile))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return write


@pytest.mark.parametrize("place", ["PATH", "CUDA_HOME", "CUDA_PATH", "usual"])
def test_nvcc_is_found(
    place: str,
    stub: Callable[..., Path],
    no_nvrtc: None,
    sources: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nvcc = stub(folder=f"{place}/bin")
    if place == "usual":
        monkeypatch.setattr(compiler, "TOOLKIT", nvcc.parents[1])
    elif place == "PATH":
        monkeypatch.setenv("PATH", f"{nvcc.parent}{os.pathsep}/usr/bin:/bin")
    else:
        monkeypatch.setenv(place, str(nvcc.parents[1]))
    found = find_compiler(TARGET)
    assert isinstance(found, Nvcc)
    assert found.identity == "nvcc 12.6.68"
    assert found.compile(sources / "one.cu", "sm_87") == b"made"
    options = Path(f"{nvcc}.options").read_text()
    for option in ("-cubin", "--gpu-architecture=sm_87", "--fmad=false", f"={sources} "):
        assert option in options


def test_what_nvcc_says_is_said(stub: Callable[..., Path], no_nvrtc: None, sources: Path) -> None:
    stub('echo "one.cu(3): error: expected a )" >&2\nexit 2')
    said = r"one\.cu does not compile for sm_87 with nvcc 12\.6\.68: one\.cu\(3\): error: expected"
    with pytest.raises(DeviceError, match=said):
        Binaries(TARGET).compile("one")
    assert not cache_folder().exists()


def test_an_nvcc_that_makes_nothing(
    stub: Callable[..., Path], no_nvrtc: None, sources: Path
) -> None:
    stub("exit 0")
    with pytest.raises(DeviceError, match=r"with nvcc 12\.6\.68: exit status 0"):
        Binaries(TARGET).compile("one")


def test_no_compiler_says_what_to_install(stub: Callable[..., Path], no_nvrtc: None) -> None:
    said = (
        r"no compiler for the CUDA kernels \(sm_87, CUDA 12\.6\): NVRTC: cuda-bindings is not "
        r"installed; nvcc is neither on PATH.*pip install cuda-bindings nvidia-cuda-nvrtc-cu12 "
        r"nvidia-cuda-runtime-cu12, or on a Jetson: sudo apt install cuda-toolkit"
    )
    with pytest.raises(DeviceError, match=said):
        find_compiler(TARGET)
    with pytest.raises(DeviceError, match=r"pip install cuda-bindings nvidia-cuda-nvrtc nvidia-"):
        find_compiler(Target((11, 0), "13.0"))


def test_compilers_newer_than_the_driver_are_not_used(
    stub: Callable[..., Path], no_nvrtc: None
) -> None:
    stub(version="13.0")
    with pytest.raises(DeviceError, match=r"nvcc \(V13\.0\.68\) is newer than the driver's CUDA"):
        find_compiler(TARGET)
    assert find_compiler(Target((11, 0), "13.0")).identity == "nvcc 13.0.68"


# NVRTC


def nvrtc_bindings(version: tuple[int, int] = (12, 6), fails: bool = False) -> ModuleType:
    """A module with the names of ``cuda.bindings.nvrtc``; its cubin is source and options."""
    module = ModuleType("cuda.bindings.nvrtc")
    programs: list[SimpleNamespace] = []

    def create(source: bytes, name: bytes, count: int, headers: list, names: list) -> tuple:
        assert isinstance(source, bytes)
        assert isinstance(name, bytes)
        programs.append(SimpleNamespace(source=source, cubin=b"", live=True))
        return 0, programs[-1]

    def compile_program(program: SimpleNamespace, count: int, options: list[bytes]) -> tuple:
        assert count == len(options)
        program.cubin = program.source + b" ".join(options)
        return (6 if fails else 0,)

    def fill(buffer: bytes, content: bytes) -> tuple:
        assert len(buffer) == len(content)
        # As the bindings do: they write into the memory of the bytes.
        ctypes.memmove(ctypes.cast(buffer, ctypes.c_void_p), content, len(content))
        return (0,)

    log = b"one.cu(1): error: no such type\0"

    def destroy(program: SimpleNamespace) -> tuple:
        program.live = False
        return (0,)

    module.__dict__.update(
        programs=programs,
        nvrtcVersion=lambda: (0, *version),
        nvrtcGetSupportedArchs=lambda: (0, [75, 87, 90]),
        nvrtcCreateProgram=create,
        nvrtcCompileProgram=compile_program,
        nvrtcGetProgramLogSize=lambda program: (0, len(log)),
        nvrtcGetProgramLog=lambda program, buffer: fill(buffer, log),
        nvrtcGetCUBINSize=lambda program: (0, len(program.cubin)),
        nvrtcGetCUBIN=lambda program, buffer: fill(buffer, program.cubin),
        nvrtcDestroyProgram=destroy,
    )
    return module


@pytest.fixture
def headers(stub: Callable[..., Path], tmp_path: Path) -> Path:
    folder = tmp_path / "toolkit/targets/aarch64-linux/include"
    (folder / "cccl").mkdir(parents=True)
    (folder / "cuda_fp16.h").touch()
    return folder


@pytest.mark.parametrize("name", ["cuda.bindings.nvrtc", "cuda.nvrtc"])
def test_nvrtc_comes_first(
    name: str,
    stub: Callable[..., Path],
    headers: Path,
    no_nvrtc: None,
    sources: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub()
    bindings = nvrtc_bindings()
    monkeypatch.setitem(sys.modules, name, bindings)
    found = find_compiler(TARGET)
    assert isinstance(found, Nvrtc)
    assert found.identity == "NVRTC 12.6"
    cubin = found.compile(sources / "one.cu", "sm_87").decode()
    assert cubin.startswith("// one.cu\n--gpu-architecture=sm_87 --std=c++17 --fmad=false ")
    for folder in (sources, headers, headers / "cccl"):
        assert f"--include-path={folder}" in cubin.split()
    assert [program.live for program in bindings.programs] == [False]


def test_what_nvrtc_says_is_said(
    headers: Path, no_nvrtc: None, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bindings = nvrtc_bindings(fails=True)
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", bindings)
    said = r"one\.cu does not compile for sm_87 with NVRTC 12\.6: one\.cu\(1\): error: no such type"
    with pytest.raises(DeviceError, match=said):
        Binaries(TARGET).compile("one")
    assert [program.live for program in bindings.programs] == [False]


@pytest.mark.parametrize("reason", ["no library", "newer", "unknown", "no header"])
def test_nvcc_where_nvrtc_cannot_serve(
    reason: str,
    stub: Callable[..., Path],
    headers: Path,
    no_nvrtc: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bindings = nvrtc_bindings((13, 0) if reason == "newer" else (12, 6))
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", bindings)
    target = Target((12, 1), "12.6") if reason == "unknown" else TARGET
    if reason == "no library":

        def missing() -> tuple:
            raise RuntimeError("Failed to dlopen libnvrtc.so.12")

        bindings.__dict__["nvrtcVersion"] = missing
    if reason == "no header":
        (headers / "cuda_fp16.h").unlink()
        monkeypatch.setattr(compiler, "HEADER_PACKAGES", ("nvidia.not_there",))
    with pytest.raises(DeviceError) as caught:
        find_compiler(target)
    assert {
        "no library": "NVRTC cannot be loaded (Failed to dlopen libnvrtc.so.12)",
        "newer": "NVRTC 13.0 is newer than the driver's CUDA",
        "unknown": "NVRTC 12.6 does not know this GPU",
        "no header": "NVRTC 12.6 lacks the header cuda_fp16.h",
    }[reason] in str(caught.value)
    stub()
    assert find_compiler(target).identity == "nvcc 12.6.68"


def test_headers_of_pip(
    no_nvrtc: None, stub: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    include = tmp_path / "site/nvidia/cuda_runtime/include"
    include.mkdir(parents=True)
    (include / "cuda_fp16.h").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in ("nvidia", "nvidia.cuda_runtime"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", nvrtc_bindings())
    assert isinstance(find_compiler(TARGET), Nvrtc)


# Loading and launching


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
        for use in (
            lambda: kernels.get("tile_loop", "advance", "P"),
            lambda: advance.launch(256, grid=(1, 1, 1), block=(1, 1, 1), stream=stream),
        ):
            with pytest.raises(DeviceError, match="this Kernels is closed; make a new one"):
                use()
