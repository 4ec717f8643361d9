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
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from mirnet_edge._files import atomic_path, resource_folder
from mirnet_edge._imports import require
from mirnet_edge.cuda.driver import DeviceFacts
from mirnet_edge.errors import DeviceError, MirnetEdgeError, MissingDependencyError, first_line

# Products and sums are fused where the source says fmaf and nowhere else: what a kernel computes is
# then what the tests' host build of the same source computes, to the bit.
OPTIONS = ("--std=c++17", "--fmad=false")
TOOLKIT = Path("/usr/local/cuda")
HEADER = "cuda_fp16.h"
HEADER_PACKAGES = ("nvidia.cu13", "nvidia.cuda_runtime")


class Compiler(ABC):
    """Makes a cubin of a source.

    Attributes:
        identity: kind and version, part of the name of what it makes.
    """

    identity: str

    @abstractmethod
    def compile(self, source: Path, architecture: str) -> bytes:
        """The cubin of one ``.cu`` file, whose includes lie beside it.

        Raises:
            DeviceError: it does not compile; the message has the compiler's.
        """

    def _failed(self, source: Path, architecture: str, log: str) -> DeviceError:
        return DeviceError(
            f"{source} does not compile for {architecture} with {self.identity}: {log.strip()}\n"
            "Reinstall mirnet-edge if the file was changed; otherwise install a newer compiler, or "
            "report this"
        )


class Nvrtc(Compiler):
    """NVIDIA's compiler as a library, through cuda-python.

    Args:
        api: the module ``cuda.bindings.nvrtc``.
        version: of the library, "12.6".
        include: folders with cuda_fp16.h and what it includes.
    """

    def __init__(self, api: Any, version: str, include: list[Path]) -> None:
        self.identity = f"NVRTC {version}"
        self._api = api
        self._include = include

    def compile(self, source: Path, architecture: str) -> bytes:
        folders = (source.parent, *self._include)
        options = [
            f"--gpu-architecture={architecture}",
            *OPTIONS,
            *(f"--include-path={folder}" for folder in folders),
        ]
        program = self._call("nvrtcCreateProgram", _read(source), source.name.encode(), 0, [], [])
        try:
            (code,) = self._api.nvrtcCompileProgram(
                program, len(options), [option.encode() for option in options]
            )
            if int(code) != 0:
                log = self._bytes("nvrtcGetProgramLog", program).decode(errors="replace")
                name = getattr(code, "name", code)
                raise self._failed(source, architecture, log.strip("\0 \n") or str(name))
            return self._bytes("nvrtcGetCUBIN", program)
        finally:
            self._api.nvrtcDestroyProgram(program)

    def _bytes(self, function: str, program: Any) -> bytes:
        """What NVRTC writes into a buffer of the size it asks for."""
        buffer: bytes = b"\0" * int(self._call(f"{function}Size", program))
        self._call(function, program, buffer)
        return buffer

    def _call(self, function: str, *arguments: Any) -> Any:
        code, *results = getattr(self._api, function)(*arguments)
        if int(code) != 0:
            raise DeviceError(
                f"{function} of {self.identity} failed: {getattr(code, 'name', code)} "
                f"({int(code)}); install the cuda-bindings and the NVRTC of one CUDA"
            )
        return results[0] if results else None


class Nvcc(Compiler):
    """The compiler of a CUDA toolkit.

    Args:
        path: of the program.
        version: as it says itself, "12.6.68".
    """

    def __init__(self, path: str, version: str) -> None:
        self.identity = f"nvcc {version}"
        self._path = path

    def compile(self, source: Path, architecture: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            cubin = Path(folder) / "kernels.cubin"
            options = ("-cubin", f"--gpu-architecture={architecture}", *OPTIONS)
            files = (f"--include-path={source.parent}", "-o", str(cubin), str(source))
            status, said = _run(self._path, *options, *files)
            if status != 0 or not cubin.is_file():
                raise self._failed(source, architecture, said or f"exit status {status}")
            return cubin.read_bytes()


def find_compiler(gpu: DeviceFacts) -> Compiler:
    """NVRTC, else nvcc.

    Raises:
        DeviceError: neither is there, or none serves this GPU; the message says what to install.
    """
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


def _find_nvrtc(gpu: DeviceFacts) -> Nvrtc | str:
    """The compiler, or why it cannot be used."""
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
    return Nvrtc(api, version, [include, bundled] if bundled.is_dir() else [include])


def _find_nvcc(gpu: DeviceFacts) -> Nvcc | str:
    """The compiler, or why it cannot be used."""
    places = [*(root / "bin" for root in _toolkits())]
    path = shutil.which("nvcc") or next(
        (found for place in places if (found := shutil.which("nvcc", path=str(place)))), None
    )
    if path is None:
        return "nvcc is neither on PATH nor in CUDA_HOME nor in " + str(TOOLKIT / "bin")
    status, said = _run(path, "--version")
    version = re.search(r"\bV(\d+)\.[\d.]+", said)
    if status != 0 or version is None:
        return f"{path} --version says nothing of use ({said.strip()[:200]})"
    if int(version[1]) > gpu.cuda_major:
        return f"{path} ({version[0]}) is newer than the driver's CUDA"
    return Nvcc(path, version[0].removeprefix("V"))


def _toolkits() -> list[Path]:
    named = (os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH"))
    return [*(Path(root) for root in named if root), TOOLKIT]


def _header_folders() -> Iterator[Path]:
    """Where cuda_fp16.h may lie: toolkits, then NVIDIA's packages for pip."""
    for root in _toolkits():
        yield root / "include"
        yield from sorted(root.glob("targets/*/include"))
    for name in HEADER_PACKAGES:
        spec = None
        with suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
        for folder in (spec and spec.submodule_search_locations) or ():
            yield Path(folder) / "include"


def _run(*command: str) -> tuple[int, str]:
    """Exit status and everything printed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout + done.stderr


def _read(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise DeviceError(
            f"cannot read the kernels in {source}: {error}; reinstall mirnet-edge"
        ) from error


def _sealed(cubin: bytes) -> bytes:
    """With its checksum behind it. The driver is told no size: it would read beyond the end of a
    cubin that was cut off."""
    return cubin + hashlib.sha256(cubin).digest()


def _unsealed(content: bytes) -> bytes | None:
    """The cubin of a file; None where it is damaged."""
    cubin = content[: -hashlib.sha256().digest_size]
    return cubin if cubin and _sealed(cubin) == content else None


def cache_folder() -> Path:
    """Where machine code is kept; see the module.

    Raises:
        RuntimeError: there is no home folder.
    """
    root = os.environ.get("MIRNET_EDGE_CACHE")
    if root:
        return Path(root) / "kernels"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mirnet-edge" / "kernels"


class Binaries:
    """The kernels' machine code for one GPU, from the cache or made now.

    A cache that cannot be read or written costs time and is no error.

    Args:
        gpu: they run on it.
    """

    def __init__(self, gpu: DeviceFacts) -> None:
        self._gpu = gpu
        self._folder = resource_folder("kernels")

    @cached_property
    def compiler(self) -> Compiler:
        """The compiler; see `find_compiler`."""
        return find_compiler(self._gpu)

    def cached(self, stem: str) -> bytes | None:
        """What the cache has of ``<stem>.cu``, whole: of this compiler, or of any if there is none.

        Raises:
            DeviceError: no such file.
        """
        with suppress(OSError, RuntimeError):
            for path in self._made(stem):
                if cubin := _unsealed(path.read_bytes()):
                    return cubin
        return None

    def compile(self, stem: str) -> bytes:
        """Compile ``<stem>.cu``, some seconds, and keep the result.

        Raises:
            DeviceError: no compiler, or one that fails.
        """
        source = self._folder / f"{stem}.cu"
        log = logging.getLogger(__name__)
        architecture = self._gpu.architecture
        log.info("compiling %s for %s with %s", source.name, architecture, self.compiler.identity)
        cubin = self.compiler.compile(source, architecture)
        try:
            path = self._path(stem)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_bytes(_sealed(cubin))
        except (OSError, RuntimeError, MirnetEdgeError) as error:
            log.info("the kernels of %s are not kept: %s", source.name, error)
        return cubin

    def _made(self, stem: str) -> list[Path]:
        """Files that the cache may have."""
        prefix = self._prefix(stem)
        try:
            maker = self._maker()
        except DeviceError:  # no compiler
            maker = "*"
        return sorted(cache_folder().glob(f"{prefix}-{maker}.cubin"))

    def _path(self, stem: str) -> Path:
        return cache_folder() / f"{self._prefix(stem)}-{self._maker()}.cubin"

    def _maker(self) -> str:
        return hashlib.sha256(self.compiler.identity.encode()).hexdigest()[:8]

    def _prefix(self, stem: str) -> str:
        digest = hashlib.sha256()
        for part in (self._gpu.architecture, *OPTIONS):
            digest.update(part.encode() + b"\0")
        for source in (self._folder / f"{stem}.cu", *sorted(self._folder.glob("*.cuh"))):
            content = _read(source)
            digest.update(f"{source.name}\0{len(content)}\0".encode() + content)
        return f"{stem}-{self._gpu.architecture}-{digest.hexdigest()[:32]}"
