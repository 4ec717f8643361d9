"""The record of the CPU's engines, and the page that shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cpu
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (ROOT / "benchmarks" / "results" / "cpu.json").read_text("utf-8")
    )
    return found


def test_the_page_shows_the_record(record: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "cpu.md").read_text("utf-8")
    assert cpu.table(record) in page, "python benchmarks/cpu.py RECORD --table prints it"


def test_the_best_engine_is_as_fast_and_as_good_as_is_said(record: dict[str, Any]) -> None:
    portable, *others = record["models"]["edge-s-denoise"]
    good = [row for row in others if portable["psnr_db"] - row["psnr_db"] <= 0.05]
    best = min(row["cpu_of_portable"] for row in good)
    assert best <= 0.4, {row["engine"]: row["cpu_of_portable"] for row in good}
