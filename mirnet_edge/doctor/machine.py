"""The memory and the CPU of the machine."""

from __future__ import annotations

import re

from mirnet_edge.doctor.checks import Check, gib
from mirnet_edge.doctor.probe import Probe
from mirnet_edge.doctor.system import System

# The budget of restoring is 400 MB beyond the input and output arrays, whatever their size.
LOW_MEMORY_BYTES = 512 * 2**20


def _memory(system: System) -> list[Check]:
    sizes = {
        name: int(kib) * 1024
        for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", system.text("proc/meminfo") or "", re.M)
    }
    if "MemTotal" not in sizes:
        return [Check("memory", "ok", "not reported by this operating system")]
    available_bytes = sizes.get("MemAvailable", sizes["MemTotal"])
    detail = f"{gib(sizes['MemTotal'])}, {gib(available_bytes)} available"
    if available_bytes < LOW_MEMORY_BYTES:
        detail = f"{detail}; restoring may need {gib(LOW_MEMORY_BYTES)} beyond the frames"
        return [Check("memory", "warning", detail)]
    return [Check("memory", "ok", detail)]


def _cpu(system: System) -> list[Check]:
    return [Check("CPU cores", "ok", str(system.cpu_cores()))]


PROBES = (
    Probe("memory", _memory),
    Probe("CPU cores", _cpu),
)
