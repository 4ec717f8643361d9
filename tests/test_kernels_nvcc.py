"""nvcc compiles every kernel for the architectures the project serves."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
from kernel_host import HOST_SOURCES, KERNELS
from kernel_samples import FORMATS
from kernel_sources import hasty
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
PASSES = {75: (75,), 80: (80, 87), 90: (90, 100, 110, 121)}
"""Architectures by the one that nvcc's front end takes for them. The kernels have code of their own
from 80 on, CUDA's headers from 90 on; 86 and 89 have the registers and threads of 87, and 120 those
of 121, which is all that the assembler could fail at."""


def test_nvcc_compiles_every_kernel_for_every_kind_of_architecture(tmp_path: Path) -> None:
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("nvcc is not installed: the kernels cannot be compiled for the GPU")
    question = [compiler, "--list-gpu-arch"]
    listed = subprocess.run(question, capture_output=True, text=True).stdout
    passes = {
        front: [arch for arch in codes if f"compute_{arch}" in listed.split()]
        for front, codes in PASSES.items()
    }
    architectures = [*itertools.chain(*passes.values())]
    assert architectures, f"this nvcc knows none of {PASSES}: {listed}"
    # All families in one source, whose headers are then parsed once for each architecture.
    source = tmp_path / "kernels.cu"
    source.write_text("".join(f'#include "{path.name}"\n' for path in sorted(KERNELS.glob("*.cu"))))
    targets = [
        f"-gencode=arch=compute_{front},code=[{','.join(f'sm_{arch}' for arch in codes)}]"
        for front, codes in passes.items()
        if codes
    ]
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
