"""How a stream ends: no thread is left, however that happens."""

from __future__ import annotations

import gc
import itertools
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from frame_paths import Counted, Delayed, eventually, frame, our_threads, values

from mirnet_edge.errors import StreamError
from mirnet_edge.stream.cameras import Frames
from mirnet_edge.stream.frame_stream import FrameStream
from mirnet_edge.stream.source_clock import SourceClock
from mirnet_edge.stream.transfer import Transfer


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    assert our_threads() == []
    yield
    assert our_threads() == []


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
    assert time.monotonic() - start < 30
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
    assert time.monotonic() - start < 30
    presser.join()
    items.put(None)
    assert eventually(lambda: our_threads() == [])
    assert list(stream) == []


def test_the_interpreter_ends_while_a_source_blocks() -> None:
    code = """
import queue, numpy as np
from frame_paths import OneByOne
from mirnet_edge.errors import StreamError
from mirnet_edge.stream.cameras import Frames
from mirnet_edge.stream.frame_stream import FrameStream
from mirnet_edge.stream.source_clock import SourceClock
from mirnet_edge.stream.transfer import Transfer
items = queue.Queue()
items.put(np.zeros((2, 2, 3)))
stream = FrameStream(OneByOne(lambda image: image), items)
print(next(stream).shape)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(2, 2, 3)\n", "")


def test_streams_may_be_chained() -> None:
    source = Counted(100)
    inner = FrameStream(Delayed(1, 0), source.frames())
    outer = FrameStream(Delayed(2, 0), inner)
    assert values(itertools.islice(outer, 10)) == [4 * number for number in range(10)]
    outer.close()
    assert source.closed


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


# What a source that fails leaves


class Ended(BaseException):
    """Ends a program, and is no Exception."""


def transfer_of(source: Frames, timeout: float | None = None) -> Transfer:
    clock = SourceClock(timeout_s=timeout)
    return Transfer(Delayed(1), source, capacity=2, drop_oldest=False, clock=clock)


def failing(error: BaseException) -> Iterator[object]:
    yield frame(0)
    raise error


def fail_to_close(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("closing", [False, True])
def test_what_is_no_exception_ends_the_stream_too(closing: bool) -> None:
    """Else the reader would be gone, and the caller wait for ever."""
    frames: Iterable[object] = [frame(0)] if closing else failing(Ended("now"))
    source = Frames(frames, lambda: fail_to_close(Ended("now")) if closing else None)
    transfer = transfer_of(source)
    assert transfer.take() is not None
    with pytest.raises(Ended, match="now"):
        transfer.take()
    assert transfer.take() is None
    transfer.close()


def test_a_source_that_fails_twice_tells_the_first_reason() -> None:
    source = Frames(failing(ValueError("first")), lambda: fail_to_close(ValueError("second")))
    transfer = transfer_of(source)
    assert transfer.take() is not None
    with pytest.raises(StreamError, match="frame 1: the source failed: ValueError: first"):
        transfer.take()
    transfer.close()


def test_a_frame_that_comes_after_its_time_is_not_read() -> None:
    late = threading.Event()

    def frames() -> Iterator[object]:
        late.wait(10)
        yield frame(0)

    transfer = transfer_of(Frames(frames()), timeout=0.1)
    with pytest.raises(StreamError, match=r"gave nothing for 0\.1 s"):
        transfer.take()
    late.set()
    assert eventually(lambda: our_threads() == [])
    found = transfer.statistics()
    assert (found.read, found.restored) == (0, 0)
    assert transfer.take() is None
    transfer.close()
