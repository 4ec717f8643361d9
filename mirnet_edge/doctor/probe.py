"""Questions to the system, asked side by side.

Each runs in a daemon thread, and all have as long as ``System.patience_s`` allows: one that hangs
or fails becomes a line of the report, not the end of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mirnet_edge.doctor.checks import Check
from mirnet_edge.doctor.system import System


@dataclass(frozen=True)
class Probe:
    """A question to the system; ``fix`` marks one whose failure means that a requirement is not
    met."""

    name: str
    ask: Callable[[System], list[Check]]
    fix: str | None = None

    def failed(self, detail: str) -> Check:
        """The line that stands for an answer that did not come."""
        return Check(self.name, "missing" if self.fix else "warning", detail, self.fix)


def ask_all(probes: Sequence[Probe], system: System) -> list[Check]:
    """The answers in the order of ``probes``, within about ``System.patience_s`` seconds."""
    asked = []
    for probe in probes:
        checks: list[Check] = []
        thread = threading.Thread(target=_ask, args=(probe, system, checks), daemon=True)
        thread.start()
        asked.append((probe, checks, thread))
    deadline = time.monotonic() + system.patience_s
    report: list[Check] = []
    for probe, checks, thread in asked:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            report.append(probe.failed(f"gave no answer within {system.patience_s:g} s"))
        else:
            report.extend(checks)
    return report


def _ask(probe: Probe, system: System, checks: list[Check]) -> None:
    try:
        checks.extend(probe.ask(system))
    except Exception as error:
        checks.append(probe.failed(f"could not be checked: {type(error).__name__}: {error}"))
