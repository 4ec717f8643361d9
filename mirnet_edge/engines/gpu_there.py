"""Which GPUs there are, asked without loading PyTorch or TensorRT."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Literal

from mirnet_edge.cuda.driver import start_driver
from mirnet_edge.errors import DeviceError

Devices = Sequence[int] | Literal["all"]
"""Of a `Restorer`: the GPUs that it runs on, by the driver's count, or all that there are."""


def gpu_count() -> int:
    """How many GPUs the driver shows to this process; 0 where it does not start."""
    try:
        driver = start_driver()
        return 0 if driver is None else driver.device_count()
    except DeviceError:
        return 0


def torch_may_use_gpu() -> bool:
    """Whether PyTorch is installed and the driver shows a GPU; it may still be one that this
    PyTorch has no code for."""
    return importlib.util.find_spec("torch") is not None and gpu_count() > 0


def asked_devices(devices: Devices | None) -> tuple[int, ...]:
    """The GPUs that a caller asks for: the first for None, and for "all" where there is none, as
    then an engine of the CPU may do.

    Raises:
        DeviceError: neither "all" nor whole numbers, each once. Whether there is such a GPU is seen
            where it is opened.
    """
    if devices is None:
        return (0,)
    if devices == "all":
        return tuple(range(gpu_count())) or (0,)
    listed = isinstance(devices, Sequence) and not isinstance(devices, str)
    numbers = tuple(devices) if listed else ()
    are_numbers = all(type(number) is int and number >= 0 for number in numbers)
    if not numbers or not are_numbers or len(set(numbers)) < len(numbers):
        raise DeviceError(
            f'devices={devices!r:.80}: need "all", or the numbers of GPUs, each once, as [0, 1]; '
            "mirnet-edge doctor lists them"
        )
    return numbers
