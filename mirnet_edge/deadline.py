"""Calls that may never come back: how long they are waited for, and in which process."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mirnet_edge.errors import EngineError

if TYPE_CHECKING:
    from threading import RLock

T = TypeVar("T")
Progress = Callable[[int, int], None]
_hanging: set[Deadline] = set()


def something_hangs() -> bool:
    """Whether a call of this process missed its deadline, and has not come back since."""
    return bool(_hanging)


class Deadline:
    """Runs calls, each for no longer than ``limit_s``, in a thread of its own; where that is None
    in the caller's, for as long as they take.

    Attributes:
        limit_s: as given.
        missed: whether a call did not come back; it may still run, and no other is begun.

    Raises:
        EngineError: ``limit_s`` is no positive number.
    """

    def __init__(self, limit_s: float | None) -> None:
        number = isinstance(limit_s, (int, float)) and not isinstance(limit_s, bool)
        if limit_s is not None and not (number and 0 < limit_s < math.inf):
            raise EngineError(f"timeout={limit_s!r}: need seconds, more than 0, or None")
        self.missed = self._closed = self._waiting = False
        self.limit_s, self._process = limit_s, os.getpid()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a process that was forked from the one it was made in."""
        return os.getpid() != self._process

    def require_here(self) -> None:
        """Check that this is the process it was made in; an `EngineError` else, where nobody would
        ever release a lock that was held."""
        if self.is_elsewhere:
            raise EngineError(
                f"this Restorer was made in process {self._process}, and this is {os.getpid()}, "
                "forked from it, without its threads: make a Restorer in each process, or start "
                'processes with the method "spawn"'
            )

    @contextmanager
    def entering(self, lock: RLock, patience_s: float | None = None) -> Iterator[None]:
        """Hold a lock; an `EngineError` in a forked process, or where it is not free within
        ``patience_s``."""
        self.require_here()
        if not lock.acquire(timeout=-1 if patience_s is None else patience_s):
            raise EngineError(
                f"a frame is still being restored after {patience_s:g} s; it is not closed. A "
                "Restorer with timeout= gives up engines that hang"
            )
        try:
            yield
        finally:
            lock.release()

    def call(
        self, function: Callable[..., T], *arguments: Any, progress: Progress | None = None
    ) -> T:
        """Call a function, and let it report progress, which is heard in the caller's thread.

        Raises:
            EngineError: it does not come back in time, or another did not.
        """
        if self.limit_s is None or self._closed:  # closed by a callback: the last steps of a call
            return function(*arguments, *([] if progress is None else [progress]))
        if self.missed:
            raise EngineError(
                "an engine of this Restorer hangs; make a new one, in a new process where a driver "
                "hangs with it"
            )
        running: _Running[T] = _Running(function, arguments, progress)
        self._start()
        self._calls.put(running.run)
        self._waiting = True
        try:
            return running.result(self.limit_s)
        except Empty:
            self.missed = True
            _hanging.add(self)
            raise EngineError(
                f"no answer from the engine within {self.limit_s:g} s; make a new Restorer, in a "
                "new process where a driver hangs with it"
            ) from None
        finally:
            self._waiting = False

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: what hangs must not keep the interpreter from ending.
            self._thread = threading.Thread(
                target=self._work, name="mirnet-edge deadline", daemon=True
            )
            self._thread.start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            _hanging.discard(self)

    def close(self) -> None:
        """End the thread; where it still does something, when that is done."""
        self._closed = True
        self._calls.put(None)
        if self._thread is not None and not (self._waiting or self.missed):
            self._thread.join()


class _Abandoned(Exception):
    """Raised in a call whose caller is gone, where it reports progress."""


class _Running(Generic[T]):
    """One call: between the thread that makes it and the one that waits."""

    def __init__(
        self, function: Callable[..., T], arguments: tuple[Any, ...], progress: Progress | None
    ) -> None:
        self._function, self._arguments, self._progress = function, arguments, progress
        self._said: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._heard: SimpleQueue[BaseException | None] = SimpleQueue()

    def run(self) -> None:
        told = [] if self._progress is None else [self._tell]
        try:
            self._said.put(("result", self._function(*self._arguments, *told)))
        except BaseException as error:
            self._said.put(("error", error))

    def _tell(self, done: int, total: int) -> None:
        self._said.put(("progress", (done, total)))
        if (error := self._heard.get()) is not None:
            raise error

    def result(self, limit_s: float) -> T:
        """Wait for the result; `Empty` where it does not come in time."""
        ends = time.monotonic() + limit_s
        try:
            while True:
                kind, value = self._said.get(timeout=max(ends - time.monotonic(), 0))
                if kind == "result":
                    result: T = value
                    return result
                if kind == "error":
                    raise value
                self._report(*value)
        finally:
            self._heard.put(_Abandoned())

    def _report(self, done: int, total: int) -> None:
        assert self._progress is not None  # else nothing is told
        try:
            self._progress(done, total)
        except BaseException as error:  # ends the call where it is, which raises it to the caller
            self._heard.put(error)
        else:
            self._heard.put(None)
