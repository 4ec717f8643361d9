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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from frame_paths import Counted, Delayed, eventually, frame, our_threads, values

from mirnet_edge.stream.frame_stream import FrameStream


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
from frame_paths import OneByOne
from mirnet_edge.stream.frame_stream import FrameStream
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
