"""The threads in which requests are restored, and how many requests may be there at once."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from mirnet_edge.errors import ConfigError
from mirnet_edge.serve.refusals import Refusal

T = TypeVar("T")
WEIGHT = 0.1
"""Of the last request's time in the average by which clients are told when to come again."""
FIRST_S = 1.0
LONGEST_RETRY_S = 60


class Place:
    """Room for one request, from before its body is read until nothing of it runs any more."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._future: Future[Any] | None = None
        self._jobs: list[Callable[[], Any]] = []

    def begin(self, pool: ThreadPoolExecutor, job: Callable[[], T]) -> Future[T]:
        """Run a job in a thread of a pool, once one is free."""
        # A pool holds what was cancelled until its turn comes, but not what this list held.
        self._jobs.append(job)
        future: Future[T] = pool.submit(lambda: self._jobs.pop()())
        self._future = future
        return future

    def leave(self) -> None:
        """Free it; a job that runs keeps it until it ends."""
        future, self._future = self._future, None
        if future is None:
            self._work.leave()
        elif future.cancel():
            self._jobs.clear()
            self._work.leave()
        else:
            future.add_done_callback(lambda _: self._work.leave())


class Work:
    """Runs jobs in threads.

    Args:
        threads: jobs that run at once.
        queue: requests that may be there besides, to be read or to wait.

    Attributes:
        threads, room: jobs that run, and requests that there may be, at once.
        present: requests that there are.
        running: jobs that run.
    """

    def __init__(self, threads: int, queue: int) -> None:
        for name, value, least in (("threads", threads, 1), ("queue", queue, 0)):
            if value < least:
                raise ConfigError(f"{name}={value}: need at least {least}")
        self.threads, self.room = threads, threads + queue
        self.present = self.running = 0
        self._lock = threading.Lock()
        self._job_s = FIRST_S
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="mirnet-edge serve")

    def enter(self) -> Place:
        """Take room for a request; whoever takes it leaves it.

        Raises:
            Refusal: there is none; 503, with Retry-After.
        """
        with self._lock:
            if self.present < self.room:
                self.present += 1
                return Place(self)
        raise Refusal(
            503,
            f"{self.room} requests are being restored or wait, and no more are taken; come again "
            f"in {self.retry_s} s",
            {"retry-after": str(self.retry_s)},
        )

    def leave(self) -> None:
        """Give room back; `Place` does it."""
        with self._lock:
            self.present -= 1

    @property
    def retry_s(self) -> int:
        """Whole seconds in which about half of what is there will be done."""
        return min(max(1, math.ceil(self._job_s * self.room / self.threads / 2)), LONGEST_RETRY_S)

    def start(self, place: Place, job: Callable[[], T]) -> Future[T]:
        """Run a job of a request when a thread is free."""

        def run() -> T:
            began = time.monotonic()
            with self._lock:
                self.running += 1
            try:
                return job()
            finally:
                spent = time.monotonic() - began
                with self._lock:
                    self.running -= 1
                    self._job_s += WEIGHT * (spent - self._job_s)

        return place.begin(self._pool, run)

    def close(self) -> None:
        """Let what runs end, and nothing begin."""
        self._pool.shutdown(wait=True, cancel_futures=True)
