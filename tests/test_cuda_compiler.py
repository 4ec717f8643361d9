"""Finding a compiler for kernels and using it, NVRTC or nvcc, without either."""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from kernel_sources import ORIN, gpu_of
from kernel_sources import sources as sources

from mirnet_edge.cuda import compiler
from mirnet_edge.cuda.compiler import Binaries, cache_folder, find_compiler
from mirnet_edge.errors import DeviceError

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
    for name in ("cuda", "cuda.bindings", "cuda.bindings.nvrtc"):
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
    found = find_compiler(ORIN)
    assert found.identity == "nvcc 12.6.68"
    assert found.compile(sources / "one.cu", "sm_87") == b"made"
    options = Path(f"{nvcc}.options").read_text()
    for option in ("-cubin", "--gpu-architecture=sm_87", "--fmad=false", f"={sources} "):
        assert option in options


def test_what_nvcc_says_is_said(stub: Callable[..., Path], no_nvrtc: None, sources: Path) -> None:
    stub('echo "one.cu(3): error: expected a )" >&2\nexit 2')
    said = r"one\.cu does not compile for sm_87 with nvcc 12\.6\.68: one\.cu\(3\): error: expected"
    with pytest.raises(DeviceError, match=said):
        Binaries(ORIN).compile("one")
    assert not cache_folder().exists()


def test_an_nvcc_that_makes_nothing(
    stub: Callable[..., Path], no_nvrtc: None, sources: Path
) -> None:
    stub("exit 0")
    with pytest.raises(DeviceError, match=r"with nvcc 12\.6\.68: exit status 0"):
        Binaries(ORIN).compile("one")


def test_no_compiler_says_what_to_install(stub: Callable[..., Path], no_nvrtc: None) -> None:
    said = (
        r"no compiler for the CUDA kernels \(sm_87, CUDA 12\.6\): NVRTC: cuda-bindings is not "
        r"installed; nvcc is neither on PATH.*pip install cuda-bindings nvidia-cuda-nvrtc-cu12 "
        r"nvidia-cuda-runtime-cu12, or on a Jetson: sudo apt install cuda-toolkit"
    )
    with pytest.raises(DeviceError, match=said):
        find_compiler(ORIN)
    with pytest.raises(DeviceError, match=r"pip install cuda-bindings nvidia-cuda-nvrtc nvidia-"):
        find_compiler(gpu_of((11, 0), "13.0"))


def test_compilers_newer_than_the_driver_are_not_used(
    stub: Callable[..., Path], no_nvrtc: None
) -> None:
    stub(version="13.0")
    with pytest.raises(DeviceError, match=r"nvcc \(V13\.0\.68\) is newer than the driver's CUDA"):
        find_compiler(ORIN)
    assert find_compiler(gpu_of((11, 0), "13.0")).identity == "nvcc 13.0.68"


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


def test_nvrtc_comes_first(
    stub: Callable[..., Path],
    headers: Path,
    no_nvrtc: None,
    sources: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub()
    bindings = nvrtc_bindings()
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", bindings)
    found = find_compiler(ORIN)
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
        Binaries(ORIN).compile("one")
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
    target = gpu_of((12, 1), "12.6") if reason == "unknown" else ORIN
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
    assert find_compiler(ORIN).identity == "NVRTC 12.6"
