"""Where the time of the last frames went, part by part, as percentiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PARTS = ("upload", "queue", "pre", "engine", "post", "download", "total")
FRAMES_KEPT = 1000
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Percentiles:
    """Of one part of a frame's time, in milliseconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Latency:
    """Percentiles over the last frames, `FRAMES_KEPT` at most.

    Attributes:
        frames: how many they are.
        upload: copying the frame to the device; 0 where it is there already, or on the host.
        queue: waiting on the device for earlier frames.
        pre: frame to tiles.
        engine: in the engine.
        post: tiles to frame, seams included.
        download: copying the frame from the device.
        total: from giving the frame to having it, the copies on the host included. In a stream,
            frames overlap: their totals add up to more than the time of the stream.
    """

    frames: int
    upload: Percentiles
    queue: Percentiles
    pre: Percentiles
    engine: Percentiles
    post: Percentiles
    download: Percentiles
    total: Percentiles


class LatencyRecord:
    """Keeps the parts of the last frames in memory that is allocated once."""

    def __init__(self) -> None:
        self._kept = np.zeros((FRAMES_KEPT, len(PARTS)))
        self._frames = 0

    def add(self, **parts_ms: float) -> None:
        """One frame; parts that are not given took no time."""
        row = self._kept[self._frames % FRAMES_KEPT]
        for index, part in enumerate(PARTS):
            row[index] = parts_ms.get(part, 0.0)
        self._frames += 1

    def summary(self, frames: int | None = None) -> Latency:
        """Of the last ``frames``, as far as they are kept; None for all. Zeros before the first."""
        count = min(self._frames, FRAMES_KEPT if frames is None else frames, FRAMES_KEPT)
        latest = np.arange(self._frames - max(count, 1), self._frames) % FRAMES_KEPT
        columns = np.percentile(self._kept[latest], PERCENTILES, axis=0).T.tolist()
        return Latency(count, *(Percentiles(*column) for column in columns))
