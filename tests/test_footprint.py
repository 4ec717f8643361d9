"""Memory and time that Restorer itself takes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from footprint import measure

import mirnet_edge as me


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_peak_memory_does_not_grow_with_the_photo() -> None:
    small, large = measure(600, 800), measure(1200, 1600)
    assert large["tiles"] > 2 * small["tiles"]
    assert large["megabytes"] <= 400
    # Four times the photo; the tiles that cover the small one with least to spare may be smaller.
    assert large["megabytes"] <= 1.4 * small["megabytes"], (small, large)


def test_own_time_around_a_no_op_engine() -> None:
    """Beside what no way to a network and back can spare: the frame's numbers as float32 of [0, 1],
    and those as codes; so that a slow machine, or a busy one, is slow for both."""
    frame = np.random.default_rng(0).integers(0, 256, (4000, 6000, 3), np.uint8)
    out = np.empty_like(frame)
    restore = me.Restorer(me.FakeEngine(), tile=512)
    own_ms, least_ms = [], []
    for _ in range(4):
        restore(frame, out=out)
        own_ms.append(restore.timings.total_ms)
        began = time.perf_counter()
        for top in range(0, len(frame), 500):
            values = frame[top : top + 500].astype(np.float32)
            values /= 255
            values *= 255
            np.rint(values, out=values)
            out[top : top + 500] = values.clip(0, 255, out=values)
        least_ms.append(1000 * (time.perf_counter() - began))
    assert min(own_ms) <= 2.5 * min(least_ms), (own_ms, least_ms)
