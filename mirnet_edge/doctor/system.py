"""The machine as the checks see it: files, commands, packages and libraries."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from mirnet_edge.system import usable_cores


def run_command(command: Sequence[str], timeout_s: float = 5.0) -> str | None:
    """Return the standard output, or None when the command is absent, fails or takes too long."""
    # Some of what is run speaks the user's language; what is looked for in it is English.
    english = {**os.environ, "LC_ALL": "C"}
    quiet = subprocess.DEVNULL
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(
            command, stdin=quiet, stderr=quiet, timeout=timeout_s, env=english
        ).decode(errors="replace")
    return None


def has_module(name: str) -> bool:
    """Tell whether the module could be imported; it is not, but a package that it lies in is."""
    with suppress(ModuleNotFoundError):
        return importlib.util.find_spec(name) is not None
    return False


@dataclass(frozen=True)
class System:
    """The machine as the checks see it; every field can stand for another machine in a test. Files
    are read below ``root``; ``load_library`` raises OSError, ``import_module`` ImportError."""

    root: Path = Path("/")
    python_version: tuple[int, int, int] = sys.version_info[:3]
    platform: str = field(default_factory=platform.platform)
    run: Callable[[Sequence[str]], str | None] = run_command
    version_of: Callable[[str], str | None] = importlib.metadata.version
    has_module: Callable[[str], bool] = has_module
    import_module: Callable[[str], ModuleType] = importlib.import_module
    load_library: Callable[[str], object] = ctypes.CDLL
    cpu_cores: Callable[[], int] = usable_cores
    patience_s: float = 15.0

    def text(self, path: str) -> str:
        """Read the file ``path`` below ``root``; "" when it cannot be read."""
        # The device tree's texts end with a null.
        with suppress(OSError):
            return (self.root / path).read_bytes().rstrip(b"\0").decode(errors="replace").strip()
        return ""

    def package_version(self, distributions: Sequence[str], module: str) -> str | None:
        """Return the version of the first of ``distributions`` there is, "version unknown" when
        only ``module`` is there, without metadata, or None."""
        for version in self.installed(distributions).values():
            return version
        return "version unknown" if self.has_module(module) else None

    def installed(self, distributions: Sequence[str]) -> dict[str, str]:
        """Return the versions of those of ``distributions`` that there are."""
        found = {}
        for distribution in distributions:
            with suppress(importlib.metadata.PackageNotFoundError):
                if version := self.version_of(distribution):
                    found[distribution] = version
        return found

    def jetson_model(self) -> str | None:
        """Return the name of the board when it is a Jetson, else None."""
        model = self.text("proc/device-tree/model")
        if "jetson" in model.lower():
            return model
        return "Jetson" if self.text("etc/nv_tegra_release") else None

    def driver_release(self) -> str | None:
        """Return the version of the driver's kernel module, "535.104.05"; None if unknown."""
        found = re.search(r"Module\b.*?\s(\d+\.\d[\d.]*)", self.text("proc/driver/nvidia/version"))
        return found[1] if found else None
