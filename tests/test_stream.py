"""Streams of frames: order, bounds, drops, errors with their frame's number, and no thread left."""

from __future__ import annotations

import asyncio
import gc
import itertools
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mirnet_edge.errors import EngineError, FrameError, ImageError, StreamError
from mirnet_edge.stream.frame_stream import FrameStream, SyncPipeline


def our_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("mirnet-edge")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    assert our_threads() == []
    yield
    assert our_threads() == []


def frame(value: int) -> np.ndarray:
    return np.full((1, 2, 3), value, np.uint16)


def values(frames: Any) -> list[int]:
    return [int(image[0, 0, 0]) for image in frames]


def doubled(image: np.ndarray) -> np.ndarray:
    return image * 2


class Delayed:
    """Doubles frames in ``collect``, after a random time or ``delay_s``; checks its contract."""

    def __init__(self, depth: int, delay_s: float | None = None, fails: Any = None) -> None:
        self.depth, self._delay_s, self._fails = depth, delay_s, fails or {}
        self._random = random.Random(depth)
        self.submitted: list[int] = []
        self.collected: list[int] = []
        self.threads: set[int] = set()
        self.most_in_flight = 0

    def submit(self, image: np.ndarray) -> tuple[int, np.ndarray]:
        self.threads.add(threading.get_ident())
        number = int(image[0, 0, 0])
        self._fail("submit", number)
        self.submitted.append(number)
        in_flight = len(self.submitted) - len(self.collected)
        self.most_in_flight = max(self.most_in_flight, in_flight)
        return number, image

    def collect(self, ticket: tuple[int, np.ndarray]) -> np.ndarray:
        self.threads.add(threading.get_ident())
        number, image = ticket
        self.collected.append(number)
        delay_s = self._random.random() / 500 if self._delay_s is None else self._delay_s
        time.sleep(delay_s)
        self._fail("collect", number)
        return doubled(image)

    def _fail(self, step: str, number: int) -> None:
        if (step, number) in self._fails:
            raise self._fails[step, number]


class Counted:
    """A source that counts what was taken, and notes that it was closed."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.taken, self.closed = 0, False
        self._count, self._error = count, error

    def frames(self) -> Iterator[np.ndarray]:
        try:
            for number in range(self._count):
                self.taken = number + 1
                yield frame(number)
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


def eventually(met: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5
    while not met() and time.monotonic() < end:
        time.sleep(0.002)
    return met()


# Order and bounds


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_order_is_kept_and_the_pipeline_is_filled(depth: int, capacity: int) -> None:
    pipeline = Delayed(depth)
    stream = FrameStream(pipeline, Counted(60).frames(), queue=capacity)
    assert values(stream) == [2 * number for number in range(60)]
    assert pipeline.submitted == pipeline.collected == list(range(60))
    assert pipeline.most_in_flight == depth if capacity > 1 else pipeline.most_in_flight <= depth
    assert len(pipeline.threads) == 1
    assert threading.get_ident() not in pipeline.threads


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("capacity", [1, 3])
def test_the_source_is_never_far_ahead_of_a_slow_caller(depth: int, capacity: int) -> None:
    source, bound = Counted(100), capacity + depth + 1
    ahead = []
    stream = FrameStream(Delayed(depth, 0), source.frames(), queue=capacity)
    for delivered, _ in enumerate(itertools.islice(stream, 12), start=1):
        if delivered in (1, 6):
            assert eventually(lambda n=delivered: source.taken == n + bound), source.taken
            time.sleep(0.02)
        ahead.append(source.taken - delivered)
    assert max(ahead) == bound
    assert source.closed


def test_oldest_waiting_frames_are_dropped_and_counted() -> None:
    began, go_on = threading.Event(), threading.Event()

    def restore(image: np.ndarray) -> np.ndarray:
        began.set()
        assert go_on.wait(5)
        return image

    def source() -> Iterator[np.ndarray]:
        yield frame(0)
        assert began.wait(5)
        yield from map(frame, range(1, 10))
        go_on.set()

    stream = FrameStream(SyncPipeline(restore), source(), queue=2, drop="oldest")
    found = list(stream.frames())
    assert [item.index for item in found] == [0, 8, 9]
    assert values(item.image for item in found) == [0, 8, 9]
    assert stream.dropped == 7
    statistics = stream.statistics()
    assert (statistics.read, statistics.dropped, statistics.restored) == (10, 7, 3)


def test_a_slow_caller_does_not_hold_a_live_source_up_nor_lose_results() -> None:
    pipeline, ended = Delayed(2, 0), threading.Event()

    def camera() -> Iterator[np.ndarray]:
        for number in range(50):
            time.sleep(0.0005)
            yield frame(number)
        ended.set()

    stream = FrameStream(pipeline, camera(), queue=1, drop="oldest")
    found = [next(stream)]
    assert ended.wait(5), "the camera waits for the caller"
    found += stream
    assert values(found) == [2 * number for number in pipeline.submitted]
    assert pipeline.submitted[-1] == 49
    assert stream.dropped == 50 - len(found) >= 40


def test_ten_thousand_frames_neither_grow_nor_slow_down() -> None:
    image, found, waiting = frame(1), [], 0
    stream = FrameStream(SyncPipeline(lambda image: image), itertools.repeat(image, 10_000))
    for item in stream.frames():
        found.append((item.index, item.timestamp, item.latency_ms))
        transfer = stream._transfer
        waiting = max(waiting, len(transfer._waiting) + len(transfer._ready))
    indices, timestamps, latencies = zip(*found)
    assert indices == tuple(range(10_000))
    assert list(timestamps) == sorted(timestamps)
    assert waiting <= 2 + 2
    assert np.median(latencies[-1000:]) < 5 * np.median(latencies[:5000]) + 20
    assert len(stream._transfer._latest) == 1000


# Times


def test_timestamps_of_the_source_are_kept() -> None:
    pairs = [(0.5, frame(0)), (np.float32(1.5), frame(1)), (7, frame(2))]
    found = list(FrameStream(SyncPipeline(doubled), pairs).frames())
    assert [item.timestamp for item in found] == [0.5, 1.5, 7.0]
    assert values(item.image for item in found) == [0, 2, 4]


def test_timestamps_may_be_given() -> None:
    stream = FrameStream(
        SyncPipeline(doubled), map(frame, range(3)), timestamps=itertools.count(2, 0.25)
    )
    assert [item.timestamp for item in stream.frames()] == [2, 2.25, 2.5]
    short = FrameStream(SyncPipeline(doubled), map(frame, range(3)), timestamps=[1, 2])
    with pytest.raises(StreamError, match=r"^frame 2: there are only 2 timestamps"):
        list(short)


def test_otherwise_a_timestamp_is_when_the_frame_was_read() -> None:
    before = time.monotonic()
    (found,) = FrameStream(Delayed(1, 0.02), [frame(0)]).frames()
    assert before <= found.timestamp <= time.monotonic() - found.latency_ms / 1000
    assert 20 <= found.latency_ms < 1000


def test_statistics_are_of_what_happened() -> None:
    stream = FrameStream(Delayed(1, 0.005), map(frame, range(20)), queue=1)
    before = stream.statistics()
    assert (before.read, before.latency_p50_ms, before.frames_per_second) == (0, None, None)
    latencies = [item.latency_ms for item in stream.frames()]
    after = stream.statistics()
    assert (after.read, after.dropped, after.restored) == (20, 0, 20)
    assert after.latency_p50_ms == pytest.approx(np.percentile(latencies, 50))
    assert after.latency_p90_ms == pytest.approx(np.percentile(latencies, 90))
    assert after.latency_p99_ms == pytest.approx(np.percentile(latencies, 99))
    assert after.frames_per_second is not None
    assert 1 < after.frames_per_second <= 200


def test_frames_are_restored_into_memory_of_their_own() -> None:
    found = list(FrameStream(Delayed(2, 0), map(frame, range(6))))
    assert not any(np.may_share_memory(a, b) for a, b in itertools.combinations(found, 2))


# Errors


def until_error(stream: FrameStream, kind: type[Exception], match: str) -> tuple[list[int], Any]:
    """The frames before the error, and the error."""
    found: list[int] = []
    with pytest.raises(kind, match=match) as caught:
        found.extend(int(image[0, 0, 0]) for image in stream)
    assert list(stream) == [], "an error is raised once"
    return found, caught.value


def test_a_source_that_fails_ends_the_stream_after_its_frames() -> None:
    source = Counted(5, OSError("unplugged"))
    stream = FrameStream(Delayed(2, 0.002), source.frames())
    found, error = until_error(
        stream, StreamError, "^frame 5: the source failed: OSError: unplugged"
    )
    assert found == [0, 2, 4, 6, 8]
    assert isinstance(error.__cause__, OSError)
    assert source.closed


def test_an_error_of_ours_keeps_its_type() -> None:
    stream = FrameStream(Delayed(1, 0), Counted(3, ImageError("x.png: truncated")).frames())
    assert until_error(stream, ImageError, r"^frame 3: x\.png: truncated$")[0] == [0, 2, 4]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("step", ["submit", "collect"])
def test_a_pipeline_that_fails_delivers_what_came_before(step: str, depth: int) -> None:
    pipeline = Delayed(depth, fails={(step, 7): FrameError("720 rows, planned for 480")})
    source = Counted(100)
    stream = FrameStream(pipeline, source.frames())
    found, _ = until_error(stream, FrameError, "^frame 7: 720 rows, planned for 480$")
    assert found == [2 * number for number in range(7)]
    assert pipeline.collected == pipeline.submitted, "every ticket is collected"
    assert source.closed
    assert source.taken < 20


def test_of_two_failures_the_first_frames_is_told() -> None:
    fails = {("submit", 5): FrameError("later"), ("collect", 4): RuntimeError("earlier\nmore")}
    stream = FrameStream(Delayed(2, fails=fails), map(frame, range(9)))
    message = "^frame 4: restoring it failed: RuntimeError: earlier$"
    found, error = until_error(stream, EngineError, message)
    assert found == [0, 2, 4, 6]
    assert isinstance(error.__cause__, RuntimeError)


def test_what_the_caller_raises_ends_the_stream() -> None:
    source = Counted(100)
    stream = FrameStream(Delayed(2), source.frames())

    def call() -> None:
        for _ in stream:
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        call()
    assert source.closed
    assert our_threads() == []


def test_settings_that_make_no_sense_are_refused() -> None:
    pipeline = SyncPipeline(doubled)
    for wrong, message in (
        ({"queue": 0}, "queue=0"),
        ({"queue": 1.5}, r"queue=1\.5"),
        ({"drop": "newest"}, "drop='newest'"),
    ):
        with pytest.raises(StreamError, match=message):
            FrameStream(pipeline, [], **wrong)
    with pytest.raises(StreamError, match="depth 0"):
        FrameStream(Delayed(0), [])
    with pytest.raises(StreamError, match="NoneType is no source"):
        FrameStream(pipeline, None)


# Sinks


def test_a_sink_is_a_callable_or_has_write() -> None:
    found: list[np.ndarray] = []
    assert FrameStream(Delayed(2), map(frame, range(5))).to(found.append).restored == 5
    assert values(found) == [0, 2, 4, 6, 8]

    class Writer:
        def write(self, image: np.ndarray) -> None:
            found.append(image)

    FrameStream(Delayed(1), map(frame, range(2))).to(Writer())
    assert len(found) == 7
    with pytest.raises(StreamError, match="a int is no sink"):
        FrameStream(Delayed(1), []).to(3)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError("disk full"), StreamError, "^frame 3: the sink failed: OSError: disk full$"),
        (EngineError("closed"), EngineError, "^frame 3: closed$"),
    ],
)
def test_a_sink_that_fails_ends_the_stream(error: Exception, kind: Any, message: str) -> None:
    source, written = Counted(100), []

    def sink(image: np.ndarray) -> None:
        if len(written) == 3:
            raise error
        written.append(image)

    with pytest.raises(kind, match=message) as caught:
        FrameStream(Delayed(2), source.frames()).to(sink)
    assert caught.value is error or caught.value.__cause__ is error
    assert source.closed


# Closing


def test_leaving_the_loop_closes_the_stream() -> None:
    source, pipeline = Counted(100), Delayed(2)
    stream = FrameStream(pipeline, source.frames())
    for image in stream:
        if values([image]) == [6]:
            break
    assert our_threads() == []
    assert source.closed
    assert pipeline.collected == pipeline.submitted
    with pytest.raises(StopIteration):
        next(stream)


def test_closing_twice_and_using_after_it() -> None:
    source = Counted(10)
    with FrameStream(Delayed(1), source.frames()) as stream:
        assert values([next(stream), next(stream)]) == [0, 2]
        assert len(our_threads()) == 2
    stream.close()
    assert source.closed
    assert list(stream) == list(stream.frames()) == []


def test_a_stream_that_was_never_read_starts_nothing() -> None:
    released = []

    class Camera:
        def read(self) -> tuple[bool, Any]:
            return True, frame(0)

    camera = Camera()
    camera.release = lambda: released.append(1)  # type: ignore[attr-defined]
    stream = FrameStream(Delayed(1), camera)
    assert our_threads() == []
    stream.close()
    assert list(stream) == []
    assert released == [], "whoever opened it releases it"


def test_a_stream_that_nobody_holds_ends() -> None:
    source = Counted(100)
    stream = FrameStream(Delayed(2), source.frames())
    next(stream)
    del stream
    gc.collect()
    assert our_threads() == []
    assert source.closed


def test_close_from_another_thread_frees_a_caller_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mirnet_edge.stream.transfer.PATIENCE_S", 0.1)
    items: queue.Queue[Any] = queue.Queue()
    items.put(frame(4))
    stream = FrameStream(Delayed(2), items)
    assert values([next(stream)]) == [8]
    closer = threading.Timer(0.05, stream.close)
    closer.start()
    start = time.monotonic()
    assert list(stream) == []
    assert time.monotonic() - start < 1
    closer.join()
    assert our_threads() == ["mirnet-edge reader"], "it can but wait for the source"
    items.put(frame(5))
    assert eventually(lambda: our_threads() == [])


def test_ctrl_c_ends_a_stream_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirnet_edge.stream.transfer.PATIENCE_S", 0.1)
    items: queue.Queue[Any] = queue.Queue()
    stream = FrameStream(Delayed(1), items)
    main = threading.get_ident()
    presser = threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGINT))
    start = time.monotonic()
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert time.monotonic() - start < 1
    presser.join()
    items.put(None)
    assert eventually(lambda: our_threads() == [])
    assert list(stream) == []


def test_the_interpreter_ends_while_a_source_blocks() -> None:
    code = """
import queue, numpy as np
from mirnet_edge.stream import FrameStream, SyncPipeline
items = queue.Queue()
items.put(np.zeros((2, 2, 3)))
stream = FrameStream(SyncPipeline(lambda image: image), items)
print(next(stream).shape)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(2, 2, 3)\n", "")


def test_streams_may_be_chained() -> None:
    source = Counted(100)
    inner = FrameStream(Delayed(1, 0), source.frames())
    outer = FrameStream(Delayed(2, 0), inner)
    assert values(itertools.islice(outer, 10)) == [4 * number for number in range(10)]
    outer.close()
    assert source.closed


# Event loops


async def numbers(count: int, closed: list[int], error: Exception | None = None) -> Any:
    try:
        for number in range(count):
            if number % 3 == 0:
                await asyncio.sleep(0)
            yield frame(number)
        if error is not None:
            raise error
    finally:
        closed.append(1)


def test_async_for_leaves_the_event_loop_running() -> None:
    async def main() -> list[int]:
        turns = threading.Semaphore(0)

        def restore(image: np.ndarray) -> np.ndarray:
            assert turns.acquire(timeout=5), "the event loop had no turn"
            return doubled(image)

        async def allow() -> None:
            for _ in range(6):
                await asyncio.sleep(0.005)
                turns.release()

        allowing = asyncio.create_task(allow())
        found = [image async for image in FrameStream(SyncPipeline(restore), Counted(6).frames())]
        assert our_threads() == []
        await allowing
        return values(found)

    assert asyncio.run(main()) == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("capacity", [1, 4])
def test_an_async_source_is_read_in_the_callers_loop(capacity: int) -> None:
    async def main() -> None:
        closed: list[int] = []
        stream = FrameStream(Delayed(2), numbers(40, closed), queue=capacity)
        found = [item async for item in stream.frames()]
        assert [item.index for item in found] == list(range(40))
        assert values(item.image for item in found) == [2 * number for number in range(40)]
        assert closed == [1]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(main())


def test_back_pressure_reaches_an_async_source() -> None:
    async def main() -> None:
        taken = 0

        async def source() -> AsyncIterator[np.ndarray]:
            nonlocal taken
            while True:
                taken += 1
                yield frame(taken)

        stream = FrameStream(Delayed(2, 0), source(), queue=2)
        async with stream:
            await anext(stream)
            await asyncio.sleep(0.05)
            assert taken == 1 + 2 + 2 + 1
        assert our_threads() == []

    asyncio.run(main())


def test_async_errors_have_the_frames_number() -> None:
    async def main() -> None:
        closed: list[int] = []
        found = []

        async def collect(stream: FrameStream) -> None:
            async for image in stream:
                found.append(image)

        with pytest.raises(StreamError, match=r"^frame 4: the source failed: OSError: lost$"):
            await collect(FrameStream(Delayed(2), numbers(4, closed, OSError("lost"))))
        assert values(found) == [0, 2, 4, 6]
        pipeline = Delayed(1, fails={("collect", 2): FrameError("odd")})
        with pytest.raises(FrameError, match=r"^frame 2: odd$"):
            await collect(FrameStream(pipeline, numbers(9, closed)))
        assert closed == [1, 1]

    asyncio.run(main())


def test_cancelling_closes_the_stream_and_its_source() -> None:
    async def main() -> None:
        waits = asyncio.Event()

        async def source() -> AsyncIterator[np.ndarray]:
            try:
                yield frame(1)
                await asyncio.sleep(60)
            finally:
                waits.set()

        async def consume() -> None:
            async for _ in FrameStream(Delayed(2), source()):
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(0.05)
        assert our_threads() == ["mirnet-edge worker"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waits.is_set()
        assert our_threads() == []

    asyncio.run(main())


def test_a_cancelled_anext_leaves_the_stream_open_and_loses_no_frame() -> None:
    async def main() -> None:
        source = Counted(4)
        stream = FrameStream(Delayed(2, 0.03), source.frames())
        found, gave_up = [], 0
        while len(found) < 4:
            try:
                found.append(await asyncio.wait_for(anext(stream), 0.01))
            except asyncio.TimeoutError:
                gave_up += 1
        assert values(found) == [0, 2, 4, 6]
        assert gave_up >= 4, "no wait was cancelled"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert source.closed
        assert our_threads() == []

    asyncio.run(main())


def test_no_frame_is_lost_when_it_comes_as_the_wait_is_cancelled() -> None:
    async def main() -> None:
        items: queue.Queue[Any] = queue.Queue()
        stream = FrameStream(Delayed(1, 0), items)
        for number in range(20):
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            items.put(frame(number))
            # The loop does not run meanwhile: it finds the frame and the cancellation at once.
            assert eventually(lambda: bool(stream._transfer._ready))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert values([await anext(stream)]) == [2 * number]
        items.put(None)
        assert [image async for image in stream] == []

    asyncio.run(main())


def test_waits_that_are_given_up_leave_nothing_behind() -> None:
    async def main() -> None:
        items: queue.Queue[Any] = queue.Queue()
        stream = FrameStream(Delayed(1, 0), items)
        for _ in range(5):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(stream), 0.001)
        assert not stream._transfer._sleepers
        items.put(None)
        await stream.aclose()

    asyncio.run(main())


def test_an_error_closes_the_stream_though_a_wait_was_cancelled_before() -> None:
    async def main() -> None:
        closed: list[int] = []
        pipeline = Delayed(1, 0.05, {("collect", 0): FrameError("odd")})
        stream = FrameStream(pipeline, numbers(9, closed))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(stream), 0.01)
        with pytest.raises(FrameError, match=r"^frame 0: odd$"):
            await anext(stream)
        assert closed == [1]
        assert our_threads() == []

    asyncio.run(main())


def test_breaking_out_of_async_for_closes_the_stream() -> None:
    source = Counted(100)

    async def main() -> None:
        async for _ in FrameStream(Delayed(2), source.frames()):
            break

    asyncio.run(main())
    assert source.closed


def test_an_async_source_needs_async_for() -> None:
    stream = FrameStream(Delayed(1), numbers(3, []))
    with pytest.raises(StreamError, match="use async for"):
        next(stream)


def test_closing_at_any_moment_leaves_nothing_behind() -> None:
    moments = random.Random(0)
    for round_ in range(60):
        source, pipeline = Counted(1000), Delayed(1 + round_ % 3)
        stream = FrameStream(
            pipeline, source.frames(), queue=2, drop="oldest" if round_ % 2 else "never"
        )
        closer = threading.Timer(moments.random() / 100, stream.close)
        closer.start()
        found = values(stream)
        closer.join()
        assert found == [2 * number for number in pipeline.submitted[: len(found)]]
        assert pipeline.collected == pipeline.submitted
        assert our_threads() == []
