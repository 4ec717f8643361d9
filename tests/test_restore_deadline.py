"""Engines that hang or fail, and processes that fork: each ends in an error that says why."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from command_line import ENVIRONMENT

import mirnet_edge as me
from mirnet_edge.deadline import Deadline
from mirnet_edge.errors import EngineError, StreamError

FRAME = np.zeros((24, 40, 3), np.uint8)
SOON_S = 5.0


class Hanging(me.FakeEngine):
    """Hangs from the given call on, until it is released."""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        self.at, self.calls = at, 0
        self.released, self.entered = threading.Event(), threading.Event()

    def run(self, tiles: Any) -> Any:
        self.calls += 1
        if self.calls > self.at:
            self.entered.set()
            self.released.wait(60)
        return super().run(tiles)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    engine = Hanging()
    yield engine
    engine.released.set()
    ends = time.monotonic() + SOON_S
    while ours() and time.monotonic() < ends:
        time.sleep(0.01)
    assert ours() == set(), "threads that were released are still there"


def ours() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("mirnet")}


# An engine that hangs


def test_a_frame_has_a_time_limit(hanging: Hanging) -> None:
    began = time.monotonic()
    with me.Restorer(hanging, timeout=0.2) as restore:
        with pytest.raises(EngineError, match=r"no answer from the engine within 0\.2 s; make a"):
            restore(FRAME)
        with pytest.raises(EngineError, match="an engine of this Restorer hangs; make a new one"):
            restore(FRAME)
    assert time.monotonic() - began < SOON_S, "closing waited for what hangs"


def test_a_stream_names_the_frame_that_hangs(hanging: Hanging) -> None:
    hanging.at = 2
    restored: list[np.ndarray] = []
    with me.Restorer(hanging, timeout=0.3) as restore:
        stream = restore.stream([FRAME] * 5)
        with pytest.raises(EngineError, match=r"^frame 2: no answer from the engine within 0\.3 s"):
            restored.extend(stream)
        assert stream.statistics().restored == 2


def test_what_comes_in_time_is_as_without_a_limit(tiny_onnx: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    told: dict[str, list[tuple[int, int]]] = {"with": [], "without": []}
    caller = threading.current_thread()

    def progress(name: str) -> Any:
        def heard(done: int, total: int) -> None:
            assert threading.current_thread() is caller
            told[name].append((done, total))

        return heard

    settings = {"tile": 48, "halo": 8, "threads": 1}
    with me.Restorer(tiny_onnx, **settings) as free:
        expected = free(image, progress=progress("without"))
    with me.Restorer(tiny_onnx, timeout=60, **settings) as limited:
        np.testing.assert_array_equal(limited(image, progress=progress("with")), expected)
        np.testing.assert_array_equal(next(limited.stream([image])), expected)
    assert told["with"] == told["without"] != []
    assert ours() == set()


def test_progress_may_close_and_may_raise() -> None:
    restore = me.Restorer(me.FakeEngine(), tile=32, halo=4, timeout=60)
    image = np.zeros((64, 64, 3), np.uint8)

    def stop(done: int, total: int) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        restore(image, progress=stop)
    restore(image, progress=lambda done, total: restore.close())
    with pytest.raises(EngineError, match="closed"):
        restore(image)


def test_ctrl_c_ends_the_wait_and_the_call() -> None:
    restore = me.Restorer(me.FakeEngine(), tile=32, halo=4, timeout=60)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(np.zeros((64, 64, 3), np.uint8), progress=interrupt)
    assert restore(FRAME).shape == FRAME.shape
    restore.close()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True])
def test_time_limits_that_are_none(timeout: Any) -> None:
    with pytest.raises(EngineError, match=r"timeout=.*: need seconds, more than 0, or None"):
        Deadline(timeout)


def test_closing_does_not_wait_for_ever(hanging: Hanging) -> None:
    restore = me.Restorer(hanging)
    threading.Thread(target=restore, args=(FRAME,), daemon=True).start()
    assert hanging.entered.wait(SOON_S)
    with pytest.raises(EngineError, match=r"a frame is still being restored after 0\.1 s"):
        restore.close(timeout=0.1)
    hanging.released.set()
    restore.close(timeout=SOON_S)
    restore.close()


def test_closing_a_stream_does_not_wait_for_ever(hanging: Hanging) -> None:
    restore = me.Restorer(hanging)
    stream = restore.stream([FRAME] * 2)
    threading.Thread(target=lambda: next(stream, None), daemon=True).start()
    assert hanging.entered.wait(SOON_S)
    with pytest.raises(StreamError, match=r"a frame is still being restored after 0\.1 s; do not"):
        stream.close(timeout=0.1)
    hanging.released.set()
    stream.close(timeout=SOON_S)
    restore.close()


# An engine that fails


@pytest.mark.parametrize("kind", [ZeroDivisionError, OSError, MemoryError, AssertionError])
def test_an_engines_own_exception_is_translated(kind: type[Exception]) -> None:
    class Failing(me.FakeEngine):
        def run(self, tiles: Any) -> Any:
            raise kind("deep inside")

    with (
        me.Restorer(Failing()) as restore,
        pytest.raises(EngineError, match=rf"Failing failed on .*{kind.__name__}: deep") as raised,
    ):
        restore(FRAME)
    assert isinstance(raised.value.__cause__, kind)


# Forks

FORKED = """
import os, sys, threading, warnings
import numpy as np
import mirnet_edge as me

warnings.simplefilter("ignore")
frame = np.zeros((24, 40, 3), np.uint8)

class Slow(me.FakeEngine):
    def run(self, tiles):
        entered.set()
        leave.wait(60)
        return super().run(tiles)

entered, leave = threading.Event(), threading.Event()
restorer = me.Restorer(Slow())
stream = restorer.stream([frame] * 3)
thread = threading.Thread(target=restorer, args=(frame,))
thread.start()
entered.wait(60)
child = os.fork()
if not child:
    said = []
    for call in (lambda: restorer(frame), lambda: next(stream)):
        try:
            call()
        except me.MirnetEdgeError as error:
            said.append(str(error))
    restorer.close()
    stream.close()
    assert len(said) == 2 and all("forked from it" in text for text in said), said
    print(said[0], flush=True)
    sys.exit(7)
leave.set()
thread.join()
restorer.close()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_is_told_and_does_not_hang() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 7, done.stderr
    assert "make a Restorer in each process, or start processes with the method" in done.stdout


def test_a_forked_process_takes_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that happens to be free, too: the threads that it is there for are gone."""
    deadline, lock = Deadline(None), threading.RLock()
    with deadline.entering(lock):
        pass
    here = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: here + 1)
    with pytest.raises(EngineError, match="forked from it"), deadline.entering(lock):
        raise AssertionError("entered")
