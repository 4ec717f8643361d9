"""A source that is read for as long as a view is open: again when it ends, again when it fails."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.bundled import PHOTO
from mirnet_edge.errors import MirnetEdgeError, StreamError, first_line
from mirnet_edge.frame_path import Timings
from mirnet_edge.frames.images import SUFFIXES, read_image
from mirnet_edge.stream.cameras import Camera, Frames
from mirnet_edge.stream.frame_stream import FrameStream
from mirnet_edge.stream.sources import open_source

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 10.0
"""Before a source is opened again; twice as long each time that this fails."""
STILLS_A_SECOND = 2.0
TEST = "test"
TEST_SIZE, TEST_RATE, TEST_SIGMA = (270, 360), 15.0, 25.0
REPEAT_S = 0.04
"""Between the last frame of a file and its first: a video of one frame must not take a core."""
AS_THEY_COME = ("rtsp://", "rtsps://", "rtp://", "udp://", "srt://", "rtmp://", "rtmps://")
"""Sources at whose own pace frames come: held to their timestamps, they would for ever stay as late
as the first was."""
KEPT = 20
"""Times that the figures are taken over."""
Take = Callable[[NDArray[Any]], object]


@dataclass(frozen=True)
class LiveSource:
    """What is shown, and how it is opened.

    Attributes:
        name: for people.
        open: makes what `FrameStream` takes, each time it is called; raises a MirnetEdgeError where
            that cannot be.
        rate: frames a second of a source whose frames have no timestamps of their own.
        is_paced: whether it is held to its timestamps, as what can be read faster.
    """

    name: str
    open: Callable[[], object]
    rate: float | None = None
    is_paced: bool = True


def live_source(
    name: str,
    *,
    size: tuple[int, int] | None = None,
    rate: float | None = None,
    timeout_s: float | None = None,
) -> LiveSource:
    """What a user named.

    Args:
        name: "test", the bundled photo with noise on it; a camera's number; else as `open_source`.
        size, rate: (height, width) and frames a second of a camera or the test picture.
        timeout_s: after which a network source that gives nothing has stopped.

    Raises:
        StreamError: size or rate of a source that has its own.
    """
    if name == TEST:
        return LiveSource(
            "test picture", lambda: wandering_photo(size or TEST_SIZE), rate or TEST_RATE
        )
    if name.isdecimal() or name.startswith("/dev/"):
        height, width = size or (None, None)
        camera = Camera(int(name) if name.isdecimal() else name, width, height, rate)
        label = f"camera {name}" if name.isdecimal() else name
        return LiveSource(label, lambda: open_source(camera))
    if size is not None or rate is not None:
        raise StreamError(f"{name}: size and rate are those it has; only cameras can be set")
    path = Path(name)
    stills = path.is_dir() or path.suffix.lower() in SUFFIXES
    return LiveSource(
        name,
        lambda: open_source(name, timeout=timeout_s),
        STILLS_A_SECOND if stills else None,
        is_paced=not name.lower().startswith(AS_THEY_COME),
    )


def wandering_photo(size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """The bundled photo, wandering over (height, width) pixels, under noise that changes; without
    an end."""
    photo = read_image(PHOTO).pixels.astype(np.int16)
    height, width = size
    # Larger frames show the photo several times, mirrored so that no edge is seen.
    reach = [2 * max(0, want + 16 - have) for want, have in zip(size, photo.shape)]
    photo = np.pad(photo, ((0, reach[0]), (0, reach[1]), (0, 0)), mode="symmetric")
    # Drawing noise anew takes longer than restoring may; shifted, a frame of it looks as new.
    random = np.random.default_rng(0)
    noise = np.rint(random.normal(0, TEST_SIGMA, (height + 64, width + 64, 3))).astype(np.int16)
    room = photo.shape[0] - height, photo.shape[1] - width
    for step in itertools.count():
        top, left = (_to_and_fro(step // slow, most) for slow, most in zip((3, 2), room))
        down, right = random.integers(0, 64, 2)
        picture = photo[top : top + height, left : left + width]
        noisy = picture + noise[down : down + height, right : right + width]
        yield np.clip(noisy, 0, 255).astype(np.uint8)


def _to_and_fro(step: int, most: int) -> int:
    return abs((step + most) % (2 * most) - most) if most else 0


class _Through:
    """A path that leaves frames as they are: a stream of it reads, paces and watches a source."""

    depth, timings = 1, Timings()

    def submit(self, frame: Any, out: object = None, progress: object = None) -> Any:
        del out, progress
        return frame

    def collect(self, ticket: Any) -> Any:
        return ticket


@dataclass(frozen=True)
class FeedState:
    """How a source is: "opening", "running" or "lost", with why, and how often it was lost."""

    state: str = "opening"
    message: str = ""
    lost: int = 0


class Feed:
    """Reads a source in a thread of its own.

    Args:
        source: opened by `start`, and again when it ends or fails, each time later.
        take: called with each frame; returns soon.
        timeout_s: after which a source that gives nothing has failed.
        first_wait_s: before it is opened again.
    """

    def __init__(
        self,
        source: LiveSource,
        take: Take,
        *,
        timeout_s: float | None = None,
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        self._source, self._take = source, take
        self._timeout_s, self._first_wait_s = timeout_s, first_wait_s
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._stream: FrameStream | None = None
        self._capture_ms: deque[float] = deque(maxlen=KEPT)
        self.state = FeedState()
        self._thread = threading.Thread(target=self._run, name="mirnet-edge feed", daemon=True)

    def start(self) -> None:
        """Open the source, and read it from now on.

        Raises:
            MirnetEdgeError: it cannot be opened; later failures are told in `state`.
        """
        self._open()
        self._thread.start()

    def stop(self) -> None:
        """Stop reading, and wait until that is done; a second call does nothing."""
        self._stopped.set()
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.close()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def capture_ms(self) -> float:
        """The median time that the source took for a frame, waiting for it included."""
        latest = list(self._capture_ms)
        return statistics.median(latest) if latest else 0.0

    def _open(self) -> None:
        frames = self._source.open()
        rate = self._source.rate
        stream = FrameStream(
            _Through(),
            self._measured(frames),
            queue=1,
            drop="oldest",
            pace="source" if self._source.is_paced else "free",
            timestamps=None if rate is None else (number / rate for number in itertools.count()),
            timeout=self._timeout_s,
        )
        with self._lock:
            self._stream = stream
        if self._stopped.is_set():  # meanwhile, by who found no stream to close
            stream.close()

    def _measured(self, frames: object) -> Iterator[object]:
        """The same frames; how long each took is noted."""
        opened: Iterable[object] = frames if isinstance(frames, Iterable) else open_source(frames)
        try:
            found = iter(opened)
            while True:
                asked = time.monotonic()
                try:
                    item = next(found)
                except StopIteration:
                    return
                self._capture_ms.append(1000 * (time.monotonic() - asked))
                yield item
        finally:
            if isinstance(opened, Frames):
                opened.close()

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            wait_s = REPEAT_S
            try:
                if self._stream is None:
                    self._open()
                self._read_on()
                failures = 0
            except Exception as error:
                if self.state.state == "running":  # it came back after the last time
                    failures = 0
                wait_s = min(self._first_wait_s * 2**failures, LONGEST_WAIT_S)
                failures += 1
                self._note_lost(error)
            self._stream = None
            self._stopped.wait(wait_s)

    def _read_on(self) -> None:
        """Read the open stream to its end; StreamError where nothing is in it."""
        stream, found = self._stream, False
        assert stream is not None
        for frame in stream.frames():
            if not found:
                self.state = FeedState("running", "", self.state.lost)
                found = True
            self._take(frame.image)
        if not found and not self._stopped.is_set():
            raise StreamError(f"{self._source.name} gave no frame; is it whole?")

    def _note_lost(self, error: Exception) -> None:
        message = str(error)
        if not isinstance(error, MirnetEdgeError):
            message = f"{type(error).__name__}: {first_line(error)}"
        lost = self.state.lost + (self.state.state != "lost")
        self.state = FeedState("lost", message, lost)
