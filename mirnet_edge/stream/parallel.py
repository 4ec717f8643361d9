"""Frames through several paths at once, as those of several GPUs, in their order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mirnet_edge.frame_path import Ticket, Timings, Turn

AHEAD = 2
"""How many times as many frames as are in flight in all paths there may be at once: those beyond
are restored, on the host, and wait for an earlier one on a path that is slower."""


class HomePath(Protocol):
    """A path (see `FramePath`) of frames of the host, and of those that lie on its device.

    Attributes:
        device: its number; None where it has none.
        timings: of the frame that was collected last.
    """

    @property
    def depth(self) -> int: ...
    @property
    def device(self) -> int | None: ...
    @property
    def timings(self) -> Timings: ...

    def submit(self, frame: object, turn: Turn) -> Ticket:
        """Start on a frame, and wait for its turn before it matters which comes first."""

    def collect(self, ticket: Ticket) -> Any:
        """Wait for that frame and return it."""


@dataclass(eq=False)
class _Job:
    """A frame, and what became of it."""

    number: int
    frame: object
    home: int | None
    ticket: Any = None
    restored: Any = None
    error: BaseException | None = None
    timings: Timings = field(default_factory=Timings)
    is_done: bool = False


class ParallelPath:
    """Several paths as one (see `ThreadedPath`). Each has a thread, which takes the next frame as
    soon as its path has room for one, so that paths of equal speed take turns. A slower one takes
    fewer frames; but as order is kept, the others wait for those that it has, once they are ahead
    by `depth` frames: all together do no less than the others would alone while a frame takes it up
    to `AHEAD` times as long as them.

    Args:
        paths: each is called from its own thread alone, by this.
        home_of: the device that a frame lies on, whose path then takes it; None for any.
        in_turn: frames take turns in their order: for paths that share what one frame leaves for
            the next.
        lag: the frame that is so many before it and all earlier ones are done when a frame's turn
            comes; 0 waits for none.
    """

    def __init__(
        self,
        paths: Sequence[HomePath],
        home_of: Callable[[object], int | None] = lambda _: None,
        *,
        in_turn: bool = False,
        lag: int = 0,
    ) -> None:
        self.depth = AHEAD * sum(path.depth for path in paths)
        self.timings = Timings()
        self._paths, self._home_of = paths, home_of
        self._homes = {path.device for path in paths}
        self._in_turn, self._lag = in_turn, lag
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._threads: list[threading.Thread] = []
        self._submitted = self._turn = self._done = 0  # each the number of the next frame
        self._done_early: set[int] = set()
        self._ended = False
        self._wake: Callable[[], None] = _nobody

    def watch(self, wake: Callable[[], None]) -> None:
        """Call this whenever a frame is done."""
        self._wake = wake

    def is_done(self, job: _Job) -> bool:
        """Whether collecting that frame would not wait."""
        return job.is_done

    def submit(self, frame: object) -> _Job:
        """Let a path take the frame."""
        home = self._home_of(frame)
        with self._changed:
            # One of a device that has no path goes to any, which says what is wrong.
            job = _Job(self._submitted, frame, home if home in self._homes else None)
            self._submitted += 1
            self._waiting.append(job)
            self._changed.notify_all()
        if not self._threads:
            for path in self._paths:
                name = f"mirnet-edge device {path.device}"
                # Daemons: an engine that hangs must not keep the interpreter from ending.
                thread = threading.Thread(target=self._work, args=(path,), name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        return job

    def collect(self, job: _Job) -> Any:
        """Wait for that frame."""
        with self._changed:
            self._changed.wait_for(lambda: job.is_done)
        if job.error is not None:
            raise job.error
        self.timings = job.timings
        return job.restored

    def end(self) -> None:
        """Wait for the threads, which end once all that was submitted is done."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, path: HomePath) -> None:
        mine: deque[_Job] = deque()
        while True:
            job = self._take(path, len(mine))
            if job is not None:
                self._begin(job, path, mine)
            elif mine:
                self._finish(path, mine.popleft())
            else:
                return

    def _take(self, path: HomePath, in_flight: int) -> _Job | None:
        """The next frame for a path; None where it is to collect one, or to end."""
        with self._changed:
            while True:
                if in_flight < path.depth:
                    for job in self._waiting:
                        if job.home in (None, path.device):
                            self._waiting.remove(job)
                            return job
                if in_flight or (self._ended and not self._waiting):
                    return None
                self._changed.wait()

    def _begin(self, job: _Job, path: HomePath, mine: deque[_Job]) -> None:
        if self._lag:
            # Before it waits for others: they may wait for these.
            while mine and mine[0].number <= job.number - self._lag:
                self._finish(path, mine.popleft())
        turn = _Turn(self, job.number) if self._in_turn else Turn()
        try:
            job.ticket = path.submit(job.frame, turn)
        except BaseException as error:
            self._end_job(job, error=error)
        else:
            mine.append(job)
        job.frame = None
        turn.wait()  # a frame may have failed before it did
        turn.end()

    def wait_for_turn(self, number: int) -> None:
        """Wait until it is a frame's turn, or was before."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._turn > number
                    or (self._turn == number and (not self._lag or self._done > number - self._lag))
                )
            )

    def end_turn(self, number: int) -> None:
        """Let the next frame have its turn."""
        with self._changed:
            self._turn = max(self._turn, number + 1)
            self._changed.notify_all()

    def _finish(self, path: HomePath, job: _Job) -> None:
        try:
            restored = path.collect(job.ticket)
            job.timings = path.timings
            self._end_job(job, restored)
        except BaseException as error:
            self._end_job(job, error=error)

    def _end_job(self, job: _Job, restored: Any = None, error: BaseException | None = None) -> None:
        with self._changed:
            job.restored, job.error, job.is_done = restored, error, True
            job.ticket = None
            self._done_early.add(job.number)
            while self._done in self._done_early:
                self._done_early.remove(self._done)
                self._done += 1
            self._changed.notify_all()
        self._wake()


class _Turn(Turn):
    """The turn of one frame among several paths."""

    def __init__(self, path: ParallelPath, number: int) -> None:
        self._path, self._number = path, number

    def wait(self) -> None:
        self._path.wait_for_turn(self._number)

    def end(self) -> None:
        self._path.end_turn(self._number)


def _nobody() -> None:
    """Nobody watches."""
