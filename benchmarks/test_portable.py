"""The portable engine against PyTorch, and what Restorer adds; bounds are asserted."""

from __future__ import annotations

from statistics import median
from typing import Any

import footprint
import numpy as np
import peers
import pytest

import mirnet_edge as me

MEGAPIXELS = 24
PHOTO_24_MP = (4000, 6000, 3)


def test_edge_s_512_against_pytorch(benchmark: Any) -> None:
    """Peers take turns, each in a process of its own, on the same cores."""
    seconds: dict[str, list[float]] = {peer: [] for peer in peers.PEERS}

    def take_turns() -> None:
        for peer in peers.PEERS:
            seconds[peer] += peers.measure(peer, 512, runs=5)

    benchmark.pedantic(take_turns, rounds=3)
    milliseconds = {peer: round(1000 * median(values), 1) for peer, values in seconds.items()}
    ratio = milliseconds["portable"] / milliseconds["torch-eager"]
    benchmark.extra_info |= {"median_ms": milliseconds, "portable_over_eager": round(ratio, 3)}
    assert ratio <= 0.75, milliseconds


@pytest.mark.parametrize("arguments", [{}, {"blend": 16}], ids=["cut", "blend"])
def test_own_time_of_restorer_at_24_megapixels(benchmark: Any, arguments: dict[str, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, PHOTO_24_MP, np.uint8)
    out = np.empty_like(frame)
    restore = me.Restorer(me.FakeEngine(), tile=512, **arguments)
    benchmark.pedantic(restore, args=(frame, out), rounds=5, warmup_rounds=1)
    own = 1000 * benchmark.stats.stats.median / MEGAPIXELS
    benchmark.extra_info["ms_per_megapixel"] = round(own, 2)
    if not arguments:
        assert own <= 15, own


def test_peak_memory_of_photos(benchmark: Any) -> None:
    figures = {}

    def photos() -> None:
        for height, width in ((2000, 3000), (4000, 6000)):
            figures[f"{height * width // 10**6} MP"] = footprint.measure(height, width)

    benchmark.pedantic(photos, rounds=1)
    benchmark.extra_info |= figures
    small, large = (figures[name]["megabytes"] for name in ("6 MP", "24 MP"))
    assert large <= 400, figures
    assert abs(large - small) <= 0.1 * small, figures
