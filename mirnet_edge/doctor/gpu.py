"""The NVIDIA GPUs and their driver, asked through the CUDA driver library."""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from typing import Any

from mirnet_edge.doctor.checks import Check, gib
from mirnet_edge.doctor.probe import Probe
from mirnet_edge.doctor.system import System

# CUdevice_attribute and CUresult, from cuda.h.
_INTEGRATED, _CAPABILITY_MAJOR, _CAPABILITY_MINOR = 18, 75, 76
_NO_DEVICE = 100


class CudaError(Exception):
    """A call of the CUDA driver that returned an error code."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function} failed with CUDA error {code}")
        self.code = code


@dataclass(frozen=True)
class Gpu:
    """What the driver says of a GPU; ``integrated`` when it shares the CPU's memory."""

    name: str
    compute_capability: str
    memory_bytes: int
    integrated: bool


class CudaDriver:
    """The CUDA driver library, started; its calls raise CudaError."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._call("cuInit", 0)

    def version(self) -> str:
        """The newest CUDA the driver runs: 12.6."""
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return f"{version.value // 1000}.{version.value % 1000 // 10}"

    def device_count(self) -> int:
        """The GPUs there are."""
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        return count.value

    def describe(self, index: int) -> str:
        """Name, compute capability and memory of one GPU."""
        gpu = self.gpu(index)
        shared = " shared with the CPU" if gpu.integrated else ""
        return (
            f"{gpu.name}, compute capability {gpu.compute_capability}, "
            f"{gib(gpu.memory_bytes)}{shared}"
        )

    def gpu(self, index: int) -> Gpu:
        """One GPU. No context is made."""
        device, size_bytes = ctypes.c_int(), ctypes.c_size_t()
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGet", ctypes.byref(device), index)
        self._call("cuDeviceGetName", name, len(name), device)
        self._call("cuDeviceTotalMem_v2", ctypes.byref(size_bytes), device)
        major = self._attribute(_CAPABILITY_MAJOR, device)
        minor = self._attribute(_CAPABILITY_MINOR, device)
        return Gpu(
            name=name.value.decode(errors="replace"),
            compute_capability=f"{major}.{minor}",
            memory_bytes=size_bytes.value,
            integrated=bool(self._attribute(_INTEGRATED, device)),
        )

    def _attribute(self, number: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code != 0:
            raise CudaError(function, code)


def _gpu(system: System) -> list[Check]:
    library = load_driver_library(system)
    if library is None:
        return _gpu_without_driver_library(system)
    try:
        return _gpus_of_driver(CudaDriver(library), system)
    except CudaError as error:
        if error.code == _NO_DEVICE and system.jetson_model() is None:
            return [_no_gpu("the CUDA driver sees no device")]
        return [Check("NVIDIA GPU", "warning", f"the CUDA driver does not start: {error}")]


def load_driver_library(system: System) -> Any | None:
    """The CUDA driver's library, or None where there is none."""
    for name in ("nvcuda.dll",) if os.name == "nt" else ("libcuda.so.1", "libcuda.so"):
        try:
            return system.load_library(name)
        except OSError:
            continue
    return None


def _gpus_of_driver(driver: CudaDriver, system: System) -> list[Check]:
    version, count = driver.version(), driver.device_count()
    if count == 0:
        return [_no_gpu("the CUDA driver sees no device")]
    titles = ["NVIDIA GPU"] if count == 1 else [f"NVIDIA GPU {index}" for index in range(count)]
    checks = [Check(title, "ok", driver.describe(index)) for index, title in enumerate(titles)]
    release = driver_release(system)
    kernel_module = f"{release}, " if release else ""
    return [*checks, Check("NVIDIA driver", "ok", f"{kernel_module}up to CUDA {version}")]


def driver_release(system: System) -> str | None:
    """Of the driver's kernel module, "535.104.05"; None where the system does not tell."""
    text = system.text("proc/driver/nvidia/version") or ""
    release = re.search(r"Module\b.*?\s(\d+\.\d[\d.]*)", text)
    return release[1] if release else None


def _gpu_without_driver_library(system: System) -> list[Check]:
    model = system.jetson_model()
    if model is not None:
        detail = f"{model}, but the CUDA driver library libcuda.so.1 cannot be loaded"
        return [Check("NVIDIA GPU", "warning", detail, "sudo apt install nvidia-l4t-cuda")]
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    answer = (system.run(query) or "").strip()
    if not answer:
        return [_no_gpu("no CUDA driver library")]
    seen = "; ".join(answer.splitlines())
    detail = f"nvidia-smi sees {seen}, but the CUDA driver library libcuda.so.1 cannot be loaded"
    return [Check("NVIDIA GPU", "warning", detail, "sudo ldconfig")]


def _no_gpu(reason: str) -> Check:
    return Check("NVIDIA GPU", "optional", f"none found ({reason}); models run on the CPU")


PROBES = (Probe("NVIDIA GPU", _gpu),)
