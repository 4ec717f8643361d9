"""What an engine is built for: this machine's GPU, and the TensorRT that is installed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mirnet_edge._imports import require
from mirnet_edge._version import __version__
from mirnet_edge.cuda.driver import start_driver
from mirnet_edge.doctor import System, diagnose
from mirnet_edge.doctor.checks import tensorrt_is_too_old
from mirnet_edge.errors import DeviceError, MissingDependencyError


@dataclass(frozen=True)
class Target:
    """A plan belongs to one TensorRT and one kind of GPU.

    Attributes:
        versions: tensorrt; cuda, the newest that the driver runs; driver, that of its kernel module
            or "" where the system does not tell; mirnet_edge.
        device: name, compute_capability, memory_bytes, integrated, multiprocessors, shared_bytes.
    """

    versions: dict[str, str]
    device: dict[str, Any]

    @property
    def identity(self) -> tuple[str, str, str]:
        """What a plan depends on."""
        return self.versions["tensorrt"], self.device["name"], self.device["compute_capability"]


def find_target(system: System | None = None) -> Target:
    """Find this machine's, for its first GPU.

    Raises:
        DeviceError: no GPU, or its driver does not start.
        MissingDependencyError: TensorRT is not installed, or too old.
    """
    system = system or System()
    try:
        driver = start_driver(system.load_library)
        gpu = driver.facts(0) if driver and driver.device_count() else None
    except DeviceError:  # doctor meets it too, and knows what to do about it
        gpu = None
    if gpu is None:
        raise DeviceError(
            f"an engine is built on the GPU that runs it. {_checked(system, 'NVIDIA GPU')}"
        )
    versions = {
        "tensorrt": _tensorrt_version(system),
        "cuda": gpu.driver_version,
        "driver": system.driver_release() or "",
        "mirnet_edge": __version__,
    }
    device = {
        "name": gpu.name,
        # As cards have it, and the keys by which plans are found again.
        "compute_capability": ".".join(map(str, gpu.compute_capability)),
        "memory_bytes": gpu.memory_bytes,
        "integrated": gpu.integrated,
        "multiprocessors": gpu.multiprocessors,
        "shared_bytes": gpu.shared_bytes,
    }
    return Target(versions, device)


def _tensorrt_version(system: System) -> str:
    try:
        version = str(require("tensorrt", "building engines").__version__)
        if not tensorrt_is_too_old(version):
            return version
        lack = f"TensorRT {version} is too old"
    except MissingDependencyError:
        lack = "building engines needs TensorRT"
    except (ImportError, OSError) as error:  # a library it needs is missing
        lack = f"TensorRT is installed but does not load: {error}"
    raise MissingDependencyError(f"{lack}. {_checked(system, 'TensorRT')}")


def _checked(system: System, name: str) -> str:
    """Quote what ``mirnet-edge doctor`` says of something, and how to get it."""
    lines = [
        f"{check.name}: {check.detail}" + (f"; try: {check.fix}" if check.fix else "")
        for check in diagnose(system)
        if check.name.startswith(name)
    ]
    return ". ".join(lines) or f"{name}: see mirnet-edge doctor"
