"""The two threads of a stream, what they hand to each other, and the one lock around it.

    source → reader thread → waiting → worker thread: submit, collect → ready → caller

At most ``queue`` frames wait, the one being read included, and at most ``depth + 1`` are in the
path or ready: the source is never more than ``queue + depth + 1`` frames ahead of the caller.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

from mirnet_edge.errors import EngineError, MirnetEdgeError, StreamError, first_line
from mirnet_edge.frame_path import FRAMES_KEPT, FramePath, ThreadedPath, Ticket
from mirnet_edge.stream.cameras import Frames
from mirnet_edge.stream.source_clock import SourceClock, SourceFrame
from mirnet_edge.stream.throughput import StreamStatistics

T = TypeVar("T")

PATIENCE_S = 1.0
"""A source that blocks cannot be interrupted. After this time its thread is left to end by itself,
with the frame that it waits for; cameras give several a second."""


@dataclass(frozen=True, eq=False)
class StreamFrame:
    """One restored frame.

    Attributes:
        index: its number in the source, from 0; dropped frames have theirs too.
        timestamp: in seconds: the source's, else when it was read (`time.monotonic`).
        image: as restored; its own memory.
        latency_ms: from leaving the source to being ready.
        nonfinite: how many of the engine's values were NaN or infinite; see ``nan`` of `Restorer`.
    """

    index: int
    timestamp: float
    image: NDArray[Any]
    latency_ms: float
    nonfinite: int = 0


class Transfer:
    """Source to caller by way of a frame path. It knows nothing of its `FrameStream`, so that the
    threads do not keep alive a stream that nobody holds. The source is closed at the end, by the
    thread that reads it. It waits while ``capacity`` frames do; with ``drop_oldest`` the oldest
    of them is thrown away instead. ``ahead`` frames may be in the path or ready beside the one that
    is submitted. Frames come no earlier, and the source may take no longer, than ``clock``
    says."""

    def __init__(
        self,
        path: FramePath,
        source: Frames | AsyncIterable[object],
        *,
        capacity: int,
        drop_oldest: bool,
        clock: SourceClock,
        ahead: int | None = None,
    ) -> None:
        self._path, self._source = path, source
        self._threaded = path if isinstance(path, ThreadedPath) else None
        if self._threaded is not None:
            self._threaded.watch(self._rouse_all)
        self._ahead = path.depth if ahead is None else ahead
        self._depth = max(1, min(path.depth, self._ahead))
        self._capacity, self._drop_oldest = capacity, drop_oldest
        self._clock = clock
        self._process = os.getpid()
        self._changed = threading.Condition()  # its lock is held for moments only
        self._sleepers: set[asyncio.Future[None]] = set()
        self._worker: threading.Thread | None = None
        self._reader: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self._started = self._stopped = False
        self._source_ended = self._ended = False
        self._error: BaseException | None = None
        self._waiting: deque[SourceFrame] = deque()
        self._ready: deque[StreamFrame] = deque()
        self._read = self._skipped = self.dropped = self._restored = self._nonfinite = 0
        self._latest: deque[tuple[float, float]] = deque(maxlen=FRAMES_KEPT)

    # The caller

    def skip(self, frames: int) -> None:
        """Read the first frames of the source and leave them out."""
        if self._started:
            raise StreamError("frames were read from this stream already; resume with a new one")
        self._skipped = frames

    def take(self) -> StreamFrame | None:
        """The next restored frame, None after the last; raises the error that ended the rest."""
        if isinstance(self._source, AsyncIterable):
            raise StreamError("an async source is read in an event loop: use async for")
        self._start()
        return self._when(self._try_take)

    async def take_async(self) -> StreamFrame | None:
        """`take` that lets the event loop run. Cancelling it takes no frame."""
        self._start()
        return await self._when_async(self._try_take)

    def _start(self) -> None:
        source = self._source
        if os.getpid() != self._process:
            raise StreamError(
                f"this stream was made in process {self._process}, and this is {os.getpid()}, "
                "forked from it, without its threads: make the stream, and its Restorer, here"
            )
        with self._changed:
            if self._started or self._stopped:
                return
            self._started = True
            # Daemons: a source that blocks for ever must not keep the interpreter from ending.
            self._worker = threading.Thread(
                target=self._work, name="mirnet-edge worker", daemon=True
            )
            self._worker.start()
            if isinstance(source, AsyncIterable):
                self._task = asyncio.get_running_loop().create_task(self._read_all_async(source))
                return
            self._reader = threading.Thread(
                target=self._read_all, args=(source,), name="mirnet-edge reader", daemon=True
            )
            self._reader.start()

    # What is tried under the lock answers with a tuple of one, None being "not yet, wait": what it
    # holds may be None itself, as for the end of the stream.

    def _try_take(self) -> tuple[StreamFrame | None] | None:
        if self._ready:
            frame = self._ready.popleft()
            self._wake()
            return (frame,)
        if not self._ended and not self._stopped:
            return None
        error, self._error = self._error, None  # raised once; then the stream has ended
        if error is not None:
            raise error
        return (None,)

    def close(self, patience_s: float | None = None) -> bool:
        """Stop, and wait for the worker, for no longer than ``patience_s`` if that is given;
        whether it has ended. The interpreter's last moments and the garbage collector give it; a
        caller who is about to free what the pipeline uses must not, or look at the answer."""
        if os.getpid() != self._process:  # forked: the threads are the other one's
            return True
        with self._changed:
            unused = not self._started and not self._stopped
            self._stopped, self._error = True, None
            self._waiting.clear()
            self._ready.clear()
            self._wake()
        # Else the reader closes it: a generator cannot be closed while another thread runs it.
        if unused and isinstance(self._source, Frames):
            self._source.close()
        if self._task is not None:
            with suppress(RuntimeError):  # its event loop is closed, and the task with it
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        for thread, limit_s in ((self._worker, patience_s), (self._reader, PATIENCE_S)):
            # A source may close the stream that reads it, and a thread cannot wait for itself.
            if thread is not None and thread is not threading.current_thread():
                thread.join(limit_s)
        own = self._worker in (None, threading.current_thread())
        return own or not self._worker.is_alive()  # type: ignore[union-attr]

    async def reader_task_ended(self) -> None:
        """Wait for the task that reads an async source."""
        if self._task is not None and self._task is not asyncio.current_task():
            await asyncio.wait([self._task])

    def statistics(self) -> StreamStatistics:
        """See `StreamStatistics`."""
        with self._changed:
            latest = list(self._latest)
            counts = self._read, self.dropped, self._restored, self._nonfinite
        return StreamStatistics.of(*counts, latest)

    # The reader

    def _read_all(self, source: Frames) -> None:
        try:
            frames = iter(source)
            with suppress(StopIteration):
                while self._when(self._try_room):
                    self._clock.ask()
                    frame = self._clock.read(self._read, next(frames))
                    with self._changed:
                        while not self._stopped and (rest_s := self._clock.early_s(frame)) > 0:
                            self._changed.wait(rest_s)
                    self._add(frame)
        except BaseException as error:
            self._end_source(error)
        try:
            source.close()
        except BaseException as error:
            self._end_source(error)
        self._end_source()

    async def _read_all_async(self, source: AsyncIterable[object]) -> None:
        frames = None
        try:
            frames = aiter(source)
            with suppress(StopAsyncIteration):
                while await self._when_async(self._try_room):
                    self._clock.ask()
                    frame = self._clock.read(self._read, await anext(frames))
                    # Of no time too: a source that never waits must not take the loop.
                    await asyncio.sleep(self._clock.early_s(frame))
                    self._add(frame)
        except Exception as error:
            self._end_source(error)
        finally:
            try:
                if isinstance(frames, AsyncGenerator):
                    await frames.aclose()
            except Exception as error:
                self._end_source(error)
            self._end_source()

    def _try_room(self) -> tuple[bool] | None:
        if self._stopped or self._ended:
            return (False,)
        return (True,) if self._drop_oldest or len(self._waiting) < self._capacity else None

    def _add(self, frame: SourceFrame) -> None:
        with self._changed:
            if self._stopped or self._source_ended:  # as where it came after its time limit
                return
            if self._read < self._skipped:
                self._read += 1
                return
            if len(self._waiting) >= self._capacity:  # dropping: else `_try_room` waited for room
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(frame)
            self._read += 1
            self._wake()

    def _end_source(self, error: BaseException | None = None) -> None:
        with self._changed:
            if self._source_ended:
                return
            self._source_ended = True
            if error is not None and not self._stopped:  # closing may well make a source fail
                self._error = numbered(error, self._read, "the source failed", StreamError)
            self._wake()

    # The worker

    def _work(self) -> None:
        tickets: deque[tuple[SourceFrame, Ticket]] = deque()
        failed: tuple[int, BaseException] | None = None
        while True:
            read = None if failed else self._when(lambda: self._try_submit(tickets))
            if read is None and not tickets:
                break
            try:
                if read is not None:
                    tickets.append((read, self._path.submit(read.frame)))
                else:
                    read, ticket = tickets.popleft()
                    image = self._path.collect(ticket)
                    if failed is None or read.index < failed[0]:
                        self._deliver(read, image)
            except BaseException as error:
                # What was submitted before it is still to be delivered, and may fail itself.
                if read is not None and (failed is None or read.index < failed[0]):
                    failed = read.index, error
        if self._threaded is not None:
            self._threaded.end()
        self._end_work(failed)

    def _try_submit(
        self, tickets: Sequence[tuple[SourceFrame, Ticket]]
    ) -> tuple[SourceFrame | None] | None:
        """The frame to submit; or None inside the tuple: collect what is in flight, or end."""
        in_flight = len(tickets)
        if self._stopped or in_flight >= self._depth:
            return (None,)
        # What is ready counts too: a caller who takes nothing lets no more be restored.
        if self._waiting and in_flight + len(self._ready) <= self._ahead:
            read = self._waiting.popleft()
            self._wake()
            return (read,)
        if in_flight:
            # Of a path that goes on by itself a frame is collected once it is done.
            threaded = self._threaded
            return (None,) if threaded is None or threaded.is_done(tickets[0][1]) else None
        return (None,) if self._source_ended and not self._waiting else None

    def _deliver(self, read: SourceFrame, image: NDArray[Any]) -> None:
        now = time.monotonic()
        latency_ms = 1000 * (now - read.read_at)
        nonfinite = self._path.timings.nonfinite
        with self._changed:
            self._restored += 1
            self._nonfinite += nonfinite
            self._latest.append((latency_ms, now))
            if not self._stopped:
                self._ready.append(
                    StreamFrame(read.index, read.timestamp, image, latency_ms, nonfinite)
                )
            self._wake()

    def _end_work(self, failed: tuple[int, BaseException] | None) -> None:
        with self._changed:
            self._ended = True
            self._waiting.clear()
            if failed is not None and not self._stopped:
                index, error = failed
                self._error = numbered(error, index, "restoring it failed", EngineError)
            self._wake()

    # The lock

    def _when(self, attempt: Callable[[], tuple[T] | None]) -> T:
        """What is in the tuple that ``attempt``, made whenever something changed, returns."""
        with self._changed:
            while (found := attempt()) is None:
                self._changed.wait(self._patience_s())
            return found[0]

    def _patience_s(self) -> float | None:
        """How long to wait. The worker looks after the source while it has nothing to do, which is
        when that matters."""
        if self._source_ended or threading.current_thread() is not self._worker:
            return None
        left_s = self._clock.left_s()
        if left_s == 0:
            self._end_source(self._clock.failure())
        return left_s

    async def _when_async(self, attempt: Callable[[], tuple[T] | None]) -> T:
        loop = asyncio.get_running_loop()
        while True:
            with self._changed:
                found = attempt()
                if found is not None:
                    return found[0]
                sleeper: asyncio.Future[None] = loop.create_future()
                self._sleepers.add(sleeper)
            try:
                await sleeper
            finally:  # cancelled, it would stay as long as the source gives nothing
                with self._changed:
                    self._sleepers.discard(sleeper)

    def _rouse_all(self) -> None:
        with self._changed:
            self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        # All are woken, as threads are: whoever finds nothing yet sleeps again with a new future.
        sleepers, self._sleepers = self._sleepers, set()
        for sleeper in sleepers:
            with suppress(RuntimeError):  # its event loop is closed
                sleeper.get_loop().call_soon_threadsafe(_rouse, sleeper)


def _rouse(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


def numbered(
    error: BaseException, index: int, what: str, foreign: type[MirnetEdgeError]
) -> BaseException:
    """The error with its frame's number: ours stays the object it is, others become the cause of
    a ``foreign``. What is no Exception, such as SystemExit, stays as it is."""
    if isinstance(error, MirnetEdgeError):
        error.args = (f"frame {index}: {error}",)
        return error
    if not isinstance(error, Exception):
        return error
    failure = foreign(f"frame {index}: {what}: {type(error).__name__}: {first_line(error)}")
    failure.__cause__ = error
    return failure
