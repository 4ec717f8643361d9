"""The portable engine against PyTorch, and what Restorer adds; bounds are asserted."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import footprint
import networks
import numpy as np
import pytest
import race

import mirnet_edge as me

MEGAPIXELS = 24
PHOTO_24_MP = (4000, 6000, 3)


def test_edge_s_512_against_its_peers(benchmark: Any, tmp_path: Path) -> None:
    """Peers take turns, each in a process of its own, on the same cores."""
    networks.export("edge-s", tmp_path)
    runs: dict[str, list[float]] = {}
    failed: dict[str, str] = {}

    def take_turns() -> None:
        given = [str(tmp_path), str(tmp_path / "record.json")]
        race.main([*given, "--device", "cpu", "--networks", "edge-s"])
        for found in json.loads((tmp_path / "record.json").read_text("utf-8"))["races"]:
            for row in found["rows"]:
                name = f"{found['peer']} {row['form']}"
                if "error" in row:
                    failed[name] = row["error"]
                else:
                    runs.setdefault(name, []).append(row["wall_ms"]["p50"])

    benchmark.pedantic(take_turns, rounds=3)
    milliseconds = {name: round(median(values), 1) for name, values in runs.items()}
    benchmark.extra_info |= {"network": "edge-s", "median_ms": milliseconds, "failed": failed}
    eager = min(ms for name, ms in milliseconds.items() if name.startswith("torch-eager fp32"))
    assert milliseconds["portable fp32"] <= 0.75 * eager, milliseconds


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
