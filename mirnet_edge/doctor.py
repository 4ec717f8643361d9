"""What this machine has for mirnet_edge, what is missing, and the command that installs it.

Versions are read from package metadata, and the GPU is asked through the CUDA driver library
itself, so neither torch nor any tool of the CUDA toolkit is needed; only onnxruntime is imported,
because its execution providers are known in no other way. The probes run side by side in daemon
threads, each as long as ``System.patience_s`` allows: one that hangs or fails becomes a line of the
report, not the end of it.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mirnet_edge._version import __version__

Status = Literal["ok", "missing", "optional", "warning"]

OLDEST_PYTHON = (3, 10)
OLDEST_TENSORRT = (8, 6)
OLDEST_L4T = 36  # JetPack 6; JetPack 5 ends at Python 3.8 and TensorRT 8.5
# Restoring takes at most 400 MiB beyond the input and output arrays (README.md).
LOW_MEMORY_BYTES = 512 * 2**20
COMMAND_TIMEOUT_S = 5.0

# CUdevice_attribute and CUresult, from cuda.h.
_INTEGRATED, _CAPABILITY_MAJOR, _CAPABILITY_MINOR = 18, 75, 76
_NO_DEVICE = 100


@dataclass(frozen=True)
class Check:
    """One line of the report.

    ``status`` is "ok"; "missing": required and absent; "optional": absent and only needed for some
    uses; or "warning": there, but something about it wants attention. ``fix`` is a command for a
    shell, always given with "missing", or None where no command helps.
    """

    name: str
    status: Status
    detail: str
    fix: str | None = None


def run_command(command: Sequence[str], timeout_s: float = COMMAND_TIMEOUT_S) -> str | None:
    """The standard output of ``command``, or None when it is absent, fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def distribution_version(distribution: str) -> str | None:
    """The version in the metadata of an installed distribution, or None when there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def has_module(name: str) -> bool:
    """Whether the top-level module could be imported; it is not."""
    return importlib.util.find_spec(name) is not None


def usable_cores() -> int:
    """The CPU cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@dataclass(frozen=True)
class System:
    """The machine as the probes see it; every field can stand for another machine in a test.

    Files are read below ``root``. ``load_library`` opens a shared library by name or raises
    OSError, ``run`` gives a command's output or None, ``import_module`` raises ImportError.
    """

    root: Path = Path("/")
    python_version: tuple[int, int, int] = sys.version_info[:3]
    platform: str = field(default_factory=platform.platform)
    run: Callable[[Sequence[str]], str | None] = run_command
    version_of: Callable[[str], str | None] = distribution_version
    has_module: Callable[[str], bool] = has_module
    import_module: Callable[[str], Any] = importlib.import_module
    load_library: Callable[[str], Any] = ctypes.CDLL
    cpu_cores: Callable[[], int] = usable_cores
    patience_s: float = 15.0

    def text(self, path: str) -> str | None:
        """The text of the file ``path`` below ``root``, or None when it cannot be read."""
        try:
            return (self.root / path).read_bytes().rstrip(b"\0").decode(errors="replace").strip()
        except OSError:
            return None

    def jetson_model(self) -> str | None:
        """The name of the board when it is a Jetson, else None."""
        model = self.text("proc/device-tree/model")
        if model and "jetson" in model.lower():
            return model
        return "Jetson" if self.text("etc/nv_tegra_release") else None


def diagnose(system: System | None = None) -> list[Check]:
    """Ask everything there is to know about ``system``, this machine by default.

    Nothing is raised, and the answer comes within about ``System.patience_s`` seconds.
    """
    system = system or System()
    asked = []
    for probe in _PROBES:
        checks: list[Check] = []
        thread = threading.Thread(target=_ask, args=(probe, system, checks), daemon=True)
        thread.start()
        asked.append((probe, checks, thread))
    deadline = time.monotonic() + system.patience_s
    report: list[Check] = []
    for probe, checks, thread in asked:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            report.append(probe.failed(f"gave no answer within {system.patience_s:g} s"))
        else:
            report.extend(checks)
    return report


def healthy(checks: Sequence[Check]) -> bool:
    """Whether nothing required is missing."""
    return all(check.status != "missing" for check in checks)


@dataclass(frozen=True)
class _Probe:
    """A question to the system; ``fix`` marks one whose failure means that a requirement is not
    met."""

    name: str
    ask: Callable[[System], list[Check]]
    fix: str | None = None

    def failed(self, detail: str) -> Check:
        return Check(self.name, "missing" if self.fix else "warning", detail, self.fix)


def _ask(probe: _Probe, system: System, checks: list[Check]) -> None:
    try:
        checks.extend(probe.ask(system))
    except Exception as error:
        checks.append(probe.failed(f"could not be checked: {type(error).__name__}: {error}"))


# --- Python and its packages ------------------------------------------------------------------


def _python(system: System) -> list[Check]:
    version = ".".join(map(str, system.python_version))
    detail = f"{version} on {system.platform}"
    if system.python_version >= OLDEST_PYTHON:
        return [Check("Python", "ok", detail)]
    oldest = ".".join(map(str, OLDEST_PYTHON))
    detail = f"{detail}; mirnet-edge needs {oldest} or later"
    return [Check("Python", "missing", detail, f"sudo apt install python{oldest}")]


def _mirnet_edge(system: System) -> list[Check]:
    return [Check("mirnet-edge", "ok", __version__)]


def _package_version(system: System, distributions: Sequence[str], module: str) -> str | None:
    """The version of the first distribution there is; "version unknown" for a module without."""
    for distribution in distributions:
        version = system.version_of(distribution)
        if version is not None:
            return version
    return "version unknown" if system.has_module(module) else None


def _required(distribution: str, module: str, system: System) -> list[Check]:
    version = _package_version(system, [distribution], module)
    if version is not None:
        return [Check(distribution, "ok", version)]
    return [Check(distribution, "missing", "not installed", f"pip install {distribution}")]


def _onnxruntime(system: System) -> list[Check]:
    try:
        onnxruntime = system.import_module("onnxruntime")
        providers = ", ".join(onnxruntime.get_available_providers())
    except Exception as error:
        names = ("onnxruntime", "onnxruntime-gpu")
        if _package_version(system, names, "onnxruntime") is None:
            return [Check("onnxruntime", "missing", "not installed", "pip install onnxruntime")]
        detail = f"installed, but cannot be used: {type(error).__name__}: {error}"
        fix = "pip install --force-reinstall onnxruntime"
        return [Check("onnxruntime", "missing", detail, fix)]
    return [Check("onnxruntime", "ok", f"{onnxruntime.__version__} with {providers}")]


def _train_package(distribution: str, module: str, system: System) -> list[Check]:
    version = _package_version(system, [distribution], module)
    if version is not None:
        return [Check(distribution, "ok", version)]
    detail = "not installed; used on a workstation to train, evaluate and export"
    return [Check(distribution, "optional", detail, 'pip install "mirnet-edge[train]"')]


# --- NVIDIA GPU, TensorRT and what runs on them -----------------------------------------------


class _CudaError(Exception):
    """A call of the CUDA driver that returned an error code."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function} failed with CUDA error {code}")
        self.code = code


def _gpu(system: System) -> list[Check]:
    driver = _load_cuda_driver(system)
    if driver is None:
        return _gpu_without_driver_library(system)
    try:
        return _gpus_of_driver(driver, system)
    except _CudaError as error:
        if error.code == _NO_DEVICE and system.jetson_model() is None:
            return [_no_gpu("the CUDA driver sees no device")]
        return [Check("NVIDIA GPU", "warning", f"the CUDA driver does not start: {error}")]


def _load_cuda_driver(system: System) -> Any | None:
    for name in ("nvcuda.dll",) if os.name == "nt" else ("libcuda.so.1", "libcuda.so"):
        try:
            return system.load_library(name)
        except OSError:
            continue
    return None


def _gpus_of_driver(driver: Any, system: System) -> list[Check]:
    def call(function: str, *arguments: Any) -> None:
        code = getattr(driver, function)(*arguments)
        if code != 0:
            raise _CudaError(function, code)

    def attribute(number: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
        return value.value

    version, count = ctypes.c_int(), ctypes.c_int()
    call("cuInit", 0)
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuDeviceGetCount", ctypes.byref(count))
    checks = []
    for index in range(count.value):
        device, name, size_bytes = (
            ctypes.c_int(),
            ctypes.create_string_buffer(256),
            ctypes.c_size_t(),
        )
        call("cuDeviceGet", ctypes.byref(device), index)
        call("cuDeviceGetName", name, len(name), device)
        call("cuDeviceTotalMem_v2", ctypes.byref(size_bytes), device)
        major = attribute(_CAPABILITY_MAJOR, device)
        minor = attribute(_CAPABILITY_MINOR, device)
        shared = " shared with the CPU" if attribute(_INTEGRATED, device) else ""
        detail = (
            f"{name.value.decode(errors='replace')}, compute capability {major}.{minor}, "
            f"{_gib(size_bytes.value)}{shared}"
        )
        title = "NVIDIA GPU" if count.value == 1 else f"NVIDIA GPU {index}"
        checks.append(Check(title, "ok", detail))
    if not checks:
        return [_no_gpu("the CUDA driver sees no device")]
    release = re.search(
        r"Module\b.*?\s(\d+\.\d[\d.]*)", system.text("proc/driver/nvidia/version") or ""
    )
    kernel_module = f"{release[1]}, " if release else ""
    cuda = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return [*checks, Check("NVIDIA driver", "ok", f"{kernel_module}up to {cuda}")]


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


def _tensorrt(system: System) -> list[Check]:
    names = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
    version = _package_version(system, names, "tensorrt")
    jetson = system.jetson_model() is not None
    fix = "sudo apt install python3-libnvinfer" if jetson else 'pip install "mirnet-edge[tensorrt]"'
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
    version = _package_version(system, ["pycuda"], "pycuda")
    if version is not None:
        return [Check("pycuda", "ok", version)]
    detail = "not installed; used to run engines on an NVIDIA GPU"
    return [Check("pycuda", "optional", detail, "pip install pycuda")]


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


# --- Jetson and the machine -------------------------------------------------------------------


def _jetson(system: System) -> list[Check]:
    model = system.jetson_model()
    return [] if model is None else [Check("Jetson", "ok", model)]


def _jetpack(system: System) -> list[Check]:
    if system.jetson_model() is None:
        return []
    query = ["dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack"]
    version = (system.run(query) or "").strip()
    release = re.search(
        r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", system.text("etc/nv_tegra_release") or ""
    )
    l4t = f"L4T R{release[1]}.{release[2]}" if release else ""
    detail = " on ".join(part for part in (version, l4t) if part)
    if release and int(release[1]) < OLDEST_L4T:
        return [Check("JetPack", "warning", f"{detail}; JetPack 6 or later is needed")]
    if version:
        return [Check("JetPack", "ok", detail)]
    detail = f"{l4t or 'release unknown'}; the package nvidia-jetpack is not installed"
    return [Check("JetPack", "warning", detail, "sudo apt install nvidia-jetpack")]


def _power_mode(system: System) -> list[Check]:
    if system.jetson_model() is None:
        return []
    mode = re.search(r"NV Power Mode:\s*(\S+)", system.run(["nvpmodel", "-q"]) or "")
    if mode is None:
        return [Check("power mode", "warning", "nvpmodel gave no answer", "sudo nvpmodel -q")]
    modes = re.findall(
        r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", system.text("etc/nvpmodel.conf") or ""
    )
    fastest = next(((number, name) for number, name in modes if name.startswith("MAXN")), None)
    if fastest is None or mode[1].startswith("MAXN"):
        return [Check("power mode", "ok", mode[1])]
    detail = f"{mode[1]}; {fastest[1]} is faster"
    return [Check("power mode", "warning", detail, f"sudo nvpmodel -m {fastest[0]}")]


def _memory(system: System) -> list[Check]:
    sizes = {
        name: int(kib) * 1024
        for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", system.text("proc/meminfo") or "", re.M)
    }
    if "MemTotal" not in sizes:
        return [Check("memory", "ok", "not reported by this operating system")]
    available_bytes = sizes.get("MemAvailable", sizes["MemTotal"])
    detail = f"{_gib(sizes['MemTotal'])}, {_gib(available_bytes)} available"
    if available_bytes < LOW_MEMORY_BYTES:
        detail = f"{detail}; large frames may need {_gib(LOW_MEMORY_BYTES)} or more"
        return [Check("memory", "warning", detail)]
    return [Check("memory", "ok", detail)]


def _cpu(system: System) -> list[Check]:
    return [Check("CPU cores", "ok", str(system.cpu_cores()))]


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


_REQUIRED = (("numpy", "numpy"), ("Pillow", "PIL"), ("click", "click"), ("rich", "rich"))
_TRAIN = (
    ("torch", "torch"),
    ("onnx", "onnx"),
    ("onnxscript", "onnxscript"),
    ("onnxsim", "onnxsim"),
    ("safetensors", "safetensors"),
    ("scikit-image", "skimage"),
    ("matplotlib", "matplotlib"),
)
_PROBES = (
    _Probe("Python", _python),
    _Probe("mirnet-edge", _mirnet_edge),
    *(
        _Probe(name, partial(_required, name, module), f"pip install {name}")
        for name, module in _REQUIRED
    ),
    _Probe("onnxruntime", _onnxruntime, "pip install --force-reinstall onnxruntime"),
    *(_Probe(name, partial(_train_package, name, module)) for name, module in _TRAIN),
    _Probe("NVIDIA GPU", _gpu),
    _Probe("TensorRT", _tensorrt),
    _Probe("pycuda", _pycuda),
    _Probe("nvcc", _nvcc),
    _Probe("Jetson", _jetson),
    _Probe("JetPack", _jetpack),
    _Probe("power mode", _power_mode),
    _Probe("memory", _memory),
    _Probe("CPU cores", _cpu),
)
