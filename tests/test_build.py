"""Building engines with a TensorRT that builds nothing, in three releases of its API."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from build_sandbox import ORIN, TILE, Sandbox

from mirnet_edge import errors
from mirnet_edge.build import calibration as build_calibration
from mirnet_edge.build.job import MOST_BUSY
from mirnet_edge.engines.card import EngineCard, card_path
from mirnet_edge.graph.file import graph_sha256

RELEASES = ["8.6.1", "10.3.0", "11.4.0"]
CACHE = "Orin-{}.timing_cache"


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    return Sandbox(tmp_path, monkeypatch)


def plan_of(sandbox: Sandbox) -> dict[str, Any]:
    """What the fake builder was told."""
    plan: dict[str, Any] = json.loads(sandbox.engine.read_bytes())
    return plan


# What is built


@pytest.mark.parametrize("release", RELEASES)
def test_build_writes_an_engine_and_its_card(release: str, sandbox: Sandbox) -> None:
    sandbox.release(release)
    card = sandbox.build()
    assert sandbox.left() == {"net.engine", "net.engine.json", CACHE.format(release)}
    assert sandbox.is_whole()
    assert EngineCard.load(card_path(sandbox.engine)) == card
    assert card.graph_sha256 == graph_sha256(onnx.load(sandbox.onnx))
    assert (card.source, card.facts.task, card.precision) == ("net.onnx", "test", "fp16")
    assert (card.tile, card.batch) == (TILE, 1)
    assert card.versions["tensorrt"] == release
    assert card.device["name"] == "Orin"
    assert card.activation_bytes == 2**20
    assert [tensor.shape for tensor in (*card.inputs, *card.outputs)] == [(1, 3, *TILE)] * 2
    assert card.layers_by_precision()["FP16"] >= 8
    assert card.notes == ()


@pytest.mark.parametrize("release", RELEASES)
def test_precision_is_told_by_types_where_that_is_possible(release: str, sandbox: Sandbox) -> None:
    sandbox.release(release)
    assert sandbox.build().strongly_typed == (release != "8.6.1")
    told = plan_of(sandbox)
    flags = ["FP16", "OBEY_PRECISION_CONSTRAINTS"] if release == "8.6.1" else []
    assert told["flags"] == flags, "TF32 is off: FP32 means FP32"
    assert told["sources"] == 0b11000, "TensorRT's own kernels and no others"


def test_fp32_is_fp32(sandbox: Sandbox) -> None:
    card = sandbox.build(precision="fp32")
    assert set(card.layers_by_precision()) == {"FP32"}
    assert plan_of(sandbox)["flags"] == []


@pytest.mark.parametrize("release", ["8.6.1", "11.4.0"])
def test_half_input_and_output(release: str, sandbox: Sandbox) -> None:
    sandbox.release(release)
    sandbox.build(io="float16")
    if release == "8.6.1":
        assert plan_of(sandbox)["dtypes"] == ["HALF", "HALF"]
    else:
        graph = onnx.load_from_string(
            __import__("base64").b64decode(plan_of(sandbox)["onnx"])
        ).graph
        assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16


def test_accuracy_and_time_are_measured(sandbox: Sandbox) -> None:
    sandbox.release("10.3.0")
    measured = sandbox.build(sigma=25).measured
    assert measured is not None
    assert (measured.enqueue_ms, measured.graph_ms) == (1.5, 1.0)
    assert measured.psnr_vs_fp32_db is not None
    assert 50 < measured.psnr_vs_fp32_db < 100, "FP16 on ONNX Runtime against FP32"
    assert measured.task_loss_db is not None
    assert abs(measured.task_loss_db) < 0.01
    assert measured.tiles == 8


def test_without_clean_frames_no_loss_is_claimed(sandbox: Sandbox) -> None:
    measured = sandbox.build().measured
    assert measured is not None
    assert measured.task_loss_db is None


def test_without_a_cuda_graph_the_card_says_so(sandbox: Sandbox) -> None:
    sandbox.fault("nograph")
    card = sandbox.build()
    assert card.measured is not None
    assert card.measured.graph_ms == card.measured.enqueue_ms
    assert "without a CUDA graph" in card.notes[0]


def test_batches(sandbox: Sandbox) -> None:
    card = sandbox.build(batch=3)
    assert card.inputs[0].shape == (3, 3, *TILE)
    assert card.measured is not None
    assert card.measured.tiles == 8, "the last batch is not full"


def test_progress_names_phases(sandbox: Sandbox) -> None:
    sandbox.release("10.3.0")
    sandbox.build()
    assert {"building", "Building engine", "measuring", "FP32 reference"} <= {
        phase for phase, _, _ in sandbox.events
    }
    assert ("Building engine", 3, 3) in sandbox.events


def test_a_failed_strong_build_falls_back_to_flags(sandbox: Sandbox) -> None:
    sandbox.release("10.3.0")
    sandbox.fault("untyped")
    card = sandbox.build()
    assert not card.strongly_typed
    assert "strongly typed it failed" in card.notes[0]
    sandbox.release("11.4.0")
    with pytest.raises(errors.BuildError, match="no importer"):
        sandbox.build()


def test_what_cannot_be_held_to_fp16_is_built_without(sandbox: Sandbox) -> None:
    sandbox.fault("halves")
    card = sandbox.build()
    assert card.notes == (
        "TensorRT found no FP16 kernel for first + PWN(leaky.94); built without holding layers to "
        "FP16: the layer table tells what runs in FP32",
    )
    assert {layer["Asked"] for layer in plan_of(sandbox)["layers"]} == {"FLOAT"}
    sandbox.fault("halves unnamed")
    noted = sandbox.build(batch=2).notes[0]
    assert noted.startswith("TensorRT failed with FP16 (TensorRT built no engine: no luck); built ")


def test_a_build_that_fails_either_way_is_not_tried_a_third_time(sandbox: Sandbox) -> None:
    sandbox.fault("workspace")
    with pytest.raises(errors.BuildError, match="insufficient workspace") as caught:
        sandbox.build(workspace=2**20)
    first = caught.value.__context__
    assert isinstance(first, errors.BuildError)
    assert first.__context__ is None
    sandbox.fault("memory")
    with pytest.raises(errors.DeviceMemoryError) as lacking:
        sandbox.build()
    assert lacking.value.__context__ is None, "no kernel needs less for being FP32"


@pytest.mark.parametrize(("idle", "streams"), [(0, None), (1, 2)])
def test_scales_run_side_by_side_where_one_leaves_multiprocessors_idle(
    idle: int, streams: int | None, sandbox: Sandbox
) -> None:
    height, width = TILE
    busiest = ORIN["multiprocessors"] * MOST_BUSY // (height * width)
    card = sandbox.build(batch=busiest + 1 - idle)
    assert plan_of(sandbox)["aux_streams"] == card.options["aux_streams"] == streams
    sandbox.build(batch=busiest + 1 - idle, aux_streams=1)
    assert plan_of(sandbox)["aux_streams"] == 1


# Builds that are not needed


def test_the_same_engine_is_not_built_twice(sandbox: Sandbox) -> None:
    card = sandbox.build()
    assert sandbox.built
    assert sandbox.build() == card
    assert not sandbox.built
    assert sandbox.build(overwrite=False) == card


@pytest.mark.parametrize(
    "change", [{"precision": "fp32"}, {"optimization_level": 1}, {"workspace": 2**30}, {"batch": 2}]
)
def test_another_option_is_another_engine(change: dict[str, Any], sandbox: Sandbox) -> None:
    sandbox.build()
    sandbox.build(**change)
    assert sandbox.built


def test_another_tensorrt_graph_or_damage_is_another_engine(sandbox: Sandbox) -> None:
    sandbox.build()
    sandbox.release("10.3.0")
    sandbox.build()
    assert sandbox.built
    proto = onnx.load(sandbox.onnx)
    weights = proto.graph.initializer[-1]
    weights.raw_data = bytes(len(weights.raw_data))
    onnx.save(proto, sandbox.onnx)
    sandbox.build()
    assert sandbox.built
    sandbox.engine.write_bytes(sandbox.engine.read_bytes() + b" ")
    sandbox.build()
    assert sandbox.built
    assert sandbox.is_whole()


def test_another_engine_is_replaced_only_if_that_is_wanted(sandbox: Sandbox) -> None:
    sandbox.build()
    before = sandbox.engine.read_bytes()
    with pytest.raises(errors.OutputError, match="exists"):
        sandbox.build(precision="fp32", overwrite=False)
    assert sandbox.engine.read_bytes() == before


def test_timings_outlive_a_build(sandbox: Sandbox) -> None:
    cache = sandbox.folder / CACHE.format("8.6.1")
    sandbox.build()
    first = json.loads(cache.read_bytes())
    sandbox.build(precision="fp32")
    assert len(first) == 1
    assert set(first) < set(json.loads(cache.read_bytes()))
    cache.write_bytes(b"junk")
    card = sandbox.build()
    assert "is damaged" in card.notes[0]
    assert len(json.loads(cache.read_bytes())) == 1


# What cannot be built


@pytest.mark.parametrize(
    ("fault", "options", "error", "said"),
    [
        ("driver", {}, errors.DeviceError, r"error: 35.*driver is too old.*mirnet-edge doctor"),
        ("refuse", {}, errors.BuildError, r"node 'spatial' \(Sigmoid.*\): no importer"),
        ("workspace", {"workspace": 2**20}, errors.BuildError, r"1 MiB.*Allow more workspace"),
        ("memory", {}, errors.DeviceMemoryError, r"GPU's memory does not suffice.*smaller tile"),
        ("wide", {}, errors.BuildError, r"asked for FP16.*convolutions in FP32"),
        ("nan", {}, errors.BuildError, r"not finite.*fp32"),
    ],
)
def test_failed_builds_say_why_and_leave_nothing(
    fault: str, options: dict[str, Any], error: type[Exception], said: str, sandbox: Sandbox
) -> None:
    sandbox.fault(fault)
    with pytest.raises(error, match=said):
        sandbox.build(**options)
    assert {name for name in sandbox.left() if not name.endswith(".timing_cache")} == set()


def test_a_failed_build_leaves_the_engine_that_was_there(sandbox: Sandbox) -> None:
    sandbox.build()
    before = sandbox.engine.read_bytes()
    sandbox.fault("refuse")
    with pytest.raises(errors.BuildError):
        sandbox.build(precision="fp32")
    assert sandbox.engine.read_bytes() == before
    assert sandbox.is_whole()


def test_a_plan_that_does_not_tell_is_noted(sandbox: Sandbox) -> None:
    sandbox.fault("silent")
    assert sandbox.build().notes == ("TensorRT does not tell the precision of its convolutions",)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"precision": "fp8"}, errors.ConfigError, "fp32, fp16, int8"),
        ({"io": "int8"}, errors.ConfigError, "float32 or float16"),
        ({"io": "float16", "precision": "fp32"}, errors.ConfigError, "fp16 for both"),
        ({"batch": 0}, errors.ConfigError, "at least 1"),
        ({"workspace": 64}, errors.ConfigError, "need bytes"),
        ({"optimization_level": 6}, errors.ConfigError, "0 to 5"),
        ({"aux_streams": 8}, errors.ConfigError, "0 to 7"),
        ({"method": "guess"}, errors.ConfigError, "minmax"),
        ({"budget_db": -1}, errors.ConfigError, "0 or more"),
        ({"tile": 30}, errors.TilingError, "multiples of 4 pixels; the next is 32x32"),
        ({"tile": 4}, errors.TilingError, "8 pixels or more"),
        ({"tile": 64}, errors.GraphError, "takes only a height of 20, not 64"),
        ({"calibration": []}, errors.CalibrationError, "an empty sequence"),
    ],
)
def test_wrong_options(
    options: dict[str, Any], error: type[Exception], said: str, sandbox: Sandbox
) -> None:
    with pytest.raises(error, match=said):
        sandbox.build(**options)
    assert sandbox.left() == set()


def test_files_that_cannot_be(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.engine = tmp_path / "net.plan"
    with pytest.raises(errors.OutputError, match=r"name it net\.engine"):
        sandbox.build()
    sandbox.engine = tmp_path / "missing" / "net.engine"
    with pytest.raises(errors.OutputError, match="cannot write into"):
        sandbox.build()
    sandbox.engine = tmp_path / "net.engine"
    with pytest.raises(errors.OutputError, match="missing"):
        sandbox.build(timing_cache=tmp_path / "missing" / "timings")
    sandbox.onnx = tmp_path / "none.onnx"
    with pytest.raises(errors.GraphError, match="no such file"):
        sandbox.build()


def test_bundled_frames_that_do_not_fit_are_noted(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise errors.CalibrationError("no frames of 6 channels")

    monkeypatch.setattr(build_calibration.CalibrationSet, "open", refuse)
    card = sandbox.build(calibration=None)
    assert card.notes == ("accuracy not measured: no frames of 6 channels",)
    assert card.measured is not None
    assert card.measured.psnr_vs_fp32_db is None
    with pytest.raises(errors.CalibrationError):
        sandbox.build(precision="int8", calibration=None)


def test_cards_compare_as_they_were_written(sandbox: Sandbox) -> None:
    card = sandbox.build(batch=2, tile=TILE)
    stored = json.loads(card_path(sandbox.engine).read_text("utf-8"))
    assert stored["key"] == card.key
    assert set(stored) == {field.name for field in dataclasses.fields(card)}
    assert np.isfinite(card.build_seconds)
