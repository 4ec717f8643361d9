"""What ``nvidia-smi`` says of the GPU that this process runs on: what it is, and under load its
clocks, power and temperature."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

FACTS = {"gpu": "name", "driver": "driver_version", "uuid": "uuid", "power_limit_w": "power.limit"}
STATE = {
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "power_w": "power.draw",
    "temperature_c": "temperature.gpu",
}


def _query(names: dict[str, str]) -> list[str]:
    index = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    return ["nvidia-smi", "-i", index, f"--query-gpu={','.join(names.values())}",
            "--format=csv,noheader,nounits"]  # fmt: skip


def _read(names: dict[str, str], text: str) -> dict[str, str]:
    return dict(zip(names, (value.strip() for value in text.split(","))))


def visible(gpu: str) -> dict[str, str]:
    """What makes a process see one GPU, in the order of nvidia-smi."""
    return {"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def facts() -> dict[str, str]:
    """Name, driver, identity and power limit; nothing where there is no ``nvidia-smi``."""
    try:
        done = subprocess.run(_query(FACTS), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return _read(FACTS, done.stdout)


def under_load(step: Callable[[], object]) -> dict[str, str]:
    """Clocks, power and temperature while ``step`` is run again and again."""
    try:
        process = subprocess.Popen(_query(STATE), stdout=subprocess.PIPE, text=True)
    except OSError:
        return {}
    while process.poll() is None:
        step()
    text = process.communicate()[0]
    return _read(STATE, text) if process.returncode == 0 else {}
