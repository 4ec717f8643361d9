"""A folder of kernels with a cache beside it, a compiler that counts, and what tests give nvcc."""

from __future__ import annotations

import subprocess
from pathlib import Path

import fake_cuda
import pytest
from kernel_host import KERNELS

from mirnet_edge.cuda import DeviceFacts, compiler


def gpu_of(compute_capability: tuple[int, int], cuda: str) -> DeviceFacts:
    """A GPU for which code is made."""
    return DeviceFacts(
        index=0,
        name="Orin",
        compute_capability=compute_capability,
        memory_bytes=1 << 30,
        integrated=True,
        multiprocessors=16,
        shared_bytes=163 << 10,
        driver_version=cuda,
    )


ORIN = gpu_of((8, 7), "12.6")


def all_families(source: Path) -> None:
    """Write one source of all kernels: CUDA's headers take longer than they, and are read once."""
    names = [path.name for path in sorted(KERNELS.glob("*.cu"))]
    source.write_text("".join(f'#include "{name}"\n' for name in names))


def hasty(nvcc: str) -> list[str]:
    """The option for code that nothing runs: without its dearest optimizations nvcc 13.0 takes half
    the time. Older ones do not know it."""
    known = subprocess.run([nvcc, "--help"], capture_output=True, text=True).stdout
    return ["--Ofast-compile=max"] * ("--Ofast-compile" in known)


class Compiler:
    """Counts, and makes what the fake driver loads."""

    def __init__(self, identity: str = "counting 1.0") -> None:
        self.identity = identity
        self.compiled: list[tuple[str, str]] = []

    def compile(self, source: Path, architecture: str) -> bytes:
        self.compiled.append((source.name, architecture))
        return fake_cuda.CUBIN + source.stem.encode()


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of kernels, and a cache beside it."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    for name in ("one.cu", "two.cu", "shared.cuh"):
        (folder / name).write_text(f"// {name}\n")
    monkeypatch.setattr(compiler, "resource_folder", lambda _: folder)
    monkeypatch.setenv("MIRNET_EDGE_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    made = Compiler()
    monkeypatch.setattr(compiler, "find_compiler", lambda _: made)
    return made
