"""Tuning: what is tried, what is kept, and who takes it."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from build_sandbox import ORIN, TILE, Sandbox
from command_line import run

import mirnet_edge as me
from mirnet_edge.build import trials, tune
from mirnet_edge.build.target import Target
from mirnet_edge.build.trials import Candidate, Portable, Scene, TensorRT, Trial, tried
from mirnet_edge.build.tune import named, tune_model
from mirnet_edge.engines import tuned as engines_tuned
from mirnet_edge.engines.card import EngineCard, card_path
from mirnet_edge.engines.tuned import Tuned, this_device, tuned_for, tuned_path
from mirnet_edge.errors import DeviceError, DeviceMemoryError, EngineError, OutputError

FRAME = (150, 300)
WHOLE, HALF = (152, 300), (152, 168)
TIMES_MS = {WHOLE: 20.0, HALF: 12.0}
"""Of the fake backend: the halves are faster."""


@pytest.fixture
def model(tiny_onnx: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_onnx, tmp_path / "net.onnx"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIRNET_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trials, "MEASURE_S", 0.0)
    monkeypatch.setattr(trials, "LEAST_TILE_PX", 0)
    monkeypatch.setattr(trials, "MODES", ("tile", "frame-fast"))


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_target() -> Target:
        raise DeviceError("no GPU")

    monkeypatch.setattr(tune, "find_target", find_target)


class Measured:
    """Stands for measuring an engine: as fast as `TIMES_MS` by tile, an eighth less by each level
    and batch; as accurate as its precision."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: dict[Candidate, Exception] = {}
        self.asked: list[Candidate] = []
        monkeypatch.setattr(tune, "find_target", lambda: Target({"tensorrt": "8.6.1"}, ORIN))
        monkeypatch.setattr(TensorRT, "measure", lambda _, candidate: self(candidate))

        monkeypatch.setattr(TensorRT, "keep", lambda *_: None)

    def __call__(self, candidate: Candidate) -> dict[str, float]:
        self.asked.append(candidate)
        if error := self.fails.get(candidate):
            raise error
        ms = TIMES_MS[candidate.tile] * (1 - candidate.batch / 8) * (1 - (candidate.level or 0) / 8)
        db = {"fp32": 90.0, "fp16": 70.0, "int8": 45.0}[candidate.precision]
        return {"ms": ms / (2 if candidate.precision == "int8" else 1), "p90_ms": ms, "psnr_db": db}


def fp16(tile: tuple[int, int], batch: int = 1, level: int = 1) -> Candidate:
    return Candidate(tile, batch=batch, precision="fp16", level=level)


# The search


def test_the_fastest_that_is_accurate_is_kept(model: Path, monkeypatch: Any) -> None:
    measured = Measured(monkeypatch)
    found = tune_model(model, FRAME)
    assert (found.tile, found.has_engine) == (HALF, True)
    best = min((row for row in found.tried if row["psnr_db"] >= 50), key=lambda row: row["ms"])
    assert (best["batch"], best["level"], best["precision"]) == (2, 5, "fp16")
    assert found.ms == best["ms"]
    assert measured.asked[0] == fp16(WHOLE), "the whole frame comes first"
    int8 = [candidate for candidate in measured.asked if candidate.precision == "int8"]
    assert len(int8) == 1, "too inaccurate to go on with"
    assert not any(candidate.precision == "fp32" for candidate in measured.asked), "FP16 will do"
    assert Tuned.load(tuned_path(model)) == found


def test_a_whole_frame_has_neither_batches_nor_statistics(model: Path, monkeypatch: Any) -> None:
    measured = Measured(monkeypatch)
    monkeypatch.setitem(TIMES_MS, HALF, 30.0)
    assert tune_model(model, FRAME).tile == WHOLE
    whole = [candidate for candidate in measured.asked if candidate.tile == WHOLE]
    assert {candidate.batch for candidate in whole} == {1}
    assert {candidate.statistics for candidate in whole} == {"tile"}


def test_running_out_of_memory_is_a_trial_like_others(model: Path, monkeypatch: Any) -> None:
    measured = Measured(monkeypatch)
    measured.fails[fp16(WHOLE)] = DeviceMemoryError("the GPU's memory does not suffice")
    measured.fails[fp16(HALF, batch=2)] = MemoryError()
    found = tune_model(model, FRAME)
    assert found.tile == HALF
    errors = [row["error"] for row in found.tried if row["error"]]
    assert errors == [
        "the GPU's memory does not suffice",
        "the memory of the host does not suffice",
    ]


def test_nothing_new_is_tried_when_the_time_is_over(model: Path, monkeypatch: Any) -> None:
    measured = Measured(monkeypatch)
    assert tune_model(model, FRAME, minutes=0).tile == WHOLE
    assert measured.asked == [fp16(WHOLE)]


def test_what_is_accurate_enough_may_not_be_there(model: Path, monkeypatch: Any) -> None:
    Measured(monkeypatch)
    with pytest.raises(EngineError, match=r"nothing reached 95 dB .* fp32.* reached 90\.0 dB"):
        tune_model(model, FRAME, psnr_db=95)
    assert not tuned_path(model).exists()


def test_where_nothing_runs_the_first_reason_is_told(model: Path, monkeypatch: Any) -> None:
    measured = Measured(monkeypatch)
    monkeypatch.setattr(Scene, "tiles", {WHOLE: 1})
    monkeypatch.setattr(measured, "fails", {fp16(WHOLE): EngineError("no luck")})
    monkeypatch.setattr(tune, "tried", lambda backend, candidate: Trial(candidate, 0, error="bad"))
    with pytest.raises(EngineError, match="nothing could be measured: bad"):
        tune_model(model, FRAME)


@pytest.mark.parametrize("name", ["absent.onnx", "net.pth"])
def test_what_cannot_be_tuned(name: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"is an \.onnx file"):
        tune_model(tmp_path / name, FRAME)


# The portable engine, measured for real


def test_the_portable_engine_is_tuned_and_the_answer_taken(model: Path, monkeypatch: Any) -> None:
    no_gpu(monkeypatch)
    found = tune_model(model, (40, 61), psnr_db=20)
    assert not found.has_engine
    assert found.ms > 0
    assert all(row["psnr_db"] > 20 for row in found.tried)
    assert {row["threads"] for row in found.tried} >= {None}
    with me.Restorer(model) as restore:
        assert restore.tuned == found
        assert restore.tiling(1000, 1000).tile == found.tile
    for options in ({"tile": 32, "halo": 4}, {"threads": 1}, {"tuned": False}):
        with me.Restorer(model, **options) as restore:
            assert restore.tuned is None


def test_the_whole_frame_is_what_the_whole_frame_is_compared_with(
    model: Path, monkeypatch: Any
) -> None:
    scene = Scene.of(model, FRAME)
    assert list(scene.tiles)[:2] == [WHOLE, HALF]
    trial = tried(Portable(model, scene), Candidate(WHOLE))
    assert trial.psnr_db is not None
    assert trial.psnr_db > 120
    halves = tried(Portable(model, scene), Candidate(HALF))
    assert halves.psnr_db is not None
    assert halves.psnr_db < trial.psnr_db, "tiles have means of their own"


# The answer


@pytest.fixture
def answer(model: Path, monkeypatch: pytest.MonkeyPatch) -> Tuned:
    no_gpu(monkeypatch)
    return tune_model(model, (40, 48), minutes=0, psnr_db=20)


def change(model: Path, **changes: Any) -> None:
    path = tuned_path(model)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": {"cpu": "Z80", "cores": 1, "gpu": ""}}, "measured on 1 cores of Z80, and this"),
        ({"format": 99}, "format 99, not 1"),
        ({"has_engine": True}, "no such file"),
    ],
)
def test_an_answer_that_does_not_hold_is_left_out_with_a_warning(
    changes: dict[str, Any],
    said: str,
    model: Path,
    answer: Tuned,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert tuned_for(model) == answer
    change(model, **changes)
    with caplog.at_level(logging.WARNING), me.Restorer(model) as restore:
        assert restore.tuned is None
        restore(np.zeros((16, 16, 3), np.uint8))
    assert said in caplog.text
    assert "mirnet-edge tune" in caplog.text


def test_an_answer_of_another_tensorrt(model: Path, answer: Tuned, monkeypatch: Any) -> None:
    card = type("Card", (), {"versions": {"tensorrt": "8.6.1"}})
    monkeypatch.setattr(EngineCard, "load", lambda path: card)
    change(model, has_engine=True)
    modules = type("TensorRT", (), {"__version__": "8.6.1"})
    monkeypatch.setattr(engines_tuned, "require", lambda *_: modules)
    found = tuned_for(model)
    assert found is not None
    assert found.engine_path(model) == tuned_path(model).with_suffix(".engine")
    assert found.cut == "auto"
    modules.__version__ = "10.3.0"  # type: ignore[attr-defined]
    assert tuned_for(model) is None


def test_another_model_of_the_same_name_has_no_answer(
    model: Path, answer: Tuned, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other" / model.name
    other.parent.mkdir()
    proto = onnx.load(model)
    proto.doc_string = "another"
    onnx.save(proto, other)
    with caplog.at_level(logging.INFO), me.Restorer(other) as restore:
        assert restore.tuned is None
    assert "are of others" in caplog.text
    assert tuned_for(shutil.copy(model, other)) == answer, "the same file is the same model"


def test_answers_of_bundled_models_have_their_names(tmp_path: Path) -> None:
    path = tuned_path("edge-s-denoise")
    assert path.parent == tmp_path / "cache" / "tuned"
    assert path.name.startswith("edge-s-denoise-")
    assert tuned_for("edge-s-denoise") is None


def test_without_a_home_nothing_is_tuned(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(engines_tuned, "cache_folder", no_home)
    assert tuned_for(model) is None


def test_an_answer_that_cannot_be_written(model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError, match="cannot write into"):
        tune_model(model, FRAME)


def test_this_device_has_a_processor() -> None:
    device = this_device()
    assert device["cpu"]
    assert device["cores"] >= 1


# The command


def test_the_command_prints_what_was_tried_and_what_is_kept(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    no_gpu(monkeypatch)
    outcome = run(capfd, "tune", model, "--frame", "48x40", "--psnr-db", 20, "--minutes", 0)
    assert (outcome.code, outcome.err) == (0, "")
    assert named(Candidate((40, 48))) in outcome.out
    assert "fastest: " in outcome.out
    assert str(tuned_path(model)) in outcome.out
    outcome = run(capfd, "tune", model, "--frame", "48x40", "--psnr-db", 999, "--minutes", 0)
    assert outcome.code == 1
    assert "tried" in outcome.out, "what was measured is of use"
    assert "nothing reached 999 dB" in outcome.err


def test_the_command_as_json(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    no_gpu(monkeypatch)
    arguments = ("tune", model, "--frame", "48x40", "--psnr-db", 20, "--minutes", 0, "--json")
    found = json.loads(run(capfd, *arguments).out)
    assert found["tile"] == [40, 48]
    assert found["tried"][0]["error"] == ""


# Engines, which the fake builds


class HalfAsBright(me.Restorer):
    """What restores with an engine of the fake's: the network is not what is tuned here."""

    def __init__(self, model: Path, **options: Any) -> None:
        self.path, self.options = model, options
        super().__init__(me.FakeEngine() if model.suffix == ".engine" else model, tile=32, halo=4)


def test_an_engine_is_built_measured_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = Sandbox(tmp_path, monkeypatch)
    sandbox.open_sizes()
    scene = Scene.of(sandbox.onnx, TILE)
    monkeypatch.setattr(trials, "Restorer", HalfAsBright)
    folder = tmp_path / "building"
    folder.mkdir()
    backend = TensorRT(sandbox.onnx, scene, folder, tmp_path / "timings")
    assert backend.first == Candidate(TILE, precision="fp16", level=1)
    trial = tried(backend, replace(backend.first, statistics="frame-fast"))
    assert trial.error == ""
    assert trial.ms is not None
    kept = tmp_path / "net.engine"
    for number in range(2):  # the second time in place of the first
        backend.keep(trial.candidate, kept)
        left = {path.name for path in tmp_path.glob("net.*")} - {"net.onnx"}
        names = ("net", "net.apply", "net.gather")
        assert left == {f"{name}.engine{end}" for name in names for end in ("", ".json")}
        assert EngineCard.load(card_path(kept)).tile == TILE
        if number == 0:
            backend.measure(trial.candidate)
