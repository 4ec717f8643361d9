"""Import optional packages where they are used, and say which extra brings a missing one."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from mirnet_edge.errors import MissingDependencyError

EXTRA_OF_PACKAGE = {
    "torch": "train",
    "safetensors": "train",
    "matplotlib": "train",
    "scipy": "train",
    "skimage": "train",
    "onnx": "graph",
    "onnx_ir": "graph",
    "onnxscript": "train",
    "onnxsim": "train",
    "tensorrt": "tensorrt",
    "pycuda": "tensorrt",
    "openvino": "openvino",
    "cuda": "tensorrt",
    "cv2": "video",
    "av": "video",
    "imagecodecs": "photos",
    "tifffile": "photos",
    "pillow_jxl": "photos",
    "starlette": "live",
    "anyio": "live",
    "uvicorn": "live",
    "websockets": "live",
    "prometheus_client": "serve",
    "ray": "ray",
    "fsspec": "ray",
}

SETTINGS_OF_PACKAGE = {
    # From 1.30 on it reports what runs to its maker, and writes files for that, unless it is told
    # before it is loaded. Who wants it to sets the variable to 0.
    "onnxruntime": {"ORT_DISABLE_TELEMETRY": "1"},
    # It reports what runs to its maker too, from whoever starts a cluster.
    "ray": {"RAY_USAGE_STATS_ENABLED": "0"},
}
"""Environment variables that are set before a package is imported, where the user set none."""

KEPT_FROM_PACKAGE = {
    # It reports each import to its maker, and writes an identity into the user's home, unless this
    # package is missing, without which it runs as well.
    "openvino": ("openvino_telemetry",),
}
"""Packages that are not there while another is imported, where nothing imported them before."""


def require(package: str, purpose: str) -> ModuleType:
    """Import ``package`` (a dotted module path) and return it.

    Raises:
        MissingDependencyError: it is not installed; the message says what it was needed for and
            which extra of mirnet-edge installs it.
    """
    for name, value in SETTINGS_OF_PACKAGE.get(package, {}).items():
        os.environ.setdefault(name, value)
    try:
        with _without(KEPT_FROM_PACKAGE.get(package, ())):
            return importlib.import_module(package)
    except ModuleNotFoundError as error:
        top_level = package.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top_level:
            raise
        extra = EXTRA_OF_PACKAGE.get(top_level)
        name = f"mirnet-edge[{extra}]" if extra else top_level
        raise MissingDependencyError(
            f"{purpose} needs the package {top_level!r}, which is not installed. "
            f'Install it with: pip install "{name}"'
        ) from error


@contextmanager
def _without(packages: tuple[str, ...]) -> Iterator[None]:
    """Have these packages missing meanwhile."""
    hidden = [name for name in packages if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # what makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
