"""Where an engine's time goes, beside what its device could do at best."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from command_line import run
from fake_cuda import COPY_RATE
from fake_gpu import FakeGpu
from fake_tensorrt import ENQUEUE_MS, LAYERS, write_plan

from mirnet_edge.build import profile as build_profile
from mirnet_edge.build.target import Target
from mirnet_edge.cuda import Stream, open_device
from mirnet_edge.engines.card import LayerFacts
from mirnet_edge.errors import EngineError
from mirnet_edge.trt.engine import TensorRTEngine
from mirnet_edge.trt.profile import NOT_TOLD, EngineProfile, Rates, copy_rate, profile_engine

MACS_PER_SECOND = 4e12
LISTED = (
    LayerFacts("conv_in", "CaskConvolution", "FP16", 10**6, module="conv_in", macs=2 * 10**9),
    LayerFacts("halve", "PointWiseV2", "FP32", 3 * 10**9, module="body.0.body.1.dau_top.body.2"),
)
"""``conv_out``, which the profiler times too, is not among them."""


def profile(folder: Path) -> EngineProfile:
    with TensorRTEngine(write_plan(folder, {"layers": LISTED})) as engine:
        return profile_engine(engine, MACS_PER_SECOND, runs=3)


def test_layers_are_told_by_kind_and_by_module(trt: ModuleType, tmp_path: Path) -> None:
    found = profile(tmp_path)
    kinds = {part.name: part.time_ms for part in found.kinds}
    assert kinds == {"PointWiseV2 FP32": 1.0, "CaskConvolution FP16": 0.5, NOT_TOLD: 0.5}
    assert [part.name for part in found.modules] == ["body.*.body.*.dau_top", "conv_in", NOT_TOLD]
    assert (found.all.layers, found.all.time_ms) == (3, sum(LAYERS.values()))
    assert found.all.bytes_moved == 10**6 + 3 * 10**9
    assert 0 < found.graph_ms <= ENQUEUE_MS


def test_the_floor_is_the_longer_of_bytes_and_arithmetic() -> None:
    rates = Rates(bytes_per_second=1e12, macs_per_second=MACS_PER_SECOND)
    arithmetic, memory = map(rates.floor_ms, LISTED)
    assert arithmetic == pytest.approx(0.5), "2 GMAC at 4 TMAC/s, and 1 MB in no time"
    assert memory == pytest.approx(3.0), "3 GB at 1 TB/s"


def test_a_copy_counts_what_it_reads_and_writes(gpu: FakeGpu) -> None:
    gpu.total_bytes = 1 << 30
    with Stream(open_device()) as stream:
        assert copy_rate(stream) == pytest.approx(COPY_RATE)
    assert gpu.live["memory"] == 0


def test_without_layers_there_is_nothing_to_tell(trt: ModuleType, tmp_path: Path) -> None:
    with (
        TensorRTEngine(write_plan(tmp_path)) as engine,
        pytest.raises(EngineError, match=r"tiny\.engine has no card that lists its layers"),
    ):
        profile_engine(engine, MACS_PER_SECOND)


def test_bench_prints_both_tables(
    trt: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    target = Target({"tensorrt": "10.3.0"}, {"name": "Orin", "compute_capability": "8.7"})
    monkeypatch.setattr(build_profile, "find_target", lambda: target)
    monkeypatch.setattr(
        build_profile, "multiplications_per_second", lambda precision, cache: MACS_PER_SECOND
    )
    engine = write_plan(tmp_path, {"layers": LISTED})
    outcome = run(capfd, "bench", engine, "--profile", "--runs", 2)
    assert (outcome.code, outcome.err) == (0, "")
    for said in ("by kind of layer", "by module", "CaskConvolution FP16", "body.*.body.*.dau_top",
                 "4.0 TMAC/s", "times the floor"):  # fmt: skip
        assert said in outcome.out
    as_json = run(capfd, "bench", engine, "--profile", "--json")
    assert '"macs_per_second": 4000000000000.0' in as_json.out


@pytest.mark.parametrize("given", [["x.onnx"], ["x.engine", "--frame", "64x48"]])
def test_a_profile_is_of_an_engine_alone(
    given: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run(capfd, "bench", *given, "--profile")
    assert outcome.code == 2
    assert "--profile is of an .engine" in outcome.err
