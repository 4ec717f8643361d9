"""What the doctor says of GPUs, drivers, TensorRT and Jetsons."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_gpu import FakeGpu
from fake_libcuda import loader
from machines import CORE, NVCC, NVPMODEL_CONF, ORIN, commands, gpu_named, report, write
from machines import laptop as laptop
from machines import orin as orin

from mirnet_edge.doctor import Check, System, healthy


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
    bare = replace(orin, run=commands({}), version_of=CORE.get, load_library=loader(None))
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
    checks = report(replace(laptop, load_library=loader(gpu_named("NVIDIA {}", count=2))))
    assert checks["NVIDIA GPU 0"].detail == "NVIDIA 0, compute capability 8.7, 30.0 GiB"
    assert checks["NVIDIA GPU 1"].detail == "NVIDIA 1, compute capability 8.7, 30.0 GiB"
    assert checks["NVIDIA driver"].detail == "up to CUDA 12.6"


@pytest.mark.parametrize("gpu", [FakeGpu(count=0), FakeGpu(broken={"cuInit": 100})])
def test_a_driver_without_a_gpu(laptop: System, gpu: FakeGpu) -> None:
    check = report(replace(laptop, load_library=loader(gpu)))["NVIDIA GPU"]
    assert check.status == "optional"
    assert "sees no device" in check.detail


def test_a_driver_that_does_not_start(laptop: System) -> None:
    gpu = FakeGpu(broken={"cuInit": 803})
    check = report(replace(laptop, load_library=loader(gpu)))["NVIDIA GPU"]
    assert check.status == "warning"
    assert "cuInit failed: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)" in check.detail


def test_a_jetson_whose_driver_sees_no_gpu(orin: System) -> None:
    gpu = FakeGpu(broken={"cuInit": 100})
    check = report(replace(orin, load_library=loader(gpu)))["NVIDIA GPU"]
    assert check.status == "warning"
    assert "does not start: cuInit failed: CUDA_ERROR_NO_DEVICE (100)" in check.detail


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
