"""From a kernel's source to machine code for one GPU: by NVRTC or by nvcc, once on a machine.

The machine code is kept in a cache folder, ``$XDG_CACHE_HOME/mirnet-edge/kernels`` or
``~/.cache/mirnet-edge/kernels``; MIRNET_EDGE_CACHE stands for the folder above ``kernels``. Its
files are named by what made them: sources, architecture, options and compiler, so that none is ever
stale and old ones may be deleted at any time. Where no compiler is left, as in a container that was
made after a first run, what any of them made of these sources serves.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from mirnet_edge._caches import read_cached, write_cached
from mirnet_edge._files import resource_folder
from mirnet_edge._imports import require
from mirnet_edge.cuda.driver import DeviceFacts
from mirnet_edge.errors import DeviceError, MirnetEdgeError, MissingDependencyError, first_line
from mirnet_edge.limits import how_to_lift, limit

# Products and sums are fused where the source says fmaf and nowhere else: what a kernel computes is
# then what the tests' host build of the same source computes, to the bit.
OPTIONS = ("--std=c++17", "--fmad=false")
TOOLKIT = Path("/usr/local/cuda")
HEADER = "cuda_fp16.h"
HEADER_PACKAGES = ("nvidia.cu13", "nvidia.cuda_runtime")


@dataclass(frozen=True)
class Compiler:
    """Makes machine code. Its identity, "NVRTC 12.6", is part of the name of what it makes; ``run``
    takes a ``.cu`` file, whose includes lie beside it, and ``sm_87``, and gives the cubin, empty
    where it does not compile, and what the compiler said."""

    identity: str
    run: Callable[[Path, str], tuple[bytes, str]]

    def compile(self, source: Path, architecture: str) -> bytes:
        """Make the cubin of a source. Where it does not compile, a `DeviceError` says why."""
        cubin, said = self.run(source, architecture)
        if not cubin:
            raise DeviceError(
                f"{source} does not compile for {architecture} with {self.identity}: "
                f"{said.strip()}\nReinstall mirnet-edge if the file was changed; otherwise install "
                "a newer compiler, or report this"
            )
        return cubin


def _run_nvrtc(
    api: ModuleType, include: list[Path], source: Path, architecture: str
) -> tuple[bytes, str]:
    folders = (f"--include-path={folder}" for folder in (source.parent, *include))
    options = [f"--gpu-architecture={architecture}", *OPTIONS, *folders]
    text = source.read_bytes()
    program = _nvrtc(api, "nvrtcCreateProgram", text, source.name.encode(), 0, [], [])

    def filled(function: str) -> bytes:
        # The bindings write into the memory of the bytes, which are as many as NVRTC asks for.
        buffer = b"\0" * int(_nvrtc(api, f"{function}Size", program))
        _nvrtc(api, function, program, buffer)
        return buffer

    try:
        encoded = [option.encode() for option in options]
        (code,) = api.nvrtcCompileProgram(program, len(options), encoded)
        if int(code) != 0:
            log = filled("nvrtcGetProgramLog").decode(errors="replace").strip("\0 \n")
            return b"", log or f"error {int(code)}"
        return filled("nvrtcGetCUBIN"), ""
    finally:
        api.nvrtcDestroyProgram(program)


def _nvrtc(api: ModuleType, function: str, *arguments: object) -> Any:
    code, *results = getattr(api, function)(*arguments)
    if int(code) != 0:
        raise DeviceError(
            f"{function} failed: {getattr(code, 'name', code)} ({int(code)}); install the "
            "cuda-bindings and the NVRTC of one CUDA"
        )
    return results[0] if results else None


def _run_nvcc(nvcc: str, source: Path, architecture: str) -> tuple[bytes, str]:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        options = ("-cubin", f"--gpu-architecture={architecture}", *OPTIONS)
        files = (f"--include-path={source.parent}", "-o", str(cubin), str(source))
        status, said = run_compiler(nvcc, *options, *files)
        made = cubin.read_bytes() if status == 0 and cubin.is_file() else b""
        return made, said or f"exit status {status}"


def find_compiler(gpu: DeviceFacts) -> Compiler:
    """Find NVRTC, else nvcc; where neither serves the GPU, a `DeviceError` says what to install."""
    reasons = []
    for find in (_find_nvrtc, _find_nvcc):
        found = find(gpu)
        if isinstance(found, Compiler):
            return found
        reasons.append(found)
    suffix = "" if gpu.cuda_major >= 13 else f"-cu{gpu.cuda_major}"
    raise DeviceError(
        f"no compiler for the CUDA kernels ({gpu.architecture}, CUDA {gpu.driver_version}): "
        f"{'; '.join(reasons)}. Install one: pip install cuda-bindings nvidia-cuda-nvrtc{suffix} "
        f"nvidia-cuda-runtime{suffix}, or on a Jetson: sudo apt install cuda-toolkit"
    )


def _find_nvrtc(gpu: DeviceFacts) -> Compiler | str:
    """Find the compiler, or why it cannot be used."""
    try:
        api = require("cuda.bindings.nvrtc", "compiling CUDA kernels")
        _, major, minor = api.nvrtcVersion()
        _, known = api.nvrtcGetSupportedArchs()
    except MissingDependencyError:
        return "NVRTC: cuda-bindings is not installed"
    except (ImportError, RuntimeError, OSError) as error:  # the bindings, without the library
        return f"NVRTC cannot be loaded ({first_line(error)})"
    version = f"{major}.{minor}"
    if major > gpu.cuda_major:
        return f"NVRTC {version} is newer than the driver's CUDA"
    if int(gpu.architecture.removeprefix("sm_")) not in known:
        return f"NVRTC {version} does not know this GPU"
    include = next((folder for folder in _header_folders() if (folder / HEADER).is_file()), None)
    if include is None:
        return f"NVRTC {version} lacks the header {HEADER} of the CUDA toolkit"
    bundled = include / "cccl"  # where CUDA 13 has the headers that this one includes
    folders = [include, bundled] if bundled.is_dir() else [include]
    return Compiler(f"NVRTC {version}", partial(_run_nvrtc, api, folders))


def _find_nvcc(gpu: DeviceFacts) -> Compiler | str:
    """Find the compiler, or why it cannot be used."""
    places = (os.environ.get("PATH", os.defpath), *(str(root / "bin") for root in _toolkits()))
    path = shutil.which("nvcc", path=os.pathsep.join(places))
    if path is None:
        return "nvcc is neither on PATH nor in CUDA_HOME nor in " + str(TOOLKIT / "bin")
    status, said = run_compiler(path, "--version")
    version = re.search(r"\bV(\d+)\.[\d.]+", said)
    if status != 0 or version is None:
        return f"{path} --version says nothing of use ({said.strip()[:200]})"
    if int(version[1]) > gpu.cuda_major:
        return f"{path} ({version[0]}) is newer than the driver's CUDA"
    return Compiler(f"nvcc {version[0].removeprefix('V')}", partial(_run_nvcc, path))


def _toolkits() -> list[Path]:
    named = (os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH"))
    return [*(Path(root) for root in named if root), TOOLKIT]


def _header_folders() -> Iterator[Path]:
    """List where cuda_fp16.h may lie: toolkits, then NVIDIA's packages for pip."""
    for root in _toolkits():
        yield root / "include"
        yield from sorted(root.glob("targets/*/include"))
    for name in HEADER_PACKAGES:
        spec = None
        with suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
        for folder in (spec and spec.submodule_search_locations) or ():
            yield Path(folder) / "include"


def run_compiler(*command: str) -> tuple[int, str]:
    """Run a command to its end, for no longer than the limit ``COMPILE_SECONDS``; return the exit
    status and everything printed."""
    limit_s = limit("COMPILE_SECONDS")
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return 124, f"ended after {limit_s:,} s; {how_to_lift('COMPILE_SECONDS')}"
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout + done.stderr


def _sealed(cubin: bytes) -> bytes:
    """Put its checksum behind it. The driver is told no size: it would read beyond the end of a
    cubin that was cut off."""
    return cubin + hashlib.sha256(cubin).digest()


def _unsealed(content: bytes) -> bytes | None:
    """Take the cubin out of a file's content; None where it is damaged."""
    cubin = content[: -hashlib.sha256().digest_size]
    return cubin if cubin and _sealed(cubin) == content else None


def cache_folder() -> Path:
    """Find where machine code is kept; see the module. Without a home, a `RuntimeError`."""
    if root := os.environ.get("MIRNET_EDGE_CACHE"):
        return Path(root) / "kernels"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mirnet-edge" / "kernels"


class Binaries:
    """The kernels' machine code for one GPU, from the cache or made now. A cache that cannot be
    read or written costs time and is no error; no compiler where one is needed, a `DeviceError`."""

    def __init__(self, gpu: DeviceFacts) -> None:
        self._gpu = gpu
        self._folder = resource_folder("kernels")

    @cached_property
    def compiler(self) -> Compiler:
        """The compiler; see `find_compiler`."""
        return find_compiler(self._gpu)

    def cached(self, stem: str) -> bytes | None:
        """Read what the cache has of ``<stem>.cu``, whole: of this compiler, or of any if there is
        none."""
        name = self._name(stem)
        with suppress(OSError, RuntimeError):
            for path in sorted(cache_folder().glob(name)):
                if cubin := self._kept(path):
                    return cubin
        return None

    def _kept(self, path: Path) -> bytes | None:
        """What a file of the cache holds; None where it is damaged or may be another's."""
        try:
            return _unsealed(read_cached(path))
        except OSError as error:
            logging.getLogger(__name__).warning("a kernel of the cache is not used: %s", error)
            return None

    def compile(self, stem: str) -> bytes:
        """Compile ``<stem>.cu``, some seconds, and keep the result."""
        source, architecture = self._folder / f"{stem}.cu", self._gpu.architecture
        log = logging.getLogger(__name__)
        log.info("compiling %s for %s with %s", source.name, architecture, self.compiler.identity)
        cubin = self.compiler.compile(source, architecture)
        try:
            write_cached(cache_folder() / self._name(stem), _sealed(cubin))
        except (OSError, RuntimeError, MirnetEdgeError) as error:
            log.info("the kernels of %s are not kept: %s", source.name, error)
        return cubin

    def _name(self, stem: str) -> str:
        """Name a file by all that decides about the code; without a compiler, a pattern of such."""
        digest = hashlib.sha256()
        for part in (self._gpu.architecture, *OPTIONS):
            digest.update(part.encode() + b"\0")
        # Every header, as none is looked into: a file of another stem changes nothing.
        for source in (self._folder / f"{stem}.cu", *sorted(self._folder.glob("*.cuh"))):
            try:
                content = source.read_bytes()
            except OSError as error:
                raise DeviceError(
                    f"cannot read the kernels in {source}: {error}; reinstall mirnet-edge"
                ) from error
            digest.update(f"{source.name}\0{len(content)}\0".encode() + content)
        try:
            maker = hashlib.sha256(self.compiler.identity.encode()).hexdigest()[:8]
        except DeviceError:  # no compiler
            maker = "*"
        return f"{stem}-{self._gpu.architecture}-{digest.hexdigest()[:32]}-{maker}.cubin"
