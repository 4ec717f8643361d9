"""What the operating system grants this process."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from mirnet_edge.errors import EngineError

MOST_THREADS = 1024


def usable_cores() -> int:
    """CPU cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def checked_threads(threads: int | None) -> int:
    """So many CPU threads, or as many as `usable_cores`; an `EngineError` for what is no number of
    threads."""
    if threads is None:
        return usable_cores()
    if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
        raise EngineError(f"threads={threads!r}: need a whole number from 1 to {MOST_THREADS}")
    return threads


def cpu_name() -> str:
    """The processor, as Linux names it; elsewhere its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    # Arm's have no such line, but the board's name at the end.
    for key in ("model name", "Model"):
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return platform.machine()
