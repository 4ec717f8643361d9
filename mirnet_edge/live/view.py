"""A live view: a source, the model that restores it, and the newest pair of frames.

    feed's thread: source → take → inbox → restorer's thread: Restorer.stream → newest pair
                             └── bypassed, or no model ready ───────────────────┘

Whoever looks takes the newest pair when it likes: a slow viewer skips frames and holds up nothing.
"""

from __future__ import annotations

import logging
import queue
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mirnet_edge.errors import (
    DeviceError,
    DeviceLostError,
    MirnetEdgeError,
    StreamError,
    first_line,
)
from mirnet_edge.frame_path import PARTS, told_nonfinite
from mirnet_edge.live.feed import FIRST_WAIT_S, KEPT, Feed, LiveSource
from mirnet_edge.live.keeping import Keeping
from mirnet_edge.live.machine import Machine
from mirnet_edge.live.pictures import Pair
from mirnet_edge.live.settings import CHOICES, Settings
from mirnet_edge.restore import Restorer
from mirnet_edge.stream.transfer import StreamFrame

log = logging.getLogger(__name__)
RATE_S = 2.0
"""Frame rates are those of the last so many seconds."""
RETRY_S = 5.0
"""After which a model that failed is tried again."""
TIMEOUT_S = 10.0


class Rate:
    """Counts frames, and how many there were a second."""

    def __init__(self) -> None:
        self.count = 0
        self._times: deque[float] = deque(maxlen=1000)

    def add(self) -> None:
        """One frame, now."""
        self.count += 1
        self._times.append(time.monotonic())

    def per_second(self) -> float:
        """Of the last `RATE_S` seconds."""
        now = time.monotonic()
        return sum(now - moment <= RATE_S for moment in list(self._times)) / RATE_S


class LiveView:
    """Restores a source until it is closed, and keeps the newest pair.

    Args:
        source: see `live_source`.
        settings: to begin with; its model is a key of ``models``.
        models: by name, what `Restorer` takes.
        folder: for snapshots and frames for calibration; made with the first of them.
        restoring: further options of `Restorer`.
        timeout_s: after which a source that gives nothing has failed, and is opened again.
        first_wait_s: before it is; twice as long each time, `LONGEST_WAIT_S` at most.
        machine: told in `state`.

    Attributes:
        gone: why this process has no device any more, where that is so.

    Raises:
        MirnetEdgeError: the source cannot be opened. What fails later is told in `state`, and tried
            again.
    """

    def __init__(
        self,
        source: LiveSource,
        settings: Settings,
        models: Mapping[str, Any],
        folder: Path,
        *,
        restoring: Mapping[str, Any] | None = None,
        timeout_s: float = TIMEOUT_S,
        first_wait_s: float = FIRST_WAIT_S,
        machine: Machine | None = None,
    ) -> None:
        self.source, self._models, self._restoring = source, models, dict(restoring or {})
        self.settings = settings
        self.keeping = Keeping(folder)
        self._machine = Machine() if machine is None else machine
        self._changed = threading.Condition()
        self._closed = False
        self.gone: DeviceLostError | None = None
        self._inbox: queue.SimpleQueue[tuple[int, NDArray[Any]] | None] | None = None
        self._stream_dropped = self._earlier_dropped = 0
        self._newest: Pair | None = None
        self._read, self._shown, self._restored = Rate(), Rate(), Rate()
        self._nonfinite = 0
        self._model: dict[str, Any] = {"state": "loading", "message": ""}
        self._parts: dict[str, float] = {}
        self._show_ms: deque[float] = deque(maxlen=KEPT)
        self._latency_ms: deque[float] = deque(maxlen=KEPT)
        self._feed = Feed(source, self._take, timeout_s=timeout_s, first_wait_s=first_wait_s)
        self._worker = threading.Thread(
            target=self._restore_all, name="mirnet-edge live", daemon=True
        )
        self._feed.start()
        self._worker.start()

    def close(self) -> None:
        """Stop, and wait for what runs; a second call does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._end_inbox()
        self._feed.stop()
        self._worker.join()
        self.keeping.close()

    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Who looks

    @property
    def closed(self) -> bool:
        """Whether no frame will come any more."""
        return self._closed

    def newest(self, after: int = -1, timeout_s: float | None = None) -> Pair | None:
        """The newest pair, once there is one of a later frame than ``after``; None where there is
        none in time, or the view is closed."""

        def ready() -> bool:
            return self._closed or (self._newest is not None and self._newest.number > after)

        with self._changed:
            found = self._changed.wait_for(ready, timeout_s)
            return self._newest if found and not self._closed else None

    def note_shown(self, milliseconds: float) -> None:
        """Note how long it took to make the newest pair visible."""
        self._show_ms.append(milliseconds)

    def change(self, changes: object) -> None:
        """Set what `Settings` names, from the next frame on; a model or statistics after they are
        loaded.

        Raises:
            ConfigError: there is no such setting, or value of it.
        """
        with self._changed:
            before, self.settings = self.settings, self.settings.changed(changes, self._models)
            self._changed.notify_all()
            if self._is_over(before):
                self._end_inbox()

    def snapshot(self) -> tuple[Path, Path]:
        """Keep the newest pair.

        Raises:
            StreamError: there was no frame yet.
            OutputError: it cannot be written.
        """
        pair = self._newest
        if pair is None:
            raise StreamError(f"{self.source.name} gave no frame yet; wait for its first")
        return self.keeping.snapshot(pair)

    def state(self) -> dict[str, Any]:
        """All that a page shows, as JSON has it."""
        feed = self._feed.state
        with self._changed:
            size = None if self._newest is None else self._newest.before.shape[1::-1]
            dropped = self._earlier_dropped + self._stream_dropped
        return {
            "source": {"name": self.source.name, **asdict(feed), "size": size,
                       "rate": self._read.per_second()},
            "model": {"name": self.settings.model, **self._model},
            "rate": self._shown.per_second(),
            "latency": self._latency(),
            "latency_ms": _median(self._latency_ms) if self._is_restoring() else None,
            "frames": {"read": self._read.count, "dropped": dropped,
                       "restored": self._restored.count, "nonfinite": self._nonfinite},
            "machine": self._machine.state(),
            "settings": asdict(self.settings),
            "choices": {"models": list(self._models), "statistics": list(CHOICES)},
            "kept": self.keeping.state(),
        }  # fmt: skip

    def _is_restoring(self) -> bool:
        return self._inbox is not None and not self.settings.bypass and bool(self._latency_ms)

    def _latency(self) -> dict[str, float]:
        """Of the parts that frames go through now."""
        parts = self._parts if self._is_restoring() else {}
        return {"capture": self._feed.capture_ms, **parts, "show": _median(self._show_ms)}

    # The feed's thread

    def _take(self, frame: NDArray[Any]) -> None:
        with self._changed:
            number = self._read.count
            self._read.add()
            if self._inbox is not None and not self.settings.bypass:
                self._inbox.put((number, frame))
            else:
                self._show(Pair(number, frame, frame))
        self.keeping.offer(frame)

    def _show(self, pair: Pair) -> None:
        # After a change of settings a frame that was restored may come behind one that was not.
        with self._changed:
            if self._newest is None or pair.number > self._newest.number:
                self._newest = pair
                self._shown.add()
                self._changed.notify_all()

    # The restorer's thread

    def _restore_all(self) -> None:
        while not self._closed:
            asked = self.settings
            self._model = {"state": "loading", "message": ""}
            restorer = None
            try:
                with self._opened(asked) as restorer:
                    self._restore(restorer, asked)
            except Exception as error:
                ours = isinstance(error, MirnetEdgeError)
                text = str(error) if ours else f"{type(error).__name__}: {first_line(error)}"
                self._model = {"state": "failed", "message": text}
                if restorer is not None and isinstance(error, DeviceError):
                    try:  # a GPU that is lost
                        restorer.reopen()
                        restorer.close()
                    except DeviceLostError as gone:
                        self.gone = gone
                    except MirnetEdgeError:
                        pass  # it is tried later
                with self._changed:
                    self._changed.wait_for(partial(self._is_over, asked), RETRY_S)

    def _opened(self, asked: Settings) -> Restorer:
        restorer = Restorer(
            self._models[asked.model],
            statistics=asked.statistics,
            nan="zero",
            **self._restoring,
        )
        self._tell_noise(restorer, asked)
        return restorer

    @staticmethod
    def _tell_noise(restorer: Restorer, settings: Settings) -> None:
        if restorer.facts.noise_level and restorer.noise != settings.noise:
            restorer.noise = settings.noise

    def _restore(self, restorer: Restorer, asked: Settings) -> None:
        """Restore what comes, until other settings are asked for that need another restorer."""
        inbox: queue.SimpleQueue[tuple[int, NDArray[Any]] | None] = queue.SimpleQueue()
        given: dict[int, tuple[int, NDArray[Any]]] = {}

        def frames() -> Iterator[NDArray[Any]]:
            index = dropped = 0
            while (item := inbox.get()) is not None:
                given[index] = item
                yield item[1]
                # One waits at most: that a frame was dropped for this one means the one before.
                if stream.dropped > dropped:
                    dropped = stream.dropped
                    self._stream_dropped = dropped
                    del given[index - 1]
                index += 1

        stream = restorer.stream(frames(), queue=1, drop="oldest")
        facts = restorer.facts
        self._latency_ms.clear()
        self._model = {
            "state": "running",
            "message": "",
            "scale": facts.scale,
            "takes_noise": facts.noise_level,
        }
        with self._changed:
            self._inbox = inbox
            if self._is_over(asked):
                self._end_inbox()
        try:
            for frame in stream.frames():
                number, before = given.pop(frame.index)
                self._note(restorer, frame)
                self._show(
                    Pair(number, before, frame.image, self.settings.strength, frame.latency_ms)
                )
                self._tell_noise(restorer, self.settings)
        finally:
            with self._changed:
                self._end_inbox()
            inbox.put(None)  # for the thread that reads it, where the stream failed
            self._earlier_dropped += stream.dropped
            self._stream_dropped = 0

    def _note(self, restorer: Restorer, frame: StreamFrame) -> None:
        self._restored.add()
        if frame.nonfinite and not self._nonfinite:
            log.warning("%s: %s", self.settings.model, told_nonfinite(frame.nonfinite))
        self._nonfinite += frame.nonfinite
        self._latency_ms.append(frame.latency_ms)
        found = restorer.latency(KEPT)
        parts = {name: getattr(found, name).p50 for name in PARTS if name not in ("queue", "total")}
        waited_ms = max(0.0, _median(self._latency_ms) - sum(parts.values()))
        self._parts = {"queue": waited_ms, **parts}
        self._model = {
            **self._model,
            "noise": restorer.timings.noise,
            "tiles": restorer.timings.tiles,
        }

    def _is_over(self, asked: Settings) -> bool:
        wanted = self.settings
        is_same = (wanted.model, wanted.statistics) == (asked.model, asked.statistics)
        return self._closed or not is_same

    def _end_inbox(self) -> None:
        if self._inbox is not None:
            self._inbox.put(None)
            self._inbox = None


def _median(values: deque[float]) -> float:
    latest = list(values)
    return statistics.median(latest) if latest else 0.0
