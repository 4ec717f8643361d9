"""Copies of frames within the host's memory, on several cores at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.system import usable_cores

MOST_THREADS = 4
LEAST_BYTES = 1 << 20
"""That a thread is woken for: to wake one takes as long as one core needs for half of them."""


class HostCopies:
    """Copies frames in parts, a thread each: one core moves a 1080p frame in half a millisecond,
    which is a fraction of what memory gives several.

    Args:
        threads: that copy at a time, the caller's among them; None takes one for each core, and
            `MOST_THREADS` at most.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or min(usable_cores(), MOST_THREADS)
        # Starts a thread when there is work for it, not before.
        self._pool = ThreadPoolExecutor(max(self._threads - 1, 1), "mirnet-edge copies")

    def copy(self, target: NDArray[Any], source: NDArray[Any]) -> None:
        """Copy ``source`` to ``target``, of its shape, and return when that is done."""
        parts = min(self._threads, target.nbytes // LEAST_BYTES, len(target))
        if parts < 2:
            np.copyto(target, source)
            return
        ends = [len(target) * part // parts for part in range(parts + 1)]
        # NumPy lets go of Python's lock while it copies.
        others = [
            self._pool.submit(np.copyto, target[start:end], source[start:end])
            for start, end in pairwise(ends[1:])
        ]
        try:
            np.copyto(target[: ends[1]], source[: ends[1]])
        finally:  # nobody else may have the arrays before all are done with them
            for other in others:
                other.result()

    def close(self) -> None:
        """End the threads. A second call does nothing."""
        self._pool.shutdown()
