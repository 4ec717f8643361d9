"""The report of ``mirnet-edge doctor``, on this machine and on machines made up of files and
functions."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mirnet_edge import doctor
from mirnet_edge.doctor import Check, System, diagnose, healthy
from mirnet_edge.doctor.system import run_command

CORE = {"numpy": "1.26", "Pillow": "10.4", "click": "8.1", "rich": "13.9", "psutil": "5.9"}
TRAIN = ("torch", "onnx", "onnxscript", "onnxsim", "safetensors", "scikit-image", "matplotlib")
ORIN = "NVIDIA Jetson AGX Orin Developer Kit"
NV_TEGRA_RELEASE = """\
# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64
# KERNEL_VARIANT: oot
"""
NVPMODEL_CONF = """\
< PARAM TYPE=FILE NAME=CPU_ONLINE >
< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MODE_30W >
"""
NVCC = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 12.6, V12.6.68\n"
NVPMODEL = "NV Power Mode: MODE_30W\n2\n"


class FakeDriver:
    """The functions of libcuda that the doctor calls; ``failing`` maps names to error codes."""

    def __init__(self, *names: str, integrated: bool = False, **failing: int) -> None:
        self._names = names
        self._failing = failing
        self._attributes = {18: int(integrated), 75: 8, 76: 7}

    def cuInit(self, flags: int) -> int:
        return self._failing.get("cuInit", 0)

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 12060
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self._names)
        return self._failing.get("cuDeviceGetCount", 0)

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: ctypes.c_int) -> int:
        name.value = self._names[device.value].encode()[:length]
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: ctypes.c_int) -> int:
        size._obj.value = 30 * 2**30
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:
        value._obj.value = self._attributes[attribute]
        return 0


def commands(outputs: dict[str, str]) -> Callable[[Sequence[str]], str | None]:
    return lambda command: outputs.get(command[0])


def driver(library: FakeDriver | None) -> Callable[[str], FakeDriver]:
    def load(name: str) -> FakeDriver:
        if library is None:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return library

    return load


def onnxruntime(name: str) -> SimpleNamespace:
    assert name == "onnxruntime", f"the doctor imported {name}"
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return SimpleNamespace(__version__="1.19.2", get_available_providers=providers.copy)


def fail(*arguments: object) -> Any:
    raise ImportError("this machine is on fire")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def laptop(tmp_path: Path) -> System:
    """A machine without a GPU, with the required packages and no others."""
    return System(
        root=write(tmp_path, {"proc/meminfo": "MemTotal: 16384000 kB\nMemAvailable: 8192000 kB\n"}),
        python_version=(3, 10, 12),
        platform="Linux-6.1-x86_64",
        run=commands({}),
        version_of=CORE.get,
        has_module=lambda name: False,
        import_module=onnxruntime,
        load_library=driver(None),
        cpu_cores=lambda: 8,
    )


@pytest.fixture
def orin(laptop: System) -> System:
    """A Jetson AGX Orin with JetPack 6.2, all of it installed, in the 30 W mode."""
    write(
        laptop.root,
        {
            "proc/device-tree/model": ORIN + "\0",
            "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for "
            "aarch64  540.4.0  Release Build  (buildbrain@mobile-u64-6519-d7000)\n",
            "etc/nv_tegra_release": NV_TEGRA_RELEASE,
            "etc/nvpmodel.conf": NVPMODEL_CONF,
        },
    )
    return replace(
        laptop,
        platform="Linux-5.15.148-tegra-aarch64",
        run=commands({"dpkg-query": "6.2+b77", "nvpmodel": NVPMODEL, "nvcc": NVCC}),
        version_of={**CORE, "tensorrt": "10.3.0", "pycuda": "2024.1.2"}.get,
        load_library=driver(FakeDriver("Orin", integrated=True)),
    )


def report(system: System) -> dict[str, Check]:
    checks = diagnose(system)
    names = [check.name for check in checks]
    assert len(set(names)) == len(names), names
    for check in checks:
        assert check.status in {"ok", "missing", "optional", "warning"}
        assert check.detail
        assert check.fix or check.status != "missing", check
        assert check.fix is None or check.status != "ok", check
    return {check.name: check for check in checks}


def test_this_machine_runs_mirnet_edge() -> None:
    checks = report(System())
    for name in ("Python", "mirnet-edge", *CORE, "onnxruntime"):
        assert checks[name].status == "ok", checks[name]
    assert "CPUExecutionProvider" in checks["onnxruntime"].detail
    assert healthy(list(checks.values()))


def test_the_public_names() -> None:
    assert doctor.__all__ == ["Check", "System", "diagnose", "healthy"]


@pytest.mark.parametrize(
    ("use", "unwanted"),
    [
        ("", {"torch", "onnxruntime", "numpy", "PIL", "click", "rich", "psutil"}),
        ("mirnet_edge.doctor.diagnose();", {"torch", "tensorrt", "pycuda", "onnx"}),
    ],
)
def test_what_is_never_imported(use: str, unwanted: set[str]) -> None:
    code = f"import sys, mirnet_edge.doctor; {use} print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "mirnet_edge.doctor" in imported
    assert not unwanted & imported


def test_a_laptop_without_a_gpu_is_healthy(laptop: System) -> None:
    checks = report(laptop)
    assert healthy(list(checks.values()))
    assert checks["Python"].detail == "3.10.12 on Linux-6.1-x86_64"
    assert checks["onnxruntime"].detail == "1.19.2 with CUDAExecutionProvider, CPUExecutionProvider"
    assert checks["NVIDIA GPU"].status == "optional"
    for name in ("TensorRT", "pycuda"):
        assert checks[name].status == "optional"
        assert checks[name].fix == 'pip install "mirnet-edge[tensorrt]"'
    assert checks["nvcc"].fix == "sudo apt install nvidia-cuda-toolkit"
    assert checks["memory"].detail == "15.6 GiB, 7.8 GiB available"
    assert checks["CPU cores"].detail == "8"
    for name in TRAIN:
        assert checks[name].status == "optional"
        assert checks[name].fix == 'pip install "mirnet-edge[train]"'
    assert not {"Jetson", "JetPack", "power mode", "NVIDIA driver"} & set(checks)


def test_the_report_is_json(orin: System) -> None:
    checks = [asdict(check) for check in diagnose(orin)]
    assert json.loads(json.dumps(checks)) == checks
    assert set(checks[0]) == {"name", "status", "detail", "fix"}


def test_a_jetson_orin(orin: System) -> None:
    checks = report(orin)
    assert healthy(list(checks.values()))
    assert checks["Jetson"].detail == ORIN
    assert checks["JetPack"] == Check("JetPack", "ok", "6.2+b77 on L4T R36.4.3")
    gpu = "Orin, compute capability 8.7, 30.0 GiB shared with the CPU"
    assert checks["NVIDIA GPU"] == Check("NVIDIA GPU", "ok", gpu)
    assert checks["NVIDIA driver"] == Check("NVIDIA driver", "ok", "540.4.0, up to CUDA 12.6")
    assert checks["TensorRT"] == Check("TensorRT", "ok", "10.3.0")
    assert checks["pycuda"] == Check("pycuda", "ok", "2024.1.2")
    assert checks["nvcc"] == Check("nvcc", "ok", "CUDA 12.6")
    slow = ("MODE_30W; MAXN is faster", "sudo nvpmodel -m 0")
    assert checks["power mode"] == Check("power mode", "warning", *slow)


@pytest.mark.parametrize(
    ("output", "conf", "status", "detail"),
    [
        ("NV Power Mode: MAXN\n0\n", NVPMODEL_CONF, "ok", "MAXN"),
        ("NV Power Mode: MAXN_SUPER\n2\n", NVPMODEL_CONF, "ok", "MAXN_SUPER"),
        ("NV Power Mode: 15W\n0\n", "< POWER_MODEL ID=0 NAME=15W >\n", "ok", "15W"),
        ("NVPM ERROR: no permission\n", NVPMODEL_CONF, "warning", "nvpmodel gave no answer"),
    ],
)
def test_power_modes(orin: System, output: str, conf: str, status: str, detail: str) -> None:
    write(orin.root, {"etc/nvpmodel.conf": conf})
    check = report(replace(orin, run=commands({"nvpmodel": output})))["power mode"]
    assert (check.status, check.detail) == (status, detail)


def test_a_jetson_with_nothing_installed(orin: System) -> None:
    bare = replace(orin, run=commands({}), version_of=CORE.get, load_library=driver(None))
    checks = report(bare)
    assert healthy(list(checks.values()))
    assert checks["NVIDIA GPU"].status == "warning"
    assert checks["NVIDIA GPU"].fix == "sudo apt install nvidia-l4t-cuda"
    assert checks["TensorRT"].fix == "sudo apt install python3-libnvinfer"
    assert checks["nvcc"].fix == "sudo apt install nvidia-jetpack"
    assert checks["JetPack"].fix == "sudo apt install nvidia-jetpack"
    assert "R36.4.3" in checks["JetPack"].detail


def test_tensorrt_outside_the_virtual_environment(orin: System) -> None:
    (orin.root / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    check = report(replace(orin, version_of=CORE.get))["TensorRT"]
    assert check.status == "optional"
    assert "/usr/lib/python3.10/dist-packages" in check.detail
    assert check.fix == "python3 -m venv --system-site-packages .venv"


def test_jetpack_5_is_too_old(orin: System) -> None:
    write(orin.root, {"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 33958178\n"})
    check = report(replace(orin, run=commands({"dpkg-query": "5.1.2-b104"})))["JetPack"]
    assert check.status == "warning"
    assert check.detail == "5.1.2-b104 on L4T R35.4.1; JetPack 6 or later is needed"


def test_another_board_is_no_jetson(laptop: System) -> None:
    write(laptop.root, {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"})
    assert not {"Jetson", "JetPack", "power mode"} & set(report(laptop))


def test_two_discrete_gpus(laptop: System) -> None:
    checks = report(replace(laptop, load_library=driver(FakeDriver("NVIDIA A", "NVIDIA B"))))
    assert checks["NVIDIA GPU 0"].detail == "NVIDIA A, compute capability 8.7, 30.0 GiB"
    assert checks["NVIDIA GPU 1"].detail == "NVIDIA B, compute capability 8.7, 30.0 GiB"
    assert checks["NVIDIA driver"].detail == "up to CUDA 12.6"


@pytest.mark.parametrize("library", [FakeDriver(), FakeDriver(cuInit=100)])
def test_a_driver_without_a_gpu(laptop: System, library: FakeDriver) -> None:
    check = report(replace(laptop, load_library=driver(library)))["NVIDIA GPU"]
    assert check.status == "optional"
    assert "sees no device" in check.detail


def test_a_driver_that_does_not_start(laptop: System) -> None:
    check = report(replace(laptop, load_library=driver(FakeDriver(cuInit=803))))["NVIDIA GPU"]
    assert check.status == "warning"
    assert "cuInit failed with CUDA error 803" in check.detail


def test_a_gpu_whose_driver_library_is_not_found(laptop: System) -> None:
    seen = "NVIDIA RTX A2000, 535.104.05"
    check = report(replace(laptop, run=commands({"nvidia-smi": seen})))["NVIDIA GPU"]
    assert check.status == "warning"
    assert seen in check.detail
    assert check.fix == "sudo ldconfig"


def test_nvcc_outside_the_path(laptop: System) -> None:
    folder = laptop.root / "usr/local/cuda/bin"
    check = report(replace(laptop, run=commands({str(folder / "nvcc"): NVCC})))["nvcc"]
    assert check.status == "warning"
    assert check.detail.startswith("CUDA 12.6 in ")
    assert check.fix == f'export PATH="{folder}:$PATH"'


def test_a_tensorrt_that_is_too_old(laptop: System) -> None:
    check = report(replace(laptop, version_of={**CORE, "tensorrt": "8.5.2.2"}.get))["TensorRT"]
    assert check.status == "warning"
    assert check.detail == "8.5.2.2; 8.6 or later is needed"


def test_a_module_without_metadata_counts_as_installed(laptop: System) -> None:
    checks = report(replace(laptop, has_module=lambda name: name in {"skimage", "tensorrt"}))
    assert checks["scikit-image"] == Check("scikit-image", "ok", "version unknown")
    assert checks["TensorRT"] == Check("TensorRT", "ok", "version unknown")


@pytest.mark.parametrize("name", CORE)
def test_a_missing_required_package(laptop: System, name: str) -> None:
    packages = {key: version for key, version in CORE.items() if key != name}
    checks = report(replace(laptop, version_of=packages.get))
    assert checks[name] == Check(name, "missing", "not installed", f"pip install {name}")
    assert not healthy(list(checks.values()))


def test_an_old_python(laptop: System) -> None:
    checks = report(replace(laptop, python_version=(3, 9, 18)))
    assert checks["Python"].status == "missing"
    assert "3.10 or later" in checks["Python"].detail
    assert not healthy(list(checks.values()))


@pytest.mark.parametrize(
    ("packages", "fix"),
    [
        (CORE, "pip install onnxruntime"),
        ({**CORE, "onnxruntime": "1.19.2"}, "pip install --force-reinstall onnxruntime"),
        ({**CORE, "onnxruntime-gpu": "1.19.2"}, "pip install --force-reinstall onnxruntime"),
    ],
)
def test_an_onnxruntime_that_cannot_be_imported(
    laptop: System, packages: dict[str, str], fix: str
) -> None:
    checks = report(replace(laptop, version_of=packages.get, import_module=fail))
    assert (checks["onnxruntime"].status, checks["onnxruntime"].fix) == ("missing", fix)
    assert not healthy(list(checks.values()))


@pytest.mark.parametrize(
    ("meminfo", "status"),
    [
        ("MemTotal: 4000000 kB\nMemAvailable: 300000 kB\n", "warning"),
        ("MemTotal: 4000000 kB\n", "ok"),
        ("", "ok"),
    ],
)
def test_memory(laptop: System, meminfo: str, status: str) -> None:
    write(laptop.root, {"proc/meminfo": meminfo})
    assert report(laptop)["memory"].status == status


def test_probes_that_fail_become_lines_of_the_report(orin: System) -> None:
    seams = ("run", "version_of", "has_module", "import_module", "load_library", "cpu_cores")
    checks = report(replace(orin, **dict.fromkeys(seams, fail)))
    assert set(checks) >= {"numpy", "torch", "TensorRT", "nvcc", "NVIDIA GPU", "CPU cores"}
    assert checks["numpy"].status == checks["onnxruntime"].status == "missing"
    assert checks["torch"].status == checks["NVIDIA GPU"].status == "warning"
    assert "ImportError: this machine is on fire" in checks["CPU cores"].detail


def test_probes_that_hang_do_not_hold_up_the_report(orin: System) -> None:
    release = threading.Event()

    def hang(*arguments: object) -> Any:
        release.wait(60)

    stuck = replace(orin, run=hang, import_module=hang, load_library=hang, patience_s=0.3)
    started = time.monotonic()
    try:
        checks = report(stuck)
        elapsed_s = time.monotonic() - started
    finally:
        release.set()
    assert elapsed_s < 5, f"{elapsed_s:.1f} s"
    assert checks["numpy"].status == "ok"
    assert checks["onnxruntime"].status == "missing"
    for name in ("NVIDIA GPU", "nvcc", "JetPack", "power mode"):
        assert checks[name] == Check(name, "warning", "gave no answer within 0.3 s")


def test_commands_are_bounded_and_never_raise() -> None:
    python = sys.executable
    assert run_command([python, "-c", "print('yes')"]) == "yes\n"
    assert run_command([python, "-c", "raise SystemExit(1)"]) is None
    assert run_command(["no-such-command-anywhere"]) is None
    started = time.monotonic()
    assert run_command([python, "-c", "import time; time.sleep(60)"], timeout_s=0.2) is None
    assert time.monotonic() - started < 10
