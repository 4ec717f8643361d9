"""The tables that are made of records: what they take of new ones."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import gpu_tables
import pytest
import summary_table
import tables

GPU = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the records, for more to be put there."""
    folder = tmp_path / "results"
    shutil.copytree(gpu_tables.RESULTS, folder)
    for module in (gpu_tables, summary_table, tables):
        monkeypatch.setattr(module, "RESULTS", folder)
    return folder


def write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def race(peer: str, form: str, ms: float) -> dict[str, Any]:
    row = {"form": form, "wall_ms": {"p50": 9.0}, "device_ms": {"p50": ms}}
    return {"network": "edge-s", "shape": [1, 1088, 1920], "peer": peer, "gpu": GPU, "rows": [row]}


def test_the_summary_names_the_fastest_peer_of_a_race(results: Path) -> None:
    forms = [race("ours", "FP16", 2.5), race("tensorrt", "fp16", 2.4), race("torch-graph", "x", 3)]
    (results / "h100-tensorrt-8.6.0" / "race.json").unlink()
    write(results / "new" / "race.json", {"races": forms})
    row = summary_table.summary_table().splitlines()[-1]
    assert "**2.50 ms** (`edge-s`, TensorRT, FP16)" in row
    assert row.endswith("2.40 ms, TensorRT of `torch.onnx.export`, fp16 |"), (
        "it is faster than ours"
    )
    table = gpu_tables.gpu_table()
    assert "| 0.83, which lacks max-autotune |" in table, "of PyTorch, which TensorRT is not"
    forms += [race("torch-compile", "y", 2.8), race("torch-max-autotune", "z", 2.9)]
    write(results / "new" / "race.json", {"races": forms})
    assert "| 2.80 ms (y, default mode) | 3.00 ms (x) | 0.89 |" in gpu_tables.gpu_table()


def test_other_systems_count_where_they_saw_the_whole_set(results: Path) -> None:
    def row(system: str, psnr: float, every: int, told: float = 10.0) -> dict[str, Any]:
        return {"system": system, "data": "polyu", "test": "pairs", "noise": told, "every": every,
                "images": 100, "given": {"psnr": 35.97}, "restored": {"psnr": psnr}}  # fmt: skip

    # Ours was told other levels in the records that are there.
    ours = row("edge-s-denoise", 60.0, 1, told=12.0)
    rows = [row("FFDNet", 48.5, 1), row("Sampled", 50.0, 17), ours]
    record = {"figures": rows, "systems": [], "machine": "a GPU", "versions": {"torch": "2"}}
    write(results / "new" / "compared.json", record)
    assert "| 48.50 dB, FFDNet told 10 |" in summary_table.summary_table()
    assert "60.00" in tables.compared_tables()


def test_tables_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        tables.main()
    assert ended.value.code == 0


def test_every_table_has_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tables.TABLES, "another", lambda: "")
    with pytest.raises(SystemExit, match="another"):
        tables.pages()
