"""Machines made up of files and functions, for the doctor to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_gpu import FakeGpu
from fake_libcuda import loader

from mirnet_edge.doctor import Check, System, diagnose

CORE = {"numpy": "1.26", "Pillow": "10.4", "click": "8.1", "rich": "13.9", "psutil": "5.9"}
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


def gpu_named(name: str, **changes: Any) -> FakeGpu:
    """One with 30 GiB, of Orin's compute capability."""
    return FakeGpu(name=name, capability=(8, 7), total_bytes=30 * 2**30, **changes)


def commands(outputs: dict[str, str]) -> Callable[[Sequence[str]], str | None]:
    return lambda command: outputs.get(command[0])


def onnxruntime(name: str) -> SimpleNamespace:
    assert name == "onnxruntime", f"the doctor imported {name}"
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return SimpleNamespace(__version__="1.19.2", get_available_providers=providers.copy)


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
        load_library=loader(None),
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
        load_library=loader(gpu_named("Orin", integrated=True)),
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
