"""The machine as the probes see it: files, commands, packages and libraries."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirnet_edge.system import usable_cores

COMMAND_TIMEOUT_S = 5.0


def run_command(command: Sequence[str], timeout_s: float = COMMAND_TIMEOUT_S) -> str | None:
    """The standard output of ``command``, or None when it is absent, fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def distribution_version(distribution: str) -> str | None:
    """The version in the metadata of an installed distribution, or None when there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def has_module(name: str) -> bool:
    """Whether the top-level module could be imported; it is not."""
    return importlib.util.find_spec(name) is not None


@dataclass(frozen=True)
class System:
    """The machine as the probes see it; every field can stand for another machine in a test.

    Files are read below ``root``. ``load_library`` opens a shared library by name or raises
    OSError, ``run`` gives a command's output or None, ``import_module`` raises ImportError.
    """

    root: Path = Path("/")
    python_version: tuple[int, int, int] = sys.version_info[:3]
    platform: str = field(default_factory=platform.platform)
    run: Callable[[Sequence[str]], str | None] = run_command
    version_of: Callable[[str], str | None] = distribution_version
    has_module: Callable[[str], bool] = has_module
    import_module: Callable[[str], Any] = importlib.import_module
    load_library: Callable[[str], Any] = ctypes.CDLL
    cpu_cores: Callable[[], int] = usable_cores
    patience_s: float = 15.0

    def text(self, path: str) -> str | None:
        """The text of the file ``path`` below ``root``, or None when it cannot be read."""
        try:
            return (self.root / path).read_bytes().rstrip(b"\0").decode(errors="replace").strip()
        except OSError:
            return None

    def package_version(self, distributions: Sequence[str], module: str) -> str | None:
        """The version of the first of ``distributions`` there is, "version unknown" when only
        ``module`` is there, without metadata, or None."""
        for distribution in distributions:
            version = self.version_of(distribution)
            if version is not None:
                return version
        return "version unknown" if self.has_module(module) else None

    def jetson_model(self) -> str | None:
        """The name of the board when it is a Jetson, else None."""
        model = self.text("proc/device-tree/model")
        if model and "jetson" in model.lower():
            return model
        return "Jetson" if self.text("etc/nv_tegra_release") else None
