"""How the machine is while it restores: memory, temperature, power mode."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import psutil

from mirnet_edge.doctor.system import System

AGE_S = 3.0
GPU = ["nvidia-smi", "--query-gpu=temperature.gpu,power.draw", "--format=csv,noheader,nounits"]


class Machine:
    """Asks the machine, and no oftener than each `AGE_S` seconds: some of it runs commands."""

    def __init__(self, system: System | None = None) -> None:
        self._system = System() if system is None else system
        self._process = psutil.Process()
        self._is_jetson = self._system.jetson_model() is not None
        self._has_gpu = not self._is_jetson and self._system.run(GPU) is not None
        self._lock = threading.Lock()
        self._known: dict[str, Any] = {}
        self._asked_at = 0.0

    def state(self) -> dict[str, Any]:
        """``memory_bytes`` of this process, ``available_bytes`` of the machine, ``temperature_c``
        of its warmest part, ``gpu_temperature_c``, ``gpu_watts`` and ``power_mode``; None where it
        is not told."""
        with self._lock:
            if not self._known or time.monotonic() - self._asked_at > AGE_S:
                self._known = self._ask()
                self._asked_at = time.monotonic()
            return self._known

    def _ask(self) -> dict[str, Any]:
        degrees, watts = self._gpu()
        return {
            "memory_bytes": self._process.memory_info().rss,
            "available_bytes": psutil.virtual_memory().available,
            "temperature_c": self._warmest(),
            "gpu_temperature_c": degrees,
            "gpu_watts": watts,
            "power_mode": self._power_mode(),
        }

    @staticmethod
    def _warmest() -> float | None:
        # Linux alone has it in psutil.
        sensors: dict[str, Any] = getattr(psutil, "sensors_temperatures", dict)()
        found = [part.current for parts in sensors.values() for part in parts if part.current]
        return max(found, default=None)

    def _gpu(self) -> tuple[float | None, float | None]:
        answer = (self._system.run(GPU) or "") if self._has_gpu else ""
        numbers = re.match(r"\s*([\d.]+)\s*,\s*([\d.]+)?", answer)
        if numbers is None:
            return None, None
        return float(numbers[1]), None if numbers[2] is None else float(numbers[2])

    def _power_mode(self) -> str | None:
        answer = (self._system.run(["nvpmodel", "-q"]) or "") if self._is_jetson else ""
        mode = re.search(r"NV Power Mode:\s*(\S+)", answer)
        return mode[1] if mode else None
