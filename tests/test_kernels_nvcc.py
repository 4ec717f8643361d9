"""nvcc compiles every kernel for every architecture the project serves."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
from kernel_host import HOST_SOURCES, KERNELS
from kernel_samples import FORMATS
from kernel_sources import all_families, hasty
from kernel_twins import SAMPLES, VALUES, YUV_FORMATS

ALL_FORMATS = [*FORMATS, *(f"{frame_format}_u8" for frame_format in YUV_FORMATS)]
SYMBOLS = [
    *(
        f"{kernel}_{frame}_{value}"
        for kernel, frame, value in itertools.product(
            ("load_tiles", "store_tiles"), ALL_FORMATS, VALUES
        )
    ),
    *(f"blend_tiles_{value}" for value in VALUES),
    *(f"fill_plane_{value}" for value in VALUES),
    *(f"enlarge_tiles_x{scale}_{value}" for scale in (2, 3, 4) for value in VALUES),
    *(f"enlarge_alpha_x{scale}_{sample}" for scale in (2, 3, 4) for sample in SAMPLES),
    *(f"noise_{step}" for step in ("blocks", "pool", "head")),
    *(f"noise_convolve_{layer}" for layer in (1, 2, 3)),
    *("take_row", "put_row", "advance", "lap"),
    *(f"luma_sums_{frame}" for frame in ALL_FORMATS if frame not in ("nv12_u8", "i420_u8")),
]
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 110, 120, 121)


def test_nvcc_compiles_every_kernel_for_every_architecture(tmp_path: Path) -> None:
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("nvcc is not installed: the kernels cannot be compiled for the GPU")
    question = [compiler, "--list-gpu-arch"]
    listed = subprocess.run(question, capture_output=True, text=True).stdout
    architectures = [arch for arch in ARCHITECTURES if f"compute_{arch}" in listed.split()]
    assert architectures, f"this nvcc knows none of {ARCHITECTURES}: {listed}"
    source = tmp_path / "kernels.cu"
    all_families(source)
    # One pass of the front end for each generation, whose machine codes are made from it.
    targets = []
    for _, generation in itertools.groupby(architectures, lambda arch: arch // 10):
        members = list(generation)
        codes = ",".join(f"sm_{arch}" for arch in members)
        targets.append(f"-gencode=arch=compute_{members[0]},code=[{codes}]")
    keep = ["--keep", f"--keep-dir={tmp_path}"]
    flags = ["-fatbin", "--threads=2", "-Werror=all-warnings", f"-I{KERNELS}", *hasty(compiler)]
    command = [
        compiler,
        *flags,
        *keep,
        *targets,
        "-o",
        str(tmp_path / "kernels.fatbin"),
        str(source),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"
    cubins = {path.name: path.read_bytes() for path in tmp_path.glob("*.cubin")}
    assert len(cubins) == len(architectures), f"{sorted(cubins)} for {architectures}"
    for name, cubin in cubins.items():
        # The section of a kernel's code is named after it.
        missing = [symbol for symbol in SYMBOLS if f".text.{symbol}\0".encode() not in cubin]
        assert not missing, f"{name} lacks {missing}"


def test_nvcc_compiles_the_plugins_kernels_and_what_runs_them_in_tests(tmp_path: Path) -> None:
    """Without TensorRT's headers, which only what is around them needs."""
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("nvcc is not installed: the kernels cannot be compiled for the GPU")
    flags = ["-std=c++17", "-c", "-Werror=all-warnings", f"-I{KERNELS}", "-arch=sm_87"]
    flags += hasty(compiler)
    for source in (KERNELS / "plugins" / "launch.cu", HOST_SOURCES / "plugin_queues.cu"):
        command = [compiler, *flags, "-o", str(tmp_path / f"{source.stem}.o"), str(source)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"
