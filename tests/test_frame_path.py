"""Percentiles of the last frames."""

from __future__ import annotations

from mirnet_edge.frame_path import FRAMES_KEPT, LatencyRecord


def test_the_last_frames_are_told_even_after_the_ring_came_round() -> None:
    record = LatencyRecord()
    assert record.summary().frames == 0
    assert record.summary(5).engine.p99 == 0
    for number in range(FRAMES_KEPT + 7):
        record.add(engine=float(number), total=2.0)
    every, last = record.summary(), record.summary(9)
    assert (every.frames, last.frames) == (FRAMES_KEPT, 9)
    assert every.engine.p50 == 7 + (FRAMES_KEPT - 1) / 2
    assert last.engine.p50 == FRAMES_KEPT + 2
    assert (last.upload.p50, last.total.p99) == (0.0, 2.0)
