"""INT8 engines beside FP16 ones, with a TensorRT that builds nothing: kept where they pay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import graph_samples
import pytest
from build_sandbox import Sandbox, frames, quantize

from mirnet_edge import errors
from mirnet_edge.build.graphs import fewer_pairs, quantized_convolutions
from mirnet_edge.bundled import BundledModel
from mirnet_edge.engines.card import EngineCard
from mirnet_edge.graph.file import load_graph
from mirnet_edge.quantize import recorded
from mirnet_edge.quantize.qdq import insert_qdq
from mirnet_edge.quantize.ranges import Ranges

RELEASES = ["8.6.1", "10.3.0", "11.4.0"]


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    return Sandbox(tmp_path, monkeypatch)


def test_int8_is_built_beside_fp16_and_compared(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_TIMES", '{"int8": 0.7}')
    for release in RELEASES:
        sandbox.release(release)
        card = sandbox.build(precision="int8", method="minmax", budget_db=3)
        assert sandbox.left() >= {"net.engine", "net.fp16.engine", "net.fp16.engine.json"}
        assert card.layers_by_precision()["INT8"] >= 3
        assert card.measured is not None
        assert (card.measured.graph_ms, card.measured.fp16_graph_ms) == (0.7, 1.0)
        assert card.options["quantization"]["method"] == "minmax"
        assert sandbox.build(precision="int8", method="minmax", budget_db=3) == card
        assert not sandbox.built


def test_int8_that_does_not_pay_is_refused_with_the_figures(sandbox: Sandbox) -> None:
    options = {"precision": "int8", "method": "minmax", "budget_db": 3}
    with pytest.raises(errors.BuildError, match=r"not faster.*1\.000 ms, FP16 1\.000 ms") as caught:
        sandbox.build(**options)
    assert "net.fp16.engine" in str(caught.value)
    assert not sandbox.engine.exists()
    card = sandbox.build(**options, force=True)
    assert "kept by force" in card.notes[-1]
    assert sandbox.is_whole()
    assert sandbox.build(**options, force=True) == card
    with pytest.raises(errors.BuildError, match="not faster"):
        sandbox.build(**options)
    assert sandbox.is_whole(), "what was there stays"


def test_int8_that_loses_too_much_is_refused_with_the_figures(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_TIMES", '{"int8": 0.7}')
    monkeypatch.setenv("FAKE_TENSORRT_NOISE", "0.3")
    with pytest.raises(errors.BuildError, match=r"it loses [\d.]+ dB .* budget of 3 dB"):
        sandbox.build(precision="int8", method="minmax", budget_db=3)


def test_a_quantized_file_is_built_as_it_is(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_TIMES", '{"int8": 0.5}')
    report = quantize(sandbox.onnx, sandbox.folder / "net.int8.onnx")
    sandbox.onnx = report.path
    card = sandbox.build(precision="int8", budget_db=3)
    assert card.layers_by_precision()["INT8"] == len(
        [name for name in report.plan.int8_nodes if name != "up"]
    )
    assert card.measured is not None
    assert card.measured.fp16_graph_ms == 1.0
    assert not sandbox.build(precision="fp32").layers_by_precision().get("INT8")


def test_no_layer_within_the_budget(sandbox: Sandbox) -> None:
    with pytest.raises(errors.BuildError, match=r"within a budget of 0 dB .* cost [\d.]+ dB"):
        sandbox.build(precision="int8", method="minmax", budget_db=0)


def test_a_refusal_that_names_no_layer_says_what_to_do(sandbox: Sandbox) -> None:
    sandbox.fault("marked")
    with pytest.raises(errors.BuildError, match="incorrectly marked as an int8 node") as caught:
        sandbox.build(precision="int8", method="minmax", budget_db=3)
    assert str(caught.value).endswith(
        "TensorRT 8.6 refuses some quantized convolutions without naming them; leave some in FP16 "
        "with a smaller --budget, or use TensorRT 10 or newer"
    )
    assert not sandbox.engine.exists()


def test_pairs_that_tensorrt_refuses_are_left_out(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the convolutions that only add to something else."""
    monkeypatch.setenv("FAKE_TENSORRT_TIMES", '{"int8": 0.7}')
    options = {"precision": "int8", "method": "minmax", "budget_db": 3}
    sandbox.release("10.3.0")
    assert int8_layers(sandbox.build(**options)) == {"one", "two", "down", "three", "side"}
    sandbox.release("8.6.1")
    sandbox.fault("marked sums")
    card = sandbox.build(**options)
    assert int8_layers(card) == {"one", "down"}
    assert card.notes[-1] == (
        "TensorRT refused the Q/DQ pairs of all 6 convolutions without naming any; the 3 that only "
        "add to something else are FP16"
    )
    assert sandbox.build(**options) == card
    assert not sandbox.built


def int8_layers(card: EngineCard) -> set[str]:
    """Of the convolutions; the fake lists no transposed ones."""
    return {layer.name for layer in card.layers if layer.precision == "INT8"}


SUMS = """
<ir_version: 8, opset_import: ["" : 17]>
network (float[1,16,20,28] input) => (float[1,16,20,28] output)
{
  [one] a = Conv <pads = [1,1,1,1]> (input, "w.one")
  [leaky] b = LeakyRelu <alpha = 0.2> (a)
  [two] c = Conv <pads = [1,1,1,1]> (b, "w.shared")
  [sum] d = Add (c, input)
  [three] e = Conv <pads = [1,1,1,1]> (d, "w.one")
  [again] f = LeakyRelu <alpha = 0.2> (e)
  [four] g = Conv <pads = [1,1,1,1]> (f, "w.shared")
  [both] h = Add (g, e)
  [twice] i = Add (h, g)
  [five] j = Conv <pads = [1,1,1,1]> (i, "w.one")
  [last] output = Add (j, input)
}
"""
"""Five convolutions: an activation reads the first; an Add alone the second and the last; an Add
and an activation the third, which is alone behind a sum; two Adds the fourth. The second and the
fourth are behind an activation."""


@pytest.mark.parametrize(
    ("pairs", "fewer"),
    [
        (
            ["one", "two", "three", "four", "five"],
            [
                ({"one", "three", "four"}, "the 2 that only add to something else are FP16"),
                ({"two", "four"}, "the 3 not behind an activation are FP16"),
            ],
        ),
        (["one", "two"], [({"one"}, "the 1 that only add to something else are FP16")]),
        (["two", "five"], [({"two"}, "the 1 not behind an activation are FP16")]),
        (["five"], []),
        ([], []),
    ],
    ids=["all", "third no smaller", "second empty", "both empty", "without pairs"],
)
def test_fewer_pairs_are_tried_in_turn(pairs: list[str], fewer: list[tuple[set[str], str]]) -> None:
    proto = graph_samples.parsed(SUMS)
    quantized = insert_qdq(proto, graph_samples.ranges_of(proto), pairs)
    (first, note), *rest = fewer_pairs(quantized)
    assert (first, note) == (quantized, "")
    refused = f"TensorRT refused the Q/DQ pairs of all {len(pairs)} convolutions without naming any"
    assert [(quantized_convolutions(graph), note) for graph, note in rest] == [
        (nodes, f"{refused}; {left_out}") for nodes, left_out in fewer
    ]


# Records of bundled models


RECORDED = {"precision": "int8", "budget_db": 3, "calibration": None, "force": True}


class Record:
    """Of the sandbox's network, as if that were a bundled model."""

    def __init__(self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = sandbox.folder / "shim"
        (folder / "net").mkdir(parents=True)
        model = BundledModel("net", folder / "net", {"task": "test"})
        model.onnx.write_bytes(sandbox.onnx.read_bytes())
        report = quantize(sandbox.onnx, folder / "net.int8.onnx")
        monkeypatch.setattr(recorded, "bundled_models", lambda: [model])
        monkeypatch.setattr(recorded, "resource_folder", lambda name: folder)
        key = recorded.record_key(load_graph(sandbox.onnx))
        self.ranges = replace(Ranges.load(report.ranges_path), graph_sha256=key)
        self.plan = replace(report.plan, graph_sha256=key)
        self.ranges_path, self.plan_path = recorded.record_files("net")
        self.ranges.save(self.ranges_path)
        self.plan.save(self.plan_path)


@pytest.fixture
def record(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Record:
    return Record(sandbox, monkeypatch)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_recorded_model_is_not_measured(
    batch: int, record: Record, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured")

    monkeypatch.setattr(recorded, "make_plan", measured)
    options = {**RECORDED, "batch": batch}
    card = sandbox.build(**options)
    assert card.options["quantization"] == {
        "recorded": True,
        "method": "minmax",
        "simulated_loss_db": round(record.plan.loss_db, 4),
        "against": record.plan.against,
        "int8_share_of_macs": pytest.approx(record.plan.int8_share, abs=1e-4),
        "int8_nodes": len(record.plan.int8_nodes),
    }
    assert not [note for note in card.notes if "record" in note]
    assert sandbox.build(**options) == card
    assert not sandbox.built
    for given in ({"calibration": frames()}, {"sigma": 25.0}, {"rewrite": False}):
        with pytest.raises(AssertionError, match="measured"):
            sandbox.build(**{**options, **given})


def test_another_record_is_another_engine(record: Record, sandbox: Sandbox) -> None:
    card = sandbox.build(**RECORDED)
    replace(record.plan, loss_db=record.plan.loss_db / 2).save(record.plan_path)
    assert sandbox.build(**RECORDED).key != card.key
    assert sandbox.built
    given = {**RECORDED, "calibration": frames(), "method": record.plan.method}
    sandbox.build(**given)
    record.plan.save(record.plan_path)
    sandbox.build(**given)
    assert not sandbox.built, "frames are given, so the record does not matter"


def test_instead_of_a_stale_record_is_measured(record: Record, sandbox: Sandbox) -> None:
    replace(record.ranges, graph_sha256="ab" * 32).save(record.ranges_path)
    card = sandbox.build(**RECORDED, method="minmax")
    assert card.options["quantization"]["recorded"] is False
    noted = [note for note in card.notes if "recorded ranges not used, measured instead" in note]
    assert len(noted) == 1
