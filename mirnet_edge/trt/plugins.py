"""The library of our TensorRT plugins: where it lies, whether it fits, and loading it.

It is native code that ``mirnet-edge build-plugins`` compiles against the headers of one TensorRT
(`build.plugins`), and is kept beside the compiled kernels, in a folder that nobody else may write.
MIRNET_EDGE_PLUGINS names another file, or is "none" to run without.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from pathlib import Path
from types import ModuleType

from mirnet_edge._caches import read_cached
from mirnet_edge._files import resource_folder
from mirnet_edge.cuda.compiler import cache_folder
from mirnet_edge.errors import EngineError, first_line

VARIABLE, NONE = "MIRNET_EDGE_PLUGINS", "none"
SOURCES = ("plugin.cpp", "operations.cpp", "launch.cu")
"""Of the folder ``kernels/plugins``; what they include lies there and in ``kernels``."""
HOW = "mirnet-edge build-plugins builds one for the TensorRT that is installed"
_loaded: dict[int, Path] = {}
"""By the module tensorrt that it was registered with: a library is registered once a process."""


def sources_folder() -> Path:
    """Find ``kernels/plugins``."""
    return resource_folder("kernels") / "plugins"


def sources_sha256() -> str:
    """Tell the sources apart, and with them what a plan that was built with their library needs."""
    digest = hashlib.sha256()
    folder = sources_folder()
    for path in sorted([*folder.iterdir(), folder.parent / "frame.cuh"]):
        if path.suffix in (".cpp", ".cu", ".cuh", ".h"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def release_of(version: str) -> tuple[int, int]:
    """Major and minor number: what a library is compiled for."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def default_path(version: str) -> Path:
    """Name the library of these sources for a TensorRT."""
    release = "{}.{}".format(*release_of(version))
    name = f"tensorrt-{release}-{sources_sha256()[:16]}.so"
    return cache_folder().parent / "plugins" / name


def are_wanted() -> bool:
    """Whether the variable does not say `NONE`."""
    return os.environ.get(VARIABLE) != NONE


def find_library(version: str) -> Path | None:
    """Find the library for a TensorRT: what the variable names, else where it is built; None where
    there is none, or none is wanted.

    Raises:
        EngineError: the variable names no file.
    """
    named = os.environ.get(VARIABLE)
    if named == NONE:
        return None
    if named:
        if not Path(named).is_file():
            raise EngineError(f"{VARIABLE}={named}: no such file; {HOW}")
        return Path(named).resolve()
    path = default_path(version)
    try:
        read_cached(path)  # or others may have written it
    except OSError:
        return None
    return path


def load_library(trt: ModuleType, path: Path) -> None:
    """Register a library's plugins with TensorRT, once.

    Raises:
        EngineError: it cannot be loaded, or was compiled for another TensorRT.
    """
    if id(trt) in _loaded:
        if _loaded[id(trt)] != path:
            raise EngineError(
                f"{path}: this process has loaded the plugins of {_loaded[id(trt)]}; start another"
            )
        return
    require_release(path, str(trt.__version__))
    registry = trt.get_plugin_registry()
    if registry.load_library(str(path)) is None:
        raise EngineError(f"TensorRT {trt.__version__} does not take the plugins of {path}; {HOW}")
    _loaded[id(trt)] = path


def require_release(path: Path, version: str) -> None:
    """Raise an `EngineError` where a library is none of ours, or was compiled for another TensorRT:
    its classes are laid out as that one's headers say, and loading it would crash."""
    try:
        tells = ctypes.CDLL(str(path)).mirnet_plugins_tensorrt
    except (OSError, AttributeError) as error:
        raise EngineError(
            f"{path} is no library of mirnet-edge's plugins: {first_line(error)}; {HOW}"
        ) from error
    compiled = int(tells())
    release = (compiled // 10000, compiled // 100 % 100)
    if release != release_of(version):
        raise EngineError(
            f"{path} was compiled for TensorRT {release[0]}.{release[1]}, but {version} is "
            f"installed; {HOW}"
        )
