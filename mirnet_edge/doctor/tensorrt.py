"""TensorRT, and what stands beside it: pycuda to run its engines, nvcc to compile CUDA kernels."""

from __future__ import annotations

import re

from mirnet_edge.doctor.checks import Check
from mirnet_edge.doctor.probe import Probe
from mirnet_edge.doctor.system import System

OLDEST_TENSORRT = (8, 6)
INSTALL_EXTRA = 'pip install "mirnet-edge[tensorrt]"'


def _tensorrt(system: System) -> list[Check]:
    names = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
    version = system.package_version(names, "tensorrt")
    jetson = system.jetson_model() is not None
    fix = "sudo apt install python3-libnvinfer" if jetson else INSTALL_EXTRA
    if version is not None:
        number = re.match(r"(\d+)\.(\d+)", version)
        if number is None or (int(number[1]), int(number[2])) >= OLDEST_TENSORRT:
            return [Check("TensorRT", "ok", version)]
        oldest = ".".join(map(str, OLDEST_TENSORRT))
        return [Check("TensorRT", "warning", f"{version}; {oldest} or later is needed", fix)]
    hidden = next(system.root.glob("usr/lib/python3*/dist-packages/tensorrt"), None)
    if jetson and hidden is not None:
        folder = "/" + hidden.parent.relative_to(system.root).as_posix()
        detail = f"JetPack's is in {folder}, which this Python environment does not see"
        fix = "python3 -m venv --system-site-packages .venv"
        return [Check("TensorRT", "optional", detail, fix)]
    return [Check("TensorRT", "optional", "not installed; used to build and run engines", fix)]


def _pycuda(system: System) -> list[Check]:
    version = system.package_version(["pycuda"], "pycuda")
    if version is not None:
        return [Check("pycuda", "ok", version)]
    detail = "not installed; used to run engines on an NVIDIA GPU"
    return [Check("pycuda", "optional", detail, INSTALL_EXTRA)]


def _nvcc(system: System) -> list[Check]:
    on_path = system.run(["nvcc", "--version"])
    folder = system.root / "usr/local/cuda/bin"
    answer = on_path or system.run([str(folder / "nvcc"), "--version"])
    if answer is None:
        jetson = system.jetson_model() is not None
        fix = f"sudo apt install {'nvidia-jetpack' if jetson else 'nvidia-cuda-toolkit'}"
        detail = "not found; used to compile CUDA kernels"
        return [Check("nvcc", "optional", detail, fix)]
    release = re.search(r"release (\d+\.\d+)", answer)
    detail = f"CUDA {release[1]}" if release else "version unknown"
    if on_path is not None:
        return [Check("nvcc", "ok", detail)]
    fix = f'export PATH="{folder}:$PATH"'
    return [Check("nvcc", "warning", f"{detail} in {folder}, which is not on PATH", fix)]


PROBES = (
    Probe("TensorRT", _tensorrt),
    Probe("pycuda", _pycuda),
    Probe("nvcc", _nvcc),
)
