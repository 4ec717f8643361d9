"""Records of bundled models fit the models, serve every tile, and are refused when they are old."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import record_ranges
from record_ranges import BUDGET_DB, METHOD, TILE, record

import mirnet_edge as me
from mirnet_edge.bundled import BundledModel, bundled_model
from mirnet_edge.cli import cli
from mirnet_edge.graph.file import graph_sha256, load_graph, read_facts, with_shape
from mirnet_edge.graph.rewrite import rewrite
from mirnet_edge.quantize import QuantizeReport, open_images, quantize_onnx, recorded
from mirnet_edge.quantize.calibration import CalibrationSet
from mirnet_edge.quantize.plan import QuantizationPlan
from mirnet_edge.quantize.qdq import candidates, insert_qdq
from mirnet_edge.quantize.ranges import Ranges, collect_ranges
from mirnet_edge.quantize.recorded import record_files, record_key, recorded_plan
from mirnet_edge.quantize.sensitivity import Judge

COMMAND = "python benchmarks/record_ranges.py"
SMALL = (48, 64)
SIZED: dict[tuple[str, tuple[int, int]], Any] = {}
MODELS = [model for model in me.bundled_models() if record_files(model.name)[0].exists()]
"""The others have no record: their images are measured."""


def sized_graph(original: Any, tile: tuple[int, int]) -> Any:
    """As it is rewritten for a tile; each once, for a test changes none."""
    key = (graph_sha256(original), tile)
    if key not in SIZED:
        SIZED[key] = with_shape(rewrite(with_shape(original, 1, *tile), "tensorrt")[0], 1, *tile)
    return SIZED[key]


def layers(proto: Any) -> dict[str, tuple[Any, ...]]:
    """What each candidate is: operator, attributes, the tensor it reads, its weights."""
    constants = {tensor.name: tensor.SerializeToString() for tensor in proto.graph.initializer}
    names = set(candidates(proto))
    return {
        node.name: (
            *(node.op_type, [item.SerializeToString() for item in node.attribute]),
            *(node.input[0], [constants[name] for name in node.input[1:]]),
        )
        for node in proto.graph.node
        if node.name in names
    }


@pytest.fixture(params=MODELS, ids=lambda model: model.name)
def model(request: pytest.FixtureRequest) -> BundledModel:
    found: BundledModel = request.param
    return found


# The records that ship


def test_the_record_fits_the_model_as_it_is_rewritten_now(model: BundledModel) -> None:
    """If this fails, a model, a rewrite, a rule for candidates or a calibration image changed: run
    ``python benchmarks/record_ranges.py``."""
    original = load_graph(model.onnx)
    sized = sized_graph(original, TILE)
    found = recorded_plan(original, sized)
    assert found is not None, f"{model.name} has no record; make it with: {COMMAND}"
    plan, ranges = found
    images = open_images(read_facts(original), TILE)
    assert ranges.calibration_sha256 == images.sha256, f"other images; record again: {COMMAND}"
    assert (plan.method, plan.budget_db) == (METHOD, BUDGET_DB)
    assert plan.loss_db + plan.loss_error_db <= BUDGET_DB
    assert plan.int8_share > 0.4
    assert plan.macs == QuantizationPlan.load(record_files(model.name)[1]).macs


@pytest.mark.parametrize("tile", [(128, 128), (320, 512), (64, 96), (16, 16)])
def test_layers_are_the_same_at_every_tile(model: BundledModel, tile: tuple[int, int]) -> None:
    original = load_graph(model.onnx)
    sized = sized_graph(original, tile)
    assert layers(sized) == layers(sized_graph(original, TILE))
    found = recorded_plan(original, sized)
    assert found is not None
    plan, ranges = found
    assert plan.graph_sha256 == ranges.graph_sha256 == graph_sha256(sized)
    stored = QuantizationPlan.load(record_files(model.name)[1])
    assert plan.int8_nodes == stored.int8_nodes
    assert plan.macs / stored.macs == pytest.approx(tile[0] * tile[1] / 256**2, rel=0.01)
    assert plan.int8_share == pytest.approx(stored.int8_share, abs=0.01)


def test_the_record_costs_no_more_than_ranges_measured_at_another_tile() -> None:
    """On 16 tiles of each size with noise of another seed recorded and own ranges lose 0.053 and
    0.046 dB at 256x256, 0.047 and 0.041 at 320x512, 0.112 and 0.090 here, where the mean's standard
    error is 0.03. On four tiles they lose 0.36 and 0.30."""
    bundled = bundled_model("edge-s-denoise")
    assert bundled is not None
    original, tile = load_graph(bundled.onnx), (128, 160)
    sized = sized_graph(original, tile)
    found = recorded_plan(original, sized)
    assert found is not None
    plan, ranges = found
    level = read_facts(original).noise_level
    images = CalibrationSet.open(tile=tile, sigma=25.0, count=16, seed=1, noise_level=level)
    judge = Judge(sized, images.tiles, images.targets)
    own = collect_ranges(sized, images.tiles, plan.method, tensors=list(ranges.tensors))
    recorded_db, own_db = (
        judge.cost_db(insert_qdq(sized, each, plan.int8_nodes)) for each in (ranges, own)
    )
    assert 0 < recorded_db < own_db + 0.03


def test_quantizing_a_bundled_model_measures_nothing(
    photo: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def opened(*_: Any, **__: Any) -> CalibrationSet:
        raise AssertionError("images were opened")

    monkeypatch.setattr(CalibrationSet, "open", opened)
    output = tmp_path / "int8.onnx"
    cli.main(["quantize", "edge-s-denoise", str(output), "--tile", "64x96"], standalone_mode=False)
    told = " ".join(capfd.readouterr().out.split())
    assert "recorded ranges were used; --calibration FOLDER measures" in told
    ranges = Ranges.load(tmp_path / "int8.onnx.ranges.json")
    plan = QuantizationPlan.load(tmp_path / "int8.onnx.plan.json")
    assert ranges.graph_sha256 == plan.graph_sha256
    proto = load_graph(output)
    pairs = {n.output[0] for n in proto.graph.node if n.op_type == "DequantizeLinear"}
    assert {n.name for n in proto.graph.node if n.input[0] in pairs} == set(plan.int8_nodes)
    bundled = bundled_model("edge-s-denoise")
    assert bundled is not None
    original = load_graph(bundled.onnx)
    assert plan.graph_sha256 == graph_sha256(sized_graph(original, (64, 96)))
    engine = me.OnnxEngine(bundled.onnx)
    tile = np.full((1, engine.facts.in_planes, 64, 96), 0.2, np.float32)  # a level of 10
    tile[0, :3] = (photo[:64, :96] / 255).transpose(2, 0, 1)
    error = me.OnnxEngine(output).run(tile) - engine.run(tile)
    assert 0 < np.sqrt(np.mean(error**2)) < 0.01


# When a record is used and when not, on a bundle of one tiny model


class Bundle:
    """A folder in the place of ``calibration/``, and one tiny bundled model with a record."""

    def __init__(self, folder: Path, onnx: Path, report: QuantizeReport, key: str) -> None:
        (folder / "net").mkdir()
        self.model = BundledModel("net", folder / "net", {"task": "denoise"})
        shutil.copy(onnx, self.model.onnx)
        self.folder, self.original = folder, load_graph(onnx)
        self.ranges_path, self.plan_path = folder / "net.ranges.json", folder / "net.plan.json"
        self.ranges = replace(Ranges.load(report.ranges_path), graph_sha256=key)
        self.plan = replace(report.plan, graph_sha256=key)
        self.save(self.plan, self.ranges)

    def save(self, plan: QuantizationPlan, ranges: Ranges) -> None:
        plan.save(self.plan_path)
        ranges.save(self.ranges_path)

    def quantize(self, **options: Any) -> QuantizeReport:
        settings = {"tile": SMALL, "budget_db": self.plan.budget_db, **options}
        return quantize_onnx(self.model.onnx, self.folder / "out.onnx", **settings)


@pytest.fixture(scope="module")
def measured(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> QuantizeReport:
    """What a record of the tiny network is made of, all its candidates in INT8."""
    output = tmp_path_factory.mktemp("measured") / "int8.onnx"
    images = CalibrationSet.open(tile=SMALL, count=1, sigma=25.0)
    return quantize_onnx(
        tiny_onnx, output, calibration=images, tile=SMALL, method="mse", budget_db=50.0
    )


@pytest.fixture(scope="module")
def key(tiny_onnx: Path) -> str:
    return record_key(load_graph(tiny_onnx))


@pytest.fixture
def bundle(
    tiny_onnx: Path,
    measured: QuantizeReport,
    key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bundle:
    made = Bundle(tmp_path, tiny_onnx, measured, key)
    monkeypatch.setattr(recorded, "bundled_models", lambda: [made.model])
    monkeypatch.setattr(recorded, "resource_folder", lambda name: tmp_path)
    return made


def test_a_copy_of_the_file_is_known_and_another_network_is_not(
    bundle: Bundle, tmp_path: Path
) -> None:
    copy = shutil.copy(bundle.model.onnx, tmp_path / "copy.onnx")
    output = tmp_path / "out.onnx"
    report = quantize_onnx(copy, output, tile=SMALL, budget_db=50.0)
    assert (report.recorded, report.tiles, report.warnings) == (True, 1, ())
    other = load_graph(copy)
    other.graph.initializer[-1].raw_data = bytes(len(other.graph.initializer[-1].raw_data))
    assert recorded_plan(other, sized_graph(other, SMALL)) is None


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({}, True),
        ({"method": "mse"}, True),
        ({"method": "minmax"}, False),
        ({"sigma": 25.0, "method": "minmax"}, False),
        ({"sigma": 25.0, "method": "mse"}, False),
        ({"calibration": "images", "method": "mse"}, False),
    ],
    ids=["default", "same method", "other method", "both", "noise", "images"],
)
def test_it_serves_the_defaults_and_its_method(
    bundle: Bundle, options: dict[str, Any], used: bool
) -> None:
    if "calibration" in options:
        options = {**options, "calibration": CalibrationSet.open(tile=SMALL, count=2)}
    report = bundle.quantize(**options)
    assert report.recorded is used
    assert (report.plan.method in options.get("method", "mse")) is True
    assert not [text for text in report.warnings if "record" in text]


@pytest.mark.parametrize(
    ("complete", "budget_db", "served"),
    [
        (True, 0.1, True),
        (True, 0.4, True),
        (True, 0.09, True),
        (True, 0.079, False),
        (False, 0.1, True),
        (False, 0.09, True),
        (False, 0.2, False),
        (False, 0.0, False),
    ],
)
def test_it_serves_budgets_for_which_the_choice_is_the_same(
    bundle: Bundle, complete: bool, budget_db: float, served: bool
) -> None:
    first, *others = bundle.plan.groups
    plan = replace(
        bundle.plan,
        **{"loss_db": 0.07, "loss_error_db": 0.01, "budget_db": 0.1},
        groups=(replace(first, int8=complete), *others),
    )
    bundle.save(plan, bundle.ranges)
    found = recorded_plan(bundle.original, sized_graph(bundle.original, SMALL), "auto", budget_db)
    assert (found is not None) is served
    assert found is None or found[0].budget_db == budget_db


def other_graph(bundle: Bundle) -> None:
    bundle.save(bundle.plan, replace(bundle.ranges, graph_sha256="ab" * 32))


def other_plan(bundle: Bundle) -> None:
    bundle.save(replace(bundle.plan, graph_sha256="cd" * 32), bundle.ranges)


def other_method(bundle: Bundle) -> None:
    bundle.save(replace(bundle.plan, method="minmax"), bundle.ranges)


def unknown_layer(bundle: Bundle) -> None:
    first, *others = bundle.plan.groups
    groups = (replace(first, nodes=(*first.nodes, "a.layer")), *others)
    bundle.save(replace(bundle.plan, groups=groups), bundle.ranges)


def new_layer(bundle: Bundle) -> None:
    bundle.save(replace(bundle.plan, groups=bundle.plan.groups[1:]), bundle.ranges)


def missing_tensor(bundle: Bundle) -> None:
    tensors = dict(list(bundle.ranges.tensors.items())[1:])
    bundle.save(bundle.plan, replace(bundle.ranges, tensors=tensors))


def damaged(bundle: Bundle) -> None:
    bundle.plan_path.write_text(json.dumps({"format": 1}))


def half(bundle: Bundle) -> None:
    bundle.ranges_path.unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (other_graph, r"ranges of net are of the rewritten graph abababab.* python bench"),
        (other_plan, r"plan of net are of the rewritten graph cdcdcdcd.* python bench"),
        (other_method, r"ranges by minmax, which are by mse.* python bench"),
        (unknown_layer, r"is for (\d+) convolutions, but (?!\1)\d+ may.*'a.layer'.* python bench"),
        (new_layer, r"is for (\d+) convolutions, but (?!\1)\d+ may be quantized.* python bench"),
        (missing_tensor, r"ranges of net lack the tensor '.*python bench"),
        (damaged, "net.plan.json: no quantization plan of format 1"),
        (half, "net.ranges.json: no such file"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_an_old_record_is_refused_with_the_reason(
    bundle: Bundle, spoil: Callable[[Bundle], None], reason: str
) -> None:
    spoil(bundle)
    with pytest.raises(me.CalibrationError, match=reason):
        recorded_plan(bundle.original, sized_graph(bundle.original, SMALL), "auto", 50.0)


def test_instead_of_an_old_record_is_measured(bundle: Bundle) -> None:
    other_graph(bundle)
    report = bundle.quantize(method="mse")
    assert not report.recorded
    assert report.warnings[0].startswith("recorded ranges not used, measured instead: the ranges")
    assert report.tiles == 16


def test_a_plan_with_layers_that_may_no_longer_be_int8_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    banned = bundle.plan.int8_nodes[0]
    fewer = [name for name in candidates(sized_graph(bundle.original, SMALL)) if name != banned]
    monkeypatch.setattr(recorded, "candidates", lambda proto: fewer)
    with pytest.raises(me.CalibrationError, match=f"{banned}.*{COMMAND}"):
        recorded_plan(bundle.original, sized_graph(bundle.original, SMALL))


def test_a_model_without_a_record_is_measured_without_a_word(bundle: Bundle) -> None:
    bundle.plan_path.unlink()
    bundle.ranges_path.unlink()
    report = bundle.quantize(method="mse")
    assert not report.recorded
    assert not [text for text in report.warnings if "record" in text]


@pytest.mark.slow
def test_the_script_makes_the_record_again(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle.plan_path.unlink()
    bundle.ranges_path.unlink()
    monkeypatch.setattr(record_ranges, "TILE", SMALL)
    record(bundle.model)
    found = recorded_plan(bundle.original, sized_graph(bundle.original, SMALL), METHOD, BUDGET_DB)
    assert found is not None
    assert found[0].method == METHOD
