"""The race of peers: whatever happens to one of them, the record has a row for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import race


def run(folder: Path, *options: str) -> dict[str, dict[str, Any]]:
    """The rows of a race on the CPU by peer and form."""
    record = folder / "record.json"
    given = [str(folder), str(record), "--device", "cpu", "--networks", "edge-xs"]
    race.main([*given, "--shapes", "1x32x48", *options])
    found = json.loads(record.read_text(encoding="utf-8"))
    assert found["schema"] == race.SCHEMA
    return {f"{one['peer']} {row['form']}": row for one in found["races"] for row in one["rows"]}


def test_a_peer_that_fails_is_a_row(tmp_path: Path) -> None:
    rows = run(tmp_path, "--peers", "portable", "no-such-peer")
    assert "edge-xs.onnx" in rows["portable fp32"]["error"], "no graph was exported"
    assert "no-such-peer" in rows["no-such-peer "]["error"]


def test_a_python_that_is_missing_is_a_row(tmp_path: Path) -> None:
    rows = run(tmp_path, "--peers", "torch-eager", "--torch-python", str(tmp_path / "python"))
    assert "does not start: No such file" in rows["torch-eager "]["error"]


def test_what_time_does_not_suffice_for_is_a_row(tmp_path: Path) -> None:
    assert "minutes of the race were over" in run(tmp_path, "--minutes", "0")["portable "]["error"]


def test_a_form_is_measured_once(tmp_path: Path) -> None:
    options = "--peers", "torch-eager", "--forms", "1"
    first = run(tmp_path, *options)
    (row,) = first.values()
    assert list(first) == ["torch-eager fp32 channels-last"]
    assert row["runs"] >= 20
    assert 0 < row["wall_ms"]["p50"] <= row["wall_ms"]["p90"] <= row["wall_ms"]["p99"]
    assert run(tmp_path, *options, "--keep", "--minutes", "0") == first
