"""Which engine a CPU runs: the trial, what is kept of it, and how to do without."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import mirnet_edge as me
from mirnet_edge.bundled import bundled_model
from mirnet_edge.engines import cpu_trial, onnx_engine, openvino_engine
from mirnet_edge.engines.cpu_trial import CPU_PROVIDER, SWITCH, CpuTrial, Tried
from mirnet_edge.engines.openvino_engine import OpenVINOEngine

pytest.importorskip("openvino")
MODEL = "edge-s-denoise"


@pytest.fixture(autouse=True)
def small_trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(SWITCH, "auto")
    monkeypatch.setenv("MIRNET_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cpu_trial, "TILE_PX", 32)
    monkeypatch.setattr(cpu_trial, "ROUNDS", 1)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Milliseconds that trials find, to be set."""
    found = {CPU_PROVIDER: 10.0, "OpenVINO-FP32": 8.0, "OpenVINO-BF16": 4.0}

    def times(runs: dict[str, Any]) -> dict[str, float]:
        return {name: found[name] for name in runs}

    monkeypatch.setattr(cpu_trial, "_times", times)
    monkeypatch.setattr(cpu_trial, "cpu_precisions", lambda: ("FP32",))
    return found


def kept(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "cpu").glob("*"))


def test_the_faster_engine_is_taken_and_the_answer_kept(
    measured: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = me.open_engine(MODEL)
    assert isinstance(engine, OpenVINOEngine)
    (answer,) = kept(tmp_path)
    assert answer.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(cpu_trial, "measure", None)  # not made again
    assert isinstance(me.open_engine(MODEL), OpenVINOEngine)
    with me.Restorer(MODEL) as restore:
        assert isinstance(restore.engine, OpenVINOEngine)


@pytest.mark.parametrize("spoil", ["", "{}", '{"provider": "x", "tile": [1, 2], "tried": []}'])
def test_a_damaged_answer_is_measured_again(
    spoil: str, measured: dict[str, float], tmp_path: Path
) -> None:
    me.open_engine(MODEL)
    (answer,) = kept(tmp_path)
    good = answer.read_text()
    answer.write_text(spoil)
    assert isinstance(me.open_engine(MODEL), OpenVINOEngine)
    assert answer.read_text() == good


@pytest.mark.skipif(not hasattr(sys, "getuid") and sys.platform == "win32", reason="no modes")
def test_an_answer_that_others_may_have_written_is_not_used(
    measured: dict[str, float], tmp_path: Path
) -> None:
    model = bundled_model(MODEL)
    assert model is not None
    me.open_engine(MODEL)
    (answer,) = kept(tmp_path)
    assert cpu_trial.kept_trial(model.onnx) is not None
    answer.chmod(0o666)
    assert cpu_trial.kept_trial(model.onnx) is None


def test_answers_are_for_these_threads_and_this_cpu(
    measured: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me.open_engine(MODEL, threads=1)
    me.open_engine(MODEL, threads=2)
    monkeypatch.setattr(cpu_trial, "cpu_name", lambda: "another")
    me.open_engine(MODEL, threads=2)
    assert len(kept(tmp_path)) == 3


def test_no_engine_is_taken_that_is_hardly_faster(measured: dict[str, float]) -> None:
    measured["OpenVINO-FP32"] = 9.5
    engine = me.open_engine(MODEL)
    assert isinstance(engine, me.OnnxEngine)
    named = me.open_engine(MODEL, provider="OpenVINO")
    assert isinstance(named, OpenVINOEngine), "who asks for it gets it"
    assert named.precision == "FP32"


def rows(*bf16: float | None) -> list[Tried]:
    return [
        Tried(CPU_PROVIDER, 10.0, 200.0),
        Tried("OpenVINO-FP32", 7.0, 120.0),
        Tried("OpenVINO-BF16", *bf16),
    ]


@pytest.mark.parametrize(
    ("bf16", "chosen"),
    [
        ((4.0, 57.0), "OpenVINO-BF16"),
        ((4.0, 50.0), "OpenVINO-FP32"),  # not accurate enough
        ((6.5, 57.0), "OpenVINO-FP32"),  # not worth it
        ((4.0, -200.0), "OpenVINO-FP32"),  # not finite
        ((None, None), "OpenVINO-FP32"),  # does not run
    ],
)
def test_a_lower_precision_has_to_be_accurate_and_worth_it(
    bf16: tuple[float | None, ...], chosen: str
) -> None:
    assert cpu_trial._fastest(rows(*bf16)) == chosen


def test_what_is_not_finite_agrees_with_nothing() -> None:
    tiles = np.full((1, 3, 8, 8), np.nan, np.float32)
    assert cpu_trial._psnr(tiles, np.zeros_like(tiles)) == -200.0
    assert cpu_trial._psnr(np.zeros_like(tiles), np.zeros_like(tiles)) == 200.0


def test_the_answer_is_told() -> None:
    trial = CpuTrial("OpenVINO-BF16", (32, 32), tuple(rows(4.0, 57.0)))
    assert trial.told == "OpenVINO-BF16, 0.40 of ONNX Runtime's time, 57.0 dB from FP32"
    portable = CpuTrial(CPU_PROVIDER, (32, 32), tuple(rows(4.0, 57.0)))
    assert portable.told == "CPUExecutionProvider, the fastest here"


def test_what_openvino_cannot_open_runs_as_before(
    measured: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise me.EngineError("OpenVINO cannot load it")

    monkeypatch.setattr(cpu_trial, "OpenVINOEngine", refuses)
    assert isinstance(me.open_engine(MODEL), me.OnnxEngine)


def test_a_cache_that_cannot_be_written_is_no_error(
    measured: dict[str, float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file stands where the folder would")
    assert isinstance(me.open_engine(MODEL), OpenVINOEngine)
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize(("told", "kind"), [("onnxruntime", "OnnxEngine"), ("auto", "OnnxEngine")])
def test_the_portable_engine_can_be_kept_to(
    told: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, told)
    monkeypatch.setattr(cpu_trial, "measure", None)  # nothing is tried
    assert (
        type(me.open_engine(MODEL, provider=CPU_PROVIDER if told == "auto" else None)).__name__
        == kind
    )


def test_a_machine_with_a_gpu_tries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["CUDAExecutionProvider", CPU_PROVIDER]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(cpu_trial, "measure", None)
    opened: list[Any] = []
    monkeypatch.setattr(onnx_engine, "OnnxEngine", lambda *_, **given: opened.append(given))
    me.open_engine(MODEL)
    assert opened == [{"threads": None, "provider": None}]


def test_an_engine_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "quantum")
    with pytest.raises(me.ConfigError, match="use auto, openvino or onnxruntime"):
        me.open_engine(MODEL)
    monkeypatch.setenv(SWITCH, "auto")
    with pytest.raises(me.EngineError, match="'FP8': OpenVINO computes on this CPU in FP32"):
        me.open_engine(MODEL, provider="OpenVINO-FP8")
    with pytest.raises(me.EngineError, match="no such file"):
        cpu_trial.trial_of(Path("nothing.onnx"), None)


def test_without_memory_for_all_nothing_else_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 1000

    monkeypatch.setattr(cpu_trial, "virtual_memory", Memory)
    model = bundled_model(MODEL)
    assert model is not None
    trial = cpu_trial.trial_of(model.onnx, None)
    assert trial.told == f"{CPU_PROVIDER}; its tile is too large to try others beside it"
    assert isinstance(me.open_engine(MODEL), me.OnnxEngine)


def test_a_whole_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bundled_model(MODEL)
    assert model is not None
    trial = cpu_trial.trial_of(model.onnx, None)
    assert [row.provider for row in trial.tried] == [
        CPU_PROVIDER,
        *(f"OpenVINO-{name}" for name in openvino_engine.cpu_precisions()),
    ]
    assert all(row.ms and row.ms > 0 for row in trial.tried)
    assert trial.tried[1].psnr_db is not None
    assert trial.tried[1].psnr_db > 90, "FP32 is FP32"
    assert trial == cpu_trial.kept_trial(model.onnx)


@pytest.mark.parametrize("facts", [
    me.ModelFacts(in_channels=1), me.ModelFacts(in_channels=6, out_channels=3),
    me.ModelFacts(task="denoise", noise_level=True),
])  # fmt: skip
def test_tiles_of_a_photo_are_as_the_network_is_given_them(facts: me.ModelFacts) -> None:
    tiles = cpu_trial.photo_tile(facts, (308, 460))  # larger than the photo
    assert tiles.shape == (1, facts.in_planes, 308, 460)
    assert tiles.dtype == np.float32
    assert 0.1 < tiles[:, 0].mean() < 0.9
    if facts.noise_level:
        assert np.ptp(tiles[:, -1]) == 0 < tiles[0, -1, 0, 0]
