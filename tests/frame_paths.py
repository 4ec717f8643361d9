"""What tests of streams share: frames that tell their number, sources that count what was taken, a
video, paths of known delay, and a look at the threads."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mirnet_edge.frame_path import Timings


def our_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("mirnet-edge")]


def frame(value: int) -> np.ndarray:
    return np.full((1, 2, 3), value, np.uint16)


def values(frames: Any) -> list[int]:
    return [int(image[0, 0, 0]) for image in frames]


def doubled(image: np.ndarray) -> np.ndarray:
    return image * 2


class OneByOne:
    """A frame path of a function that restores one frame at a time and returns a fresh array."""

    depth, timings = 1, Timings()

    def __init__(self, restore: Callable[[Any], Any]) -> None:
        self._restore = restore

    def submit(self, frame: Any, out: Any = None, progress: Any = None) -> Any:
        return self._restore(frame)

    def collect(self, ticket: Any) -> Any:
        return ticket


class Delayed:
    """Doubles frames in ``collect``, after a random time or ``delay_s``; checks its contract."""

    def __init__(self, depth: int, delay_s: float | None = None, fails: Any = None) -> None:
        self.depth, self._delay_s, self._fails = depth, delay_s, fails or {}
        self.timings = Timings()
        self._random = random.Random(depth)
        self.submitted: list[int] = []
        self.collected: list[int] = []
        self.threads: set[int] = set()
        self.most_in_flight = 0

    def submit(
        self, image: np.ndarray, out: Any = None, progress: Any = None
    ) -> tuple[int, np.ndarray]:
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


def mjpg_video(path: Path, images: Iterable[np.ndarray], fps: float = 12.5) -> Path:
    """A video of RGB images of 64 x 48 pixels, each a few levels off; skips where OpenCV cannot."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MJPG video")
    for image in images:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    return path


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
