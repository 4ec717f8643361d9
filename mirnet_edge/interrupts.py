"""Ctrl-C that waits for a good moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[], bool]]:
    """Ctrl-C only sets what the yielded function returns, so that no step is left half done. Python
    allows that in the main thread alone; elsewhere nothing changes."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, lambda *arrived: caught.append(arrived[0]))
    try:
        yield lambda: bool(caught)
    finally:
        signal.signal(signal.SIGINT, before)
