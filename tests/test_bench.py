"""Timing engines."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from fake_tensorrt import ENQUEUE_MS, write_plan

from mirnet_edge.bench import bench_engine
from mirnet_edge.errors import EngineError


def test_a_plan_is_timed_by_layers_and_as_a_graph(trt: ModuleType, tmp_path: Path) -> None:
    bench = bench_engine(write_plan(tmp_path), runs=7)
    assert (bench.kind, bench.tile, bench.batch, bench.runs) == ("TensorRTEngine", (8, 12), 1, 7)
    assert set(bench.times) == {"enqueue", "graph"}
    assert bench.times["enqueue"].median_ms == pytest.approx(ENQUEUE_MS)
    quickest = min(times.median_ms for times in bench.times.values())
    assert bench.ms_per_megapixel == pytest.approx(quickest / (8 * 12 / 1e6))
    assert bench.versions["tensorrt"] == trt.__version__
    assert bench.device


def test_an_onnx_file_is_timed_by_calls(tiny_onnx: Path) -> None:
    bench = bench_engine(tiny_onnx, runs=5, tile=(16, 24), threads=1)
    times = bench.times["run"]
    assert 0 < times.median_ms <= times.p90_ms <= times.p99_ms
    assert (bench.tile, bench.device) == ((16, 24), "CPUExecutionProvider")
    assert set(bench.versions) == {"mirnet_edge", "onnxruntime"}


def test_a_plan_takes_no_other_tile(trt: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="8x12 only"):
        bench_engine(write_plan(tmp_path), tile=(16, 16))
