"""The report: every question there is, in the order of its lines."""

from __future__ import annotations

from mirnet_edge.doctor import gpu, jetson, machine, packages, tensorrt
from mirnet_edge.doctor.checks import Check
from mirnet_edge.doctor.probe import ask_all
from mirnet_edge.doctor.system import System

PROBES = (
    *packages.PROBES,
    *gpu.PROBES,
    *tensorrt.PROBES,
    *jetson.PROBES,
    *machine.PROBES,
)


def diagnose(system: System | None = None) -> list[Check]:
    """Ask everything there is to know about ``system``, this machine by default.

    Nothing is raised, and the answer comes within about ``System.patience_s`` seconds.
    """
    return ask_all(PROBES, system or System())
