"""A stream of frames: restored in order while the source is read and the caller works."""

from __future__ import annotations

import asyncio
import weakref
from collections import abc
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from typing import Any, Generic, Literal, TypeVar

from numpy.typing import NDArray

from mirnet_edge._arguments import explained
from mirnet_edge.errors import StreamError
from mirnet_edge.frame_path import FramePath
from mirnet_edge.frames.pixel_formats import PixelFormat
from mirnet_edge.stream.cameras import Frames
from mirnet_edge.stream.sinks import frames_done, open_sink
from mirnet_edge.stream.source_clock import SourceClock
from mirnet_edge.stream.sources import open_source
from mirnet_edge.stream.throughput import StreamStatistics
from mirnet_edge.stream.transfer import PATIENCE_S, StreamFrame, Transfer, numbered

Drop = Literal["never", "oldest"]
Pace = Literal["free", "source"]
Wait = Literal["throughput", "low"]
T = TypeVar("T")


class FrameStream:
    """Restored frames of a source, for ``for`` and ``async for``: arrays, each its own memory.

    Args:
        path: what restores them, called from one thread; not closed by the stream.
        frames: see `open_source`; or, for ``async for``, an async iterable, which is read in the
            caller's event loop. An item is a frame, or a (timestamp, frame) pair. Frames wait, so
            each must keep its pixels until it is restored: a source that reads into the same buffer
            again and again yields copies.
        queue: how many frames may wait between source and path. One gives the least latency,
            but leaves one frame at a time in flight: a second is needed to fill a deeper path.
        drop: what happens when they do: "never" makes the source wait, "oldest" throws away the
            one that waited longest, so that a live camera never lags.
        timestamps: seconds, one a frame of the source; None takes those of the source, else the
            time at which a frame was read.
        pace: "free" reads as fast as frames are wanted, "source" no faster than the timestamps
            tell, so that a file comes as from a camera. Frames without timestamps have the time at
            which they were read.
        timeout: seconds after which a source that gives nothing has failed; None waits for ever.
        reconnect: how often in a row a live source that stops is opened again (see `open_source`).
        latency: "throughput" keeps the path busy; "low" keeps frames young: the newest waits, one
            at a time is in the path, and none is ready and not taken.
        pixels: format of the frames: what files, videos and captures are converted to, and folders
            and videos that they are written to from (see `open_source`, `open_sink`).

    Raises:
        StreamError: no such source or setting. While iterating: the source failed.
        MirnetEdgeError: while iterating: what the path raised; else EngineError. The message
            starts with the frame's number, and the frames before it are delivered first.

    Reading starts when the first frame is asked for. The stream is closed when a loop over it is
    left, however that happens; `close`, which any thread may call, and ``with`` do so too. Closing
    waits for frames in flight. A cancelled ``anext(stream)``, as by a time limit, leaves the stream
    open and loses no frame; a cancelled ``async for`` closes it.
    """

    @explained(StreamError)
    def __init__(
        self,
        path: FramePath,
        frames: object,
        *,
        queue: int = 2,
        drop: Drop = "never",
        timestamps: Iterable[float] | None = None,
        pace: Pace = "free",
        timeout: float | None = None,
        reconnect: int = 0,
        pixels: PixelFormat | None = None,
        latency: Wait = "throughput",
    ) -> None:
        if not isinstance(queue, int) or queue < 1:
            raise StreamError(f"queue={queue!r}: need a whole number of frames, at least 1")
        if drop not in ("never", "oldest"):
            raise StreamError(f'drop={drop!r}: need "never" or "oldest"')
        if pace not in ("free", "source"):
            raise StreamError(f'pace={pace!r}: need "free" or "source"')
        if latency not in ("throughput", "low"):
            raise StreamError(f'latency={latency!r}: need "throughput" or "low"')
        is_low = latency == "low"
        if timeout is not None and not timeout > 0:
            raise StreamError(f"timeout={timeout!r}: need seconds, more than 0, or None")
        if not isinstance(reconnect, int) or reconnect < 0:
            raise StreamError(f"reconnect={reconnect!r}: need a whole number, at least 0")
        if path.depth < 1:
            raise StreamError(f"a path of depth {path.depth} takes no frame; need 1")
        # What is both, as a stream is, is read by a thread: an event loop may not be there.
        source: Frames | AsyncIterable[object]
        if isinstance(frames, AsyncIterable) and not isinstance(frames, Iterable):
            source = frames
        else:
            source = open_source(frames, pixels, timeout=timeout, reconnect=reconnect)
        self._pixels = pixels
        self._transfer = Transfer(
            path,
            source,
            capacity=1 if is_low else queue,
            drop_oldest=is_low or drop == "oldest",
            ahead=0 if is_low else path.depth,
            clock=SourceClock(timestamps, pace == "source", timeout),
        )
        # Not __del__: it runs before the interpreter stops the threads, and sees no half-made self.
        self._finalizer = weakref.finalize(self, self._transfer.close, PATIENCE_S)

    def frames(self) -> StreamFrames[StreamFrame]:
        """The same frames as `StreamFrame`, for ``for`` and ``async for``."""
        return StreamFrames(self, lambda frame: frame)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter(StreamFrames(self, lambda frame: frame.image))

    def __aiter__(self) -> abc.AsyncIterator[NDArray[Any]]:
        return aiter(StreamFrames(self, lambda frame: frame.image))

    def __next__(self) -> NDArray[Any]:
        frame = self._take()
        if frame is None:
            raise StopIteration
        return frame.image

    async def __anext__(self) -> NDArray[Any]:
        frame = await self._take_async()
        if frame is None:
            raise StopAsyncIteration
        return frame.image

    @explained(StreamError)
    def to(self, sink: object, resume: bool = False) -> StreamStatistics:
        """Give every restored frame to ``sink``: a callable, an object with ``write()``, a folder
        or a ``cv2.VideoWriter`` (see `open_sink`).

        With ``resume`` a folder may hold the first frames of the same source, from a run that was
        interrupted or killed: these are read and not restored, and it goes on behind them.

        Raises:
            StreamError, OutputError: it is no such sink; the stream is left as it is.
            MirnetEdgeError: as while iterating, or what the sink raised; else StreamError. The
                message starts with the frame's number.
        """
        write = open_sink(sink, self._pixels, resume)
        if resume:
            self._transfer.skip(frames_done(sink))  # type: ignore[arg-type]  # a folder, by now
        with self:
            for frame in self.frames():
                try:
                    write(frame)
                except Exception as error:
                    failure = numbered(error, frame.index, "the sink failed", StreamError)
                    raise failure from failure.__cause__
        return self.statistics()

    @property
    def dropped(self) -> int:
        """Frames thrown away because too many waited."""
        return self._transfer.dropped

    def statistics(self) -> StreamStatistics:
        """What was done so far; at any time, from any thread."""
        return self._transfer.statistics()

    def close(self, timeout: float | None = None) -> None:
        """Stop, and wait for the threads, for ``timeout`` seconds if that is given; a `StreamError`
        where a frame is then still being restored. A second call does nothing."""
        if not self._transfer.close(timeout):
            raise StreamError(
                f"a frame is still being restored after {timeout:g} s; do not close its Restorer. "
                "One with timeout= gives up engines that hang"
            )

    async def aclose(self) -> None:
        """`close`, without blocking the event loop."""
        await asyncio.to_thread(self._transfer.close)
        await self._transfer.reader_task_ended()

    def __enter__(self) -> FrameStream:
        return self

    async def __aenter__(self) -> FrameStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _take(self) -> StreamFrame | None:
        """The next frame; None after the last. Whatever else happens closes the stream."""
        frame = None
        try:
            frame = self._transfer.take()
        finally:
            if frame is None:
                self.close()
        return frame

    async def _take_async(self) -> StreamFrame | None:
        """`_take`, but giving up the wait leaves the stream open; a loop's end closes it."""
        try:
            frame = await self._transfer.take_async()
        except (asyncio.CancelledError, GeneratorExit):
            raise  # a time limit around anext() is no end: the next call goes on
        except BaseException:
            await self.aclose()
            raise
        if frame is None:
            await self.aclose()
        return frame


class StreamFrames(Generic[T]):
    """A stream's frames in one of their forms; leaving a loop over them closes the stream."""

    def __init__(self, stream: FrameStream, form: Callable[[StreamFrame], T]) -> None:
        self._stream, self._form = stream, form

    def __iter__(self) -> Iterator[T]:
        try:
            while (frame := self._stream._take()) is not None:
                yield self._form(frame)
        finally:
            self._stream.close()

    async def __aiter__(self) -> abc.AsyncGenerator[T, None]:
        try:
            while (frame := await self._stream._take_async()) is not None:
                yield self._form(frame)
        finally:
            await self._stream.aclose()
