"""The report of ``mirnet-edge doctor``, on this machine and on machines made up."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from machines import CORE, report, write
from machines import laptop as laptop
from machines import orin as orin

from mirnet_edge import doctor
from mirnet_edge.doctor import Check, System, diagnose, healthy
from mirnet_edge.doctor.system import has_module, run_command


def fail(*arguments: object) -> Any:
    raise ImportError("this machine is on fire")


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
    assert "called by ctypes" in checks["pycuda"].detail
    assert checks["nvcc"].fix == "sudo apt install nvidia-cuda-toolkit"
    assert checks["memory"].detail == "15.6 GiB, 7.8 GiB available"
    assert checks["CPU cores"].detail == "8"
    assert not {"Jetson", "JetPack", "power mode", "NVIDIA driver"} & set(checks)


def test_a_missing_package_is_sent_to_the_extra_that_has_it(laptop: System) -> None:
    checks, named = report(laptop), {}
    for check in checks.values():
        if extra := re.fullmatch(r'pip install "mirnet-edge\[(\w+)\]"', check.fix or ""):
            named[check.name] = extra[1]
    assert named["onnx"] == named["onnx-ir"] == "graph", "train would bring torch as well"
    assert named["torch"] == named["matplotlib"] == "train"
    assert named["OpenCV"] == named["av"] == "video"
    assert named["TensorRT"] == named["pycuda"] == named["cuda-bindings"] == "tensorrt"
    for name, extra in named.items():
        assert checks[name].status == "optional"
        brought = {"OpenCV": "opencv-python-headless"}.get(name, name.lower())
        assert brought in extras()[extra], f"setup.py has no {brought} in {extra}"


def extras() -> dict[str, set[str]]:
    """The packages of each extra, as setup.py lists them itself."""
    text = (Path(__file__).parents[1] / "setup.py").read_text("utf-8")
    lists = re.findall(r"^([A-Z]+) = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    return {name.lower(): {*re.findall(r'"([\w-]+)[>=]', packages)} for name, packages in lists}


def test_the_report_is_json(orin: System) -> None:
    checks = [asdict(check) for check in diagnose(orin)]
    assert json.loads(json.dumps(checks)) == checks
    assert set(checks[0]) == {"name", "status", "detail", "fix"}


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


def test_modules_are_found() -> None:
    assert has_module("json")
    assert has_module("xml.sax.expatreader")
    assert not has_module("xml.nothing_of_that_name")
    assert not has_module("nothing_of_that_name.below")
