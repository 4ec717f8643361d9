"""What this machine has for mirnet_edge, what is missing, and the command that installs it.

Versions are read from package metadata, and the GPU is asked through the CUDA driver library
itself, so neither torch nor any tool of CUDA is needed; ``diagnose`` imports onnxruntime, whose
execution providers are known in no other way, and OpenCV, for what it was built with.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from mirnet_edge.doctor.check import Check, Probe
from mirnet_edge.doctor.checks import PROBES
from mirnet_edge.doctor.system import System

__all__ = ["Check", "System", "diagnose", "healthy"]


def diagnose(system: System | None = None) -> list[Check]:
    """Ask everything there is to know about ``system``, this machine by default. Nothing is raised,
    and the answer comes within about ``System.patience_s`` seconds."""
    system = system or System()
    answers: dict[Probe, list[Check]] = {}
    threads = []
    for probe in PROBES:
        # Daemons, side by side: what hangs, a driver or an import, becomes a line of the report and
        # does not keep the process from ending.
        threads.append(threading.Thread(target=_ask, args=(probe, system, answers), daemon=True))
        threads[-1].start()
    deadline = time.monotonic() + system.patience_s
    report: list[Check] = []
    for probe, thread in zip(PROBES, threads):
        thread.join(max(0.0, deadline - time.monotonic()))
        silent = probe.failed(f"gave no answer within {system.patience_s:g} s")
        report += answers.get(probe, [silent])
    return report


def healthy(checks: Sequence[Check]) -> bool:
    """Tell whether nothing required is missing."""
    return all(check.status != "missing" for check in checks)


def _ask(probe: Probe, system: System, answers: dict[Probe, list[Check]]) -> None:
    try:
        answers[probe] = probe.ask(system)
    except Exception as error:
        failure = f"could not be checked: {type(error).__name__}: {error}"
        answers[probe] = [probe.failed(failure)]
