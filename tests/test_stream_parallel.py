"""Several paths as one: order, how far ahead the fast ones go, turns, homes and failures."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import numpy as np
import pytest
from frame_paths import doubled, eventually, frame, our_threads, values

import mirnet_edge as me
from mirnet_edge.frame_path import Timings, Turn
from mirnet_edge.stream.frame_stream import FrameStream
from mirnet_edge.stream.parallel import AHEAD, ParallelPath

LONG_S = 60


class Slot:
    """A path of depth 2 that doubles frames; ``gate`` holds it while it collects."""

    depth, timings = 2, Timings()

    def __init__(self, device: int, gate: threading.Event | None = None, fails: Any = None) -> None:
        self.device, self._gate, self._fails = device, gate, fails or {}
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.most_in_flight = 0

    def submit(self, image: np.ndarray, turn: Turn) -> np.ndarray:
        number = int(image[0, 0, 0])
        if ("submit", number) in self._fails:
            raise self._fails["submit", number]
        turn.wait()
        self.begun.append(number)
        self.most_in_flight = max(self.most_in_flight, len(self.begun) - len(self.ended))
        return image

    def collect(self, image: np.ndarray) -> np.ndarray:
        number = int(image[0, 0, 0])
        if self._gate is not None:
            assert self._gate.wait(LONG_S)
        self.ended.append(number)
        if ("collect", number) in self._fails:
            raise self._fails["collect", number]
        return doubled(image)


def streamed(path: ParallelPath, count: int, **options: Any) -> FrameStream:
    return FrameStream(path, map(frame, range(count)), **options)


@pytest.mark.parametrize("options", [{}, {"in_turn": True}, {"in_turn": True, "lag": 6}])
def test_frames_come_in_their_order_each_once(options: dict[str, Any]) -> None:
    paths = [Slot(device) for device in range(3)]
    parallel = ParallelPath(paths, **options)
    assert parallel.depth == AHEAD * 6
    assert values(streamed(parallel, 50)) == list(range(0, 100, 2))
    assert sorted(number for path in paths for number in path.begun) == list(range(50))
    assert max(path.most_in_flight for path in paths) <= 2
    assert eventually(lambda: not our_threads())


def test_a_path_that_is_slow_is_waited_for_once_the_others_are_far_ahead() -> None:
    gate = threading.Event()
    slow, fast = Slot(0, gate), Slot(1)
    path = ParallelPath([slow, fast])
    jobs = deque(path.submit(frame(number)) for number in range(path.depth))
    assert eventually(lambda: len(slow.begun) + len(fast.ended) == path.depth)
    assert len(slow.begun) <= slow.depth
    assert len(fast.ended) >= path.depth - slow.depth
    gate.set()
    assert values(path.collect(job) for job in jobs) == [2 * n for n in range(path.depth)]
    path.end()


def test_frames_are_begun_in_turn_and_behind_by_the_lag() -> None:
    lock, log = threading.Lock(), []

    class Noted(Slot):
        def submit(self, image: np.ndarray, turn: Turn) -> np.ndarray:
            turn.wait()
            with lock:
                log.append(("begin", int(image[0, 0, 0])))
            turn.end()
            return super().submit(image, turn)

        def collect(self, image: np.ndarray) -> np.ndarray:
            found = super().collect(image)
            with lock:
                log.append(("end", int(image[0, 0, 0])))
            return found

    path = ParallelPath([Noted(0), Noted(1)], in_turn=True, lag=4)
    assert values(streamed(path, 40)) == list(range(0, 80, 2))
    begun = [number for what, number in log if what == "begin"]
    assert begun == list(range(40))
    for number in range(4, 40):
        done = {n for what, n in log[: log.index(("begin", number))] if what == "end"}
        assert done >= set(range(number - 3)), number


def test_a_frame_of_a_device_goes_to_its_path() -> None:
    paths = [Slot(0), Slot(1)]

    def home_of(image: Any) -> int | None:
        return (None, 1, 7)[int(image[0, 0, 0]) % 3]

    path = ParallelPath(paths, home_of, in_turn=True)
    assert values(streamed(path, 30)) == list(range(0, 60, 2))
    assert set(range(1, 30, 3)) <= set(paths[1].begun)


@pytest.mark.parametrize("step", ["submit", "collect"])
@pytest.mark.parametrize("options", [{}, {"in_turn": True, "lag": 4}])
def test_a_path_that_fails_ends_the_stream_behind_the_frames_before(
    step: str, options: dict[str, Any]
) -> None:
    fails = {(step, 7): me.DeviceError("lost")}
    path = ParallelPath([Slot(0, fails=fails), Slot(1, fails=fails)], **options)
    stream = streamed(path, 40)
    assert [int(next(stream)[0, 0, 0]) for _ in range(7)] == list(range(0, 14, 2))
    with pytest.raises(me.DeviceError, match="frame 7: lost"):
        next(stream)
    assert eventually(lambda: not our_threads())


def test_what_is_closed_early_leaves_no_thread() -> None:
    stream = streamed(ParallelPath([Slot(0), Slot(1)]), 1000, queue=4)
    next(stream)
    stream.close()
    assert eventually(lambda: not our_threads())


def test_low_latency_has_one_frame_at_a_time() -> None:
    paths = [Slot(0), Slot(1)]
    parallel = ParallelPath(paths)
    stream = FrameStream(parallel, [frame(1)], latency="low")
    assert values(stream) == [2]
    assert [path.most_in_flight for path in paths] in ([1, 0], [0, 1])
