"""Streams in an event loop: it keeps running, and giving up a wait loses nothing."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from frame_paths import Counted, Delayed, OneByOne, doubled, eventually, frame, our_threads, values

from mirnet_edge.errors import FrameError, StreamError
from mirnet_edge.stream.frame_stream import FrameStream


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    assert our_threads() == []
    yield
    assert our_threads() == []


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
        found = [image async for image in FrameStream(OneByOne(restore), Counted(6).frames())]
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
