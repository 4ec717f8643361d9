"""Compile our TensorRT plugins, ``kernels/plugins``, by nvcc against the headers that are there."""

from __future__ import annotations

import logging
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mirnet_edge._files import atomic_path
from mirnet_edge._imports import require
from mirnet_edge.build.target import Target, find_target
from mirnet_edge.cuda.compiler import TOOLKIT, run_compiler
from mirnet_edge.errors import BuildError, EngineError, MissingDependencyError, OutputError
from mirnet_edge.trt.network import has_precision_flags
from mirnet_edge.trt.plugins import (
    SOURCES,
    are_wanted,
    default_path,
    find_library,
    release_of,
    require_release,
    sources_folder,
)

HEADER, VERSION_HEADER = "NvInfer.h", "NvInferVersion.h"
FOLDERS = (
    f"/usr/include/{platform.machine()}-linux-gnu",
    "/usr/include",
    str(TOOLKIT / "include"),
    "/usr/local/tensorrt/include",
    "/usr/local/TensorRT/include",
    "/opt/tensorrt/include",
)
FLAGS = ("-shared", "-std=c++17", "-O3", "--fmad=false", "-cudart=static",
         "-Xcompiler=-fPIC,-fvisibility=hidden,-Wno-deprecated-declarations",
         "-Wno-deprecated-declarations")  # fmt: skip
SAID_LINES = 5


def find_headers(version: str, include: Path | None = None) -> Path:
    """Find the folder with TensorRT's headers.

    Args:
        version: of the TensorRT that is installed.
        include: where to look; None looks where packages put them.

    Raises:
        MissingDependencyError: there are none.
        BuildError: they are another release's.
    """
    folders = [include] if include else [Path(name) for name in FOLDERS]
    found = next((folder for folder in folders if (folder / HEADER).is_file()), None)
    release = release_of(version)
    if found is None:
        raise MissingDependencyError(
            f"compiling plugins needs TensorRT's headers, but there is no {HEADER} in "
            f"{', '.join(map(str, folders))}. Install them: apt install libnvinfer-headers-dev "
            "(JetPack has it too), or unpack TensorRT's archive, or the folder include of "
            f"github.com/NVIDIA/TensorRT at release/{release[0]}.{release[1]}, and name the folder "
            "with --include"
        )
    there = _release_of_headers(found)
    if there != release:
        raise BuildError(
            f"the headers in {found} are of TensorRT {there[0]}.{there[1]}, but {version} is "
            "installed; name those of its release with --include"
        )
    return found


def _release_of_headers(folder: Path) -> tuple[int, int]:
    text = "".join(
        path.read_text(encoding="utf-8", errors="replace")
        for path in (folder / VERSION_HEADER, folder / HEADER)
        if path.is_file()
    )
    # 10.x defines the first names by others: TRT_MAJOR_ENTERPRISE.
    numbers = dict(re.findall(r"#define (?:NV_TENSORRT|TRT)_(MAJOR|MINOR)\w* (\d+)", text))
    return int(numbers.get("MAJOR", 0)), int(numbers.get("MINOR", 0))


@dataclass(frozen=True)
class Plugins:
    """What builds have of our plugins.

    Attributes:
        library: of this TensorRT, if any.
        lack: why there is none, where there could be one.
    """

    library: Path | None = None
    lack: str | None = None


def plugins_for(target: Target) -> Plugins:
    """Find the library for a build, or compile it where nvcc and TensorRT's headers are there.

    Raises:
        EngineError: the variable that names it names no file.
    """
    version = target.versions["tensorrt"]
    if not has_precision_flags(require("tensorrt", "building engines")) or not are_wanted():
        return Plugins()  # without flags precision comes from types, which our operators lack
    if library := find_library(version):
        return Plugins(library)
    code = target.device["compute_capability"].replace(".", "")
    logging.getLogger(__name__).info("compiling the plugins, which happens once")
    try:
        return Plugins(compile_plugins(architectures=[code]))
    except (MissingDependencyError, BuildError, OutputError, EngineError) as error:
        return Plugins(lack=str(error))


def compile_plugins(
    output: Path | None = None, architectures: Sequence[str] = (), include: Path | None = None
) -> Path:
    """Compile the library for the TensorRT that is installed.

    Args:
        output: file to write; None takes the one that is looked for.
        architectures: of GPUs, such as "87"; none takes this machine's.
        include: the folder of TensorRT's headers; None looks for it.

    Raises:
        DeviceError: no GPU, where its architecture is asked of it.
        MissingDependencyError, BuildError, OutputError, EngineError: as `build_plugins`.
    """
    version = str(require("tensorrt", "compiling its plugins").__version__)
    if not architectures:
        architectures = [find_target().device["compute_capability"].replace(".", "")]
    return build_plugins(output or default_path(version), version, architectures, include)


def build_plugins(
    output: Path, version: str, architectures: Sequence[str], include: Path | None = None
) -> Path:
    """Compile the library into ``output``, whole or not at all.

    Args:
        output: file to write.
        version: of the TensorRT that is installed.
        architectures: of GPUs, such as "87" and "90".
        include: the folder of TensorRT's headers; None looks for it.

    Raises:
        MissingDependencyError: no headers, or no nvcc.
        BuildError: headers of another release, or the compiler refuses, or takes too long.
        OutputError: the file cannot be written.
        EngineError: what was compiled cannot be loaded.
    """
    headers = find_headers(version, include)
    compiler = shutil.which("nvcc") or shutil.which("nvcc", path=str(TOOLKIT / "bin"))
    if compiler is None:
        raise MissingDependencyError(
            f"compiling plugins needs nvcc, which is neither on PATH nor in {TOOLKIT}/bin. Install "
            "CUDA's toolkit (cuda-nvcc; on a Jetson, cuda-toolkit of JetPack)"
        )
    codes = [f"-gencode=arch=compute_{code},code=sm_{code}" for code in architectures]
    sources = [sources_folder() / name for name in SOURCES]
    try:
        output.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {output.parent}: {error.strerror}") from error
    with atomic_path(output, mode=0o700) as temporary:
        files = [str(path) for path in (temporary, *sources)]
        status, text = run_compiler(compiler, *FLAGS, *codes, f"-I{headers}", "-o", *files)
        if status != 0:
            said = text.strip().splitlines()
            raise BuildError(
                f"{compiler} does not compile the plugins for {', '.join(architectures)}: "
                + " | ".join(said[:SAID_LINES])
            )
        require_release(Path(temporary), version)
    return output
