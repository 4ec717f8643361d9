"""Timing engines, on tiles and on frames."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from fake_tensorrt import ENQUEUE_MS, write_plan, write_plans

from mirnet_edge.bench import bench_engine, bench_frames
from mirnet_edge.errors import EngineError, FrameError
from mirnet_edge.pooling.passes import StatisticsSettings


def test_a_plan_is_timed_by_layers_and_as_a_graph(trt: ModuleType, tmp_path: Path) -> None:
    bench = bench_engine(write_plan(tmp_path), runs=7)
    assert (bench.kind, bench.tile, bench.batch, bench.runs) == ("TensorRTEngine", (8, 12), 1, 7)
    assert set(bench.times) == {"enqueue", "graph"}
    assert bench.times["enqueue"].p50 == pytest.approx(ENQUEUE_MS)
    quickest = min(times.p50 for times in bench.times.values())
    assert bench.ms_per_megapixel == pytest.approx(quickest / (8 * 12 / 1e6))
    assert bench.versions["tensorrt"] == trt.__version__
    assert bench.device


def test_an_onnx_file_is_timed_by_calls(tiny_onnx: Path) -> None:
    bench = bench_engine(tiny_onnx, runs=5, tile=(16, 24), threads=1)
    times = bench.times["run"]
    assert 0 < times.p50 <= times.p90 <= times.p99
    assert (bench.tile, bench.device) == ((16, 24), "CPUExecutionProvider")
    assert set(bench.versions) == {"mirnet_edge", "onnxruntime"}


def test_a_plan_takes_no_other_tile(trt: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="8x12 only"):
        bench_engine(write_plan(tmp_path), tile=(16, 16))


def test_frames_are_timed_one_by_one_and_as_a_stream(tiny_onnx: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    bench = bench_frames(
        tiny_onnx, (35, 69), frames=3, tile=32, halo=4, progress=lambda *done: seen.append(done)
    )
    assert (bench.kind, bench.frame_size, bench.pixels) == ("OnnxEngine", (35, 69), "auto")
    assert (bench.tile, bench.tiles, bench.passes, bench.samples) == ((32, 32), 6, 1, 0)
    assert set(bench.versions) == {"mirnet_edge", "onnxruntime"}
    assert bench.device == "CPUExecutionProvider"
    assert seen == [(name, i, 3) for name in ("one by one", "stream") for i in (1, 2, 3)]
    for runs in (bench.one_by_one, bench.stream):
        latency = runs.latency
        assert latency.frames == 3, "warm-up frames were counted"
        assert 0 < latency.engine.p50 <= latency.engine.p99 < latency.total.p99
        # One after another: three frames cannot take less than three times the least of them.
        assert 0 < runs.frames_per_second < 1000 / (latency.total.p50 / 3)
        assert latency.upload.p99 == latency.download.p99 == 0


def test_frames_on_a_plan(
    pooled_network: Any, trt: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirnet_edge.bench.WARM_UP_RUNS", 1)
    engine = write_plans(tmp_path, pooled_network, (32, 40))
    bench = bench_frames(engine, (40, 70), frames=2, pixels="nv12", halo=4)
    assert (bench.kind, bench.tile) == ("TensorRTEngine", (32, 40))
    assert bench.tiles == 4
    assert bench.versions["tensorrt"] == trt.__version__
    for runs in (bench.one_by_one, bench.stream):
        assert runs.latency.frames == 2, "warm-up frames were counted"
        assert runs.latency.total.p50 > 0


@pytest.mark.parametrize("statistics", ["frame", "stream", "frame-fast"])
def test_frames_with_statistics(
    statistics: Any, pooled_network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StatisticsSettings, "settling", 2)
    model = tmp_path / "net.onnx"
    onnx.save(pooled_network, model)
    bench = bench_frames(model, (32, 80), frames=1, tile=32, halo=4, statistics=statistics)
    assert bench.statistics == statistics
    assert (bench.passes > 1) == (statistics == "frame"), "an earlier frame was of use"
    assert (bench.samples > 0) == (statistics != "stream")


@pytest.mark.parametrize("pixels", ["gray", "rgb", "bgr", "rgba", "bgra", "i420", "yuyv"])
def test_frames_of_every_format(pixels: str, tiny_onnx: Path) -> None:
    bench = bench_frames(tiny_onnx, (8, 12), frames=1, pixels=pixels)
    assert (bench.pixels, bench.tiles) == (pixels, 1)


def test_frames_that_cannot_be(tiny_onnx: Path) -> None:
    with pytest.raises(FrameError, match="even height"):
        bench_frames(tiny_onnx, (9, 12), pixels="nv12")
    with pytest.raises(FrameError, match="no pixel format 'p010'"):
        bench_frames(tiny_onnx, (8, 12), pixels="p010")
    with pytest.raises(FrameError, match="does not fit into memory"):
        bench_frames(tiny_onnx, (2**40, 8), tile=32, halo=4)
