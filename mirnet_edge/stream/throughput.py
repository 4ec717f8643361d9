"""What a stream of frames did so far, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mirnet_edge.frame_path import PERCENTILES


@dataclass(frozen=True)
class StreamStatistics:
    """What a stream did so far; latency and rate over its last 1000 frames.

    Attributes:
        read, dropped, restored: numbers of frames.
        nonfinite: how many of the engine's values were NaN or infinite; see ``nan`` of `Restorer`.
        latency_p50_ms, latency_p90_ms, latency_p99_ms: percentiles of the time from leaving the
            source to being ready; None before the first frame.
        frames_per_second: of frames becoming ready; None before the second one.
    """

    read: int
    dropped: int
    restored: int
    nonfinite: int
    latency_p50_ms: float | None
    latency_p90_ms: float | None
    latency_p99_ms: float | None
    frames_per_second: float | None

    @classmethod
    def of(
        cls,
        read: int,
        dropped: int,
        restored: int,
        nonfinite: int,
        latest: Sequence[tuple[float, float]],
    ) -> StreamStatistics:
        """From the counts, and of the latest frames: (latency in ms, when ready in s)."""
        if not latest:
            return cls(read, dropped, restored, nonfinite, None, None, None, None)
        p50, p90, p99 = np.percentile([latency_ms for latency_ms, _ in latest], PERCENTILES)
        seconds = latest[-1][1] - latest[0][1]
        rate = (len(latest) - 1) / seconds if seconds > 0 else None
        latency = float(p50), float(p90), float(p99)
        return cls(read, dropped, restored, nonfinite, *latency, rate)
