"""Streams of frames: order, bounds, drops, times, and errors with their frame's number."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from frame_paths import Counted, Delayed, OneByOne, doubled, eventually, frame, our_threads, values

from mirnet_edge.errors import EngineError, FrameError, ImageError, StreamError
from mirnet_edge.stream.frame_stream import FrameStream


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    assert our_threads() == []
    yield
    assert our_threads() == []


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

    stream = FrameStream(OneByOne(restore), source(), queue=2, drop="oldest")
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
    stream = FrameStream(OneByOne(lambda image: image), itertools.repeat(image, 10_000))
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
    found = list(FrameStream(OneByOne(doubled), pairs).frames())
    assert [item.timestamp for item in found] == [0.5, 1.5, 7.0]
    assert values(item.image for item in found) == [0, 2, 4]


def test_timestamps_may_be_given() -> None:
    stream = FrameStream(
        OneByOne(doubled), map(frame, range(3)), timestamps=itertools.count(2, 0.25)
    )
    assert [item.timestamp for item in stream.frames()] == [2, 2.25, 2.5]
    short = FrameStream(OneByOne(doubled), map(frame, range(3)), timestamps=[1, 2])
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
    pipeline = OneByOne(doubled)
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
