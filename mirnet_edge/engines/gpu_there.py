"""Whether there is a GPU that PyTorch may be able to use, asked without loading PyTorch."""

from __future__ import annotations

import importlib.util

from mirnet_edge.cuda.driver import start_driver
from mirnet_edge.errors import DeviceError


def torch_may_use_gpu() -> bool:
    """Whether PyTorch is installed and the driver shows a GPU; it may still be one that this
    PyTorch has no code for."""
    if importlib.util.find_spec("torch") is None:
        return False
    try:
        driver = start_driver()
        return driver is not None and driver.device_count() > 0
    except DeviceError:
        return False
