"""Memory and time that Restorer itself takes."""

from __future__ import annotations

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
    frame = np.random.default_rng(0).integers(0, 256, (4000, 6000, 3), np.uint8)
    out = np.empty_like(frame)
    restore = me.Restorer(me.FakeEngine(), tile=512)
    milliseconds = []
    for _ in range(4):
        restore(frame, out=out)
        milliseconds.append(restore.timings.total_ms)
    assert min(milliseconds) / 24 <= 15, milliseconds
