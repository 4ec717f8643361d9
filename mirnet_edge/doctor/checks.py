"""The questions to a machine, and the lines of the report that answer them."""

from __future__ import annotations

import re

from mirnet_edge._imports import EXTRA_OF_PACKAGE
from mirnet_edge._version import __version__
from mirnet_edge.cuda.driver import NO_DEVICE, start_driver
from mirnet_edge.doctor.check import Check, Probe
from mirnet_edge.doctor.media import gstreamer, opencv
from mirnet_edge.doctor.system import System
from mirnet_edge.errors import DeviceError

OLDEST_PYTHON = (3, 10)
OLDEST_TENSORRT = (8, 6)
OLDEST_L4T = 36  # JetPack 6; JetPack 5 ends at Python 3.8 and TensorRT 8.5
# The budget of restoring is 400 MB beyond the input and output arrays, whatever their size.
LOW_MEMORY_BYTES = 512 * 2**20

# Distributions and the modules they bring; onnxruntime is of the core too and has its own probe.
CORE = {"numpy": "numpy", "Pillow": "PIL", "click": "click", "rich": "rich", "psutil": "psutil"}
NO_GPU = "none found ({}); models run on the CPU"
REINSTALL = "pip install --force-reinstall onnxruntime"
DISTRIBUTIONS = {  # of the packages of extras, where they are not named like the module
    "skimage": ("scikit-image",),
    "onnx_ir": ("onnx-ir",),
    "cuda": ("cuda-bindings",),
    "pillow_jxl": ("pillow-jxl-plugin",),
    "prometheus_client": ("prometheus-client",),
}
USE_OF_EXTRA = {
    "train": "used on a workstation to train, evaluate and export",
    "graph": "used to rewrite and quantize graphs, to export and to build",
    "tensorrt": "used to run engines on an NVIDIA GPU",
    "openvino": "used to run models on a CPU, faster than ONNX Runtime on many",
    "video": "used to read and write videos and cameras",
    "live": "used to show a source in a browser",
    "photos": "used for 16 bits a colour channel and JPEG XL",
    "serve": "used to serve models over HTTP",
    "ray": "used to restore files on a cluster",
}
USE_OF_PACKAGE = {
    "pycuda": "not needed: where it is missing, the driver of an NVIDIA GPU is called by ctypes",
}


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _python(system: System) -> list[Check]:
    detail = f"{_dotted(system.python_version)} on {system.platform}"
    if system.python_version < OLDEST_PYTHON:
        oldest = _dotted(OLDEST_PYTHON)
        detail = f"{detail}; mirnet-edge needs {oldest} or later"
        return [Check("Python", "missing", detail, f"sudo apt install python{oldest}")]
    return [Check("Python", "ok", detail)]


def _package(names: tuple[str, ...], module: str, absent: Check) -> Probe:
    def ask(system: System) -> list[Check]:
        version = system.package_version(names, module)
        return [absent if version is None else Check(absent.name, "ok", version)]

    return Probe(absent.name, ask, absent.fix if absent.status == "missing" else None)


def _of_extra(package: str) -> Probe:
    extra, names = EXTRA_OF_PACKAGE[package], DISTRIBUTIONS.get(package, (package,))
    use = USE_OF_PACKAGE.get(package, USE_OF_EXTRA[extra])
    detail, fix = f"not installed; {use}", f'pip install "mirnet-edge[{extra}]"'
    # The folder "cuda" is shared by all of NVIDIA's packages for Python.
    module = "cuda.bindings" if package == "cuda" else package
    return _package(names, module, Check(names[0], "optional", detail, fix))


def _onnxruntime(system: System) -> list[Check]:
    try:
        onnxruntime = system.import_module("onnxruntime")
        providers = ", ".join(onnxruntime.get_available_providers())
    except Exception as error:
        if system.package_version(("onnxruntime", "onnxruntime-gpu"), "onnxruntime") is None:
            return [Check("onnxruntime", "missing", "not installed", "pip install onnxruntime")]
        detail = f"installed, but cannot be used: {type(error).__name__}: {error}"
        return [Check("onnxruntime", "missing", detail, REINSTALL)]
    return [Check("onnxruntime", "ok", f"{onnxruntime.__version__} with {providers}")]


def _gpu(system: System) -> list[Check]:
    try:
        driver = start_driver(system.load_library)
        if driver is None:
            return _gpu_without_driver_library(system)
        gpus = [driver.facts(index) for index in range(driver.device_count())]
    except DeviceError as error:
        # A Jetson always has its GPU: that the driver sees none there is a fault to be looked at.
        if NO_DEVICE not in str(error) or system.jetson_model():
            return [Check("NVIDIA GPU", "warning", f"the CUDA driver does not start: {error}")]
        gpus = []
    if not gpus:
        return [Check("NVIDIA GPU", "optional", NO_GPU.format("the CUDA driver sees no device"))]
    checks = []
    for gpu in gpus:
        name = "NVIDIA GPU" if len(gpus) == 1 else f"NVIDIA GPU {gpu.index}"
        memory = _gib(gpu.memory_bytes) + (" shared with the CPU" if gpu.integrated else "")
        detail = f"{gpu.name}, compute capability {_dotted(gpu.compute_capability)}, {memory}"
        checks.append(Check(name, "ok", detail))
    versions = (system.driver_release(), f"up to CUDA {gpus[0].driver_version}")
    return [*checks, Check("NVIDIA driver", "ok", ", ".join(filter(None, versions)))]


def _gpu_without_driver_library(system: System) -> list[Check]:
    model = system.jetson_model()
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    answer = "" if model else (system.run(query) or "").strip()
    if not model and not answer:
        return [Check("NVIDIA GPU", "optional", NO_GPU.format("no CUDA driver library"))]
    seen = model or "nvidia-smi sees " + "; ".join(answer.splitlines())
    fix = "sudo apt install nvidia-l4t-cuda" if model else "sudo ldconfig"
    detail = f"{seen}, but the CUDA driver library libcuda.so.1 cannot be loaded"
    return [Check("NVIDIA GPU", "warning", detail, fix)]


def tensorrt_is_too_old(version: str) -> bool:
    """Tell whether our code does not run on it; what is no version at all may be new."""
    number = re.match(r"(\d+)\.(\d+)", version)
    return number is not None and (int(number[1]), int(number[2])) < OLDEST_TENSORRT


def _tensorrt(system: System) -> list[Check]:
    version = system.package_version(("tensorrt", "tensorrt-cu12", "tensorrt-cu13"), "tensorrt")
    jetson = system.jetson_model() is not None
    # There it comes with JetPack, and the extra leaves it out.
    fix = "sudo apt install python3-libnvinfer" if jetson else 'pip install "mirnet-edge[tensorrt]"'
    if version is not None and not tensorrt_is_too_old(version):
        return [Check("TensorRT", "ok", version)]
    if version is not None:
        oldest = _dotted(OLDEST_TENSORRT)
        return [Check("TensorRT", "warning", f"{version}; {oldest} or later is needed", fix)]
    hidden = next(system.root.glob("usr/lib/python3*/dist-packages/tensorrt"), None)
    detail = "not installed; used to build and run engines"
    if jetson and hidden is not None:
        folder = "/" + hidden.parent.relative_to(system.root).as_posix()
        detail = f"JetPack's is in {folder}, which this Python environment does not see"
        fix = "python3 -m venv --system-site-packages .venv"
    return [Check("TensorRT", "optional", detail, fix)]


def _nvcc(system: System) -> list[Check]:
    on_path = system.run(["nvcc", "--version"])
    # JetPack and NVIDIA's installers put it here, and leave PATH to the user.
    folder = system.root / "usr/local/cuda/bin"
    answer = on_path or system.run([str(folder / "nvcc"), "--version"])
    if answer is None:
        jetson = system.jetson_model() is not None
        fix = f"sudo apt install {'nvidia-jetpack' if jetson else 'nvidia-cuda-toolkit'}"
        return [Check("nvcc", "optional", "not found; used to compile CUDA kernels", fix)]
    release = re.search(r"release (\d+\.\d+)", answer)
    detail = f"CUDA {release[1]}" if release else "version unknown"
    if on_path is not None:
        return [Check("nvcc", "ok", detail)]
    fix = f'export PATH="{folder}:$PATH"'
    return [Check("nvcc", "warning", f"{detail} in {folder}, which is not on PATH", fix)]


def _jetson(system: System) -> list[Check]:
    model = system.jetson_model()
    return [Check("Jetson", "ok", model)] if model else []


def _jetpack(system: System) -> list[Check]:
    if system.jetson_model() is None:
        return []
    query = ["dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack"]
    version = (system.run(query) or "").strip()
    text = system.text("etc/nv_tegra_release")
    release = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    l4t = f"L4T R{release[1]}.{release[2]}" if release else ""
    detail = " on ".join(filter(None, (version, l4t)))
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
    # Boards number their modes differently, so the fastest is looked up by its name.
    text = system.text("etc/nvpmodel.conf")
    fastest = re.search(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(MAXN\S*)\s*>", text)
    if fastest is None or mode[1].startswith("MAXN"):
        return [Check("power mode", "ok", mode[1])]
    detail = f"{mode[1]}; {fastest[2]} is faster"
    return [Check("power mode", "warning", detail, f"sudo nvpmodel -m {fastest[1]}")]


def _memory(system: System) -> list[Check]:
    lines = re.findall(r"^(\w+):\s+(\d+) kB", system.text("proc/meminfo"), re.M)
    sizes = {name: int(kib) * 1024 for name, kib in lines}
    if "MemTotal" not in sizes:
        return [Check("memory", "ok", "not reported by this operating system")]
    # Kernels before 3.14 do not say what is available.
    available_bytes = sizes.get("MemAvailable", sizes["MemTotal"])
    detail = f"{_gib(sizes['MemTotal'])}, {_gib(available_bytes)} available"
    if available_bytes < LOW_MEMORY_BYTES:
        detail = f"{detail}; restoring may need {_gib(LOW_MEMORY_BYTES)} beyond the frames"
        return [Check("memory", "warning", detail)]
    return [Check("memory", "ok", detail)]


PROBES = (
    Probe("Python", _python),
    Probe("mirnet-edge", lambda _: [Check("mirnet-edge", "ok", __version__)]),
    *(
        _package((name,), module, Check(name, "missing", "not installed", f"pip install {name}"))
        for name, module in CORE.items()
    ),
    Probe("onnxruntime", _onnxruntime, REINSTALL),
    *(
        _of_extra(name)
        for name, extra in EXTRA_OF_PACKAGE.items()
        if extra != "tensorrt" and name != "cv2"
    ),
    Probe("OpenCV", opencv),
    Probe("GStreamer", gstreamer),
    Probe("NVIDIA GPU", _gpu),
    Probe("TensorRT", _tensorrt),
    _of_extra("pycuda"),
    _of_extra("cuda"),
    Probe("nvcc", _nvcc),
    Probe("Jetson", _jetson),
    Probe("JetPack", _jetpack),
    Probe("power mode", _power_mode),
    Probe("memory", _memory),
    Probe("CPU cores", lambda system: [Check("CPU cores", "ok", str(system.cpu_cores()))]),
)
