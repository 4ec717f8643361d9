"""Ctrl-C, or another signal, that waits for a good moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_deferred(*signals: int) -> Iterator[Callable[[], int]]:
    """``signals``, or Ctrl-C where none is named, only set what the yielded function returns (the
    first that came, else 0), so that no step is left half done. Python allows that in the main
    thread alone; elsewhere nothing changes."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {
        number: signal.signal(number, lambda *arrived: caught.append(arrived[0]))
        for number in signals or (signal.SIGINT,)
    }
    try:
        yield lambda: caught[0] if caught else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
