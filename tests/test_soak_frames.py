"""The fast share of `soak_frames`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soak_frames

import mirnet_edge as me


def test_frames_through_a_real_engine() -> None:
    found = soak_frames.portable(100)
    assert found["violations"] == []
    assert found["frames"] == 100


@pytest.mark.slow
def test_processes_begun_after_a_model_was_loaded() -> None:
    found = soak_frames.processes(1)
    assert (found["processes"], found["violations"]) == (6, [])


def test_what_grows_is_found() -> None:
    looks = [{"frame": n, "rss": 100 << 20, "descriptors": 9, "threads": 4} for n in range(10)]
    assert soak_frames.grown(looks) == []
    looks[-1]["descriptors"] += 1
    assert soak_frames.grown(looks) == ["descriptors: 9, then 10"]
    looks[-1] |= {"descriptors": 9, "rss": (100 << 20) + soak_frames.GROWTH_BYTES + 1}
    assert soak_frames.grown(looks) == ["rss: 104,857,600, then 106,954,753"]


def test_a_result_that_changes_is_found() -> None:
    class Drifting(me.FakeEngine):
        runs = 0

        def run(self, tiles: Any) -> Any:
            self.runs += 1
            return tiles * (1.0 if self.runs < 60 else 0.5)

    frames = [np.full((16, 16, 3), value, np.uint8) for value in (200, 100, 50)]
    with me.Restorer(Drifting()) as restorer:
        found = soak_frames.stream_through(restorer, frames, 100)
    assert found["violations"]
    assert all("differs from the first" in each for each in found["violations"])
