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
        tensorrt: its version.
        device: name, compute_capability, memory_bytes, integrated.
        cuda: the newest that the driver runs.
        driver: version of its kernel module, "" where the system does not tell.
    """

    tensorrt: str
    device: dict[str, Any]
    cuda: str
    driver: str

    @property
    def versions(self) -> dict[str, str]:
        """As a card lists them."""
        return {
            "tensorrt": self.tensorrt,
            "cuda": self.cuda,
            "driver": self.driver,
            "mirnet_edge": __version__,
        }

    @property
    def identity(self) -> tuple[str, str, str]:
        """What a plan depends on."""
        return self.tensorrt, self.device["name"], self.device["compute_capability"]


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
    device = {
        "name": gpu.name,
        # As cards have it, and the keys by which plans are found again.
        "compute_capability": ".".join(map(str, gpu.compute_capability)),
        "memory_bytes": gpu.memory_bytes,
        "integrated": gpu.integrated,
    }
    return Target(
        tensorrt=_tensorrt_version(system),
        device=device,
        cuda=gpu.driver_version,
        driver=system.driver_release() or "",
    )


def _tensorrt_version(system: System) -> str:
    try:
        version = str(require("tensorrt", "building engines").__version__)
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"building engines needs TensorRT. {_checked(system, 'TensorRT')}"
        ) from error
    except (ImportError, OSError) as error:  # a library it needs is missing
        raise MissingDependencyError(
            f"TensorRT is installed but does not load: {error}. {_checked(system, 'TensorRT')}"
        ) from error
    if tensorrt_is_too_old(version):
        raise MissingDependencyError(
            f"TensorRT {version} is too old. {_checked(system, 'TensorRT')}"
        )
    return version


def _checked(system: System, name: str) -> str:
    """Quote what ``mirnet-edge doctor`` says of something, and how to get it."""
    lines = [
        f"{check.name}: {check.detail}" + (f"; try: {check.fix}" if check.fix else "")
        for check in diagnose(system)
        if check.name.startswith(name)
    ]
    return ". ".join(lines) or f"{name}: see mirnet-edge doctor"
