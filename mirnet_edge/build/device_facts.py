"""What NVIDIA publishes of the devices that a time can be estimated for."""

from __future__ import annotations

from dataclasses import dataclass

from mirnet_edge.errors import ConfigError
from mirnet_edge.graph.precision import Precision

KIB, GIB = 2**10, 2**30
ORIN = "https://www.nvidia.com/en-us/autonomous-machines/embedded-systems/jetson-orin/"
ORIN_BRIEF = (
    "https://www.nvidia.com/content/dam/en-zz/Solutions/gtcf21/jetson-orin/"
    "nvidia-jetson-agx-orin-technical-brief.pdf"
)
NANO_SUPER = f"{ORIN}nano-super-developer-kit/"
THOR = "https://www.nvidia.com/en-us/autonomous-machines/embedded-systems/jetson-thor/"
H100 = "https://www.nvidia.com/en-us/data-center/h100/"
H200 = "https://www.nvidia.com/en-us/data-center/h200/"
SYSTEM_BYTES = int(2.5 * GIB)
"""Of memory that CPU and GPU share, what is not ours: with a desktop, an Orin Nano of 7.4 GiB has
5.0 to give."""


@dataclass(frozen=True)
class DeviceFacts:
    """A device as its data sheet has it, and the CUDA programming guide (shared memory, by compute
    capability). Rates are of dense matrices: of those that NVIDIA names for sparse ones, half.

    Attributes:
        mode: the power mode that the figures are of; ``others`` are slower.
        bytes_per_second: of its memory.
        flops_per_second: by precision, a multiplication and an addition being two.
        clock_mhz: of the GPU, at most.
        memory_bytes: of the module; shared with the CPU where ``is_integrated``.
        shared_bytes: of shared memory that a block of threads may have.
        is_measured: whether engines of today's networks were measured on this device.
        source: where the figures were read.
    """

    name: str
    title: str
    mode: str
    bytes_per_second: float
    flops_per_second: dict[Precision, float]
    clock_mhz: float
    memory_bytes: int
    source: str
    shared_bytes: int = 163 * KIB
    is_integrated: bool = True
    is_measured: bool = False
    others: tuple[str, ...] = ()

    @property
    def usable_bytes(self) -> int:
        """Memory that an engine and its frames may take."""
        return self.memory_bytes - (SYSTEM_BYTES if self.is_integrated else 0)


def _rates(fp32: float, fp16: float, int8: float) -> dict[Precision, float]:
    """Of tera-operations."""
    return {"fp32": fp32 * 1e12, "fp16": fp16 * 1e12, "int8": int8 * 1e12}


DEVICES = {
    device.name: device
    for device in (
        # 1024 CUDA cores at 1.02 GHz; "67 TOPS (sparse), 33 TOPS (dense), 17 TFLOPS (FP16)".
        DeviceFacts("orin-nano", "Jetson Orin Nano 8GB (Super)", "MAXN_SUPER", 102e9,
                    _rates(2.1, 17, 33), 1020, 8 * GIB, NANO_SUPER,
                    others=("25W", "15W", "7W")),
        # As it was sold before Super, and is at 15 W: 625 MHz, 40 sparse TOPS, 68 GB/s.
        DeviceFacts("orin-nano-15w", "Jetson Orin Nano 8GB", "15W", 68e9,
                    _rates(1.28, 10, 20), 625, 8 * GIB, ORIN, others=("7W",)),
        # Of 100 sparse TOPS the two DLAs have 40: the GPU, 1024 cores at 918 MHz, 60.
        DeviceFacts("orin-nx", "Jetson Orin NX 16GB", "MAXN (25 W)", 102.4e9,
                    _rates(1.88, 15, 30), 918, 16 * GIB, ORIN, others=("15W", "10W")),
        # Of 275 sparse TOPS the DLAs have 105: the GPU, 2048 cores at 1.3 GHz, 170; 85 dense.
        DeviceFacts("agx-orin", "Jetson AGX Orin 64GB", "MAXN (60 W)", 204.8e9,
                    _rates(5.3, 42.5, 85), 1300, 64 * GIB, ORIN_BRIEF,
                    others=("50W", "30W", "15W")),
        # 2070 sparse TFLOPS in FP4 are 258 dense ones in FP16. No rate of INT8 is published: FP16's
        # is taken for it.
        DeviceFacts("thor", "Jetson T5000 (AGX Thor)", "MAXN (130 W)", 273e9,
                    _rates(8.1, 258, 258), 1575, 128 * GIB, THOR, 227 * KIB,
                    others=("120W", "70W", "40W")),
        # The sheets of both name 1,979 TFLOPS in FP16 and 3,958 TOPS in INT8, sparse; the clock was
        # seen under load.
        DeviceFacts("h100", "H100 SXM 80GB", "700 W", 3.35e12, _rates(67, 989.5, 1979), 1980,
                    80 * 10**9, H100, 227 * KIB, is_integrated=False, is_measured=True),
        DeviceFacts("h200", "H200 SXM 141GB", "700 W", 4.8e12, _rates(67, 989.5, 1979), 1980,
                    141 * 10**9, H200, 227 * KIB, is_integrated=False),
    )
}  # fmt: skip
"""By the name that ``--device`` takes."""


def device_facts(name: str) -> DeviceFacts:
    """Look a device up.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in DEVICES:
        raise ConfigError(f"no device {name!r} is known; there are {', '.join(DEVICES)}")
    return DEVICES[name]
