"""From an exported file and a calibration set to a quantized file, its ranges and its plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import mirnet_edge as me
from mirnet_edge.engines.onnx_engine import OnnxEngine
from mirnet_edge.graph.file import load_graph
from mirnet_edge.quantize import QuantizeReport, quantize_onnx
from mirnet_edge.quantize.calibration import CalibrationSet
from mirnet_edge.quantize.plan import QuantizationPlan
from mirnet_edge.quantize.ranges import Ranges

TILE = (36, 44)


@pytest.fixture(scope="module")
def report(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> QuantizeReport:
    """The tiny network, quantized on the bundled images with a budget that any plan keeps."""
    folder = tmp_path_factory.mktemp("quantized")
    return quantize_onnx(
        tiny_onnx, folder / "int8.onnx", tile=TILE, method="percentile", budget_db=50.0
    )


def test_three_files_are_written_that_belong_together(report: QuantizeReport) -> None:
    plan, ranges = QuantizationPlan.load(report.plan_path), Ranges.load(report.ranges_path)
    assert report.ranges_path.name == "int8.onnx.ranges.json"
    assert report.plan_path.name == "int8.onnx.plan.json"
    assert plan == report.plan
    assert plan.graph_sha256 == ranges.graph_sha256
    assert sorted(item.name for item in report.path.parent.iterdir()) == sorted(
        item.name for item in (report.path, report.ranges_path, report.plan_path)
    )


def test_the_graph_quantizes_what_the_plan_says(report: QuantizeReport) -> None:
    proto = load_graph(report.path)
    onnx.checker.check_model(proto, full_check=True)
    written = {n.output[0] for n in proto.graph.node if n.op_type == "DequantizeLinear"}
    found = {node.name for node in proto.graph.node if node.input[0] in written}
    assert found == set(report.plan.int8_nodes)
    assert report.plan.int8_nodes
    assert 0 < report.plan.int8_share < 1


def test_it_runs_on_the_portable_engine_and_keeps_its_facts(
    report: QuantizeReport, tiny_onnx: Path
) -> None:
    tiles = np.random.Generator(np.random.PCG64(1)).random((1, 3, *TILE), np.float32)
    with closing(OnnxEngine(report.path)) as quantized, closing(OnnxEngine(tiny_onnx)) as original:
        assert quantized.facts == original.facts
        assert quantized.fixed_size == TILE
        found, expected = quantized.run(tiles), original.run(tiles)
    error = np.abs(found - expected).max() / np.ptp(expected)
    assert 0 < error < 0.1


def test_its_metadata_tells_the_plan(report: QuantizeReport) -> None:
    metadata = {item.key: item.value for item in load_graph(report.path).metadata_props}
    told = json.loads(metadata["mirnet_edge.quantization"])
    assert told["method"] == report.plan.method
    assert told["int8_layers"] == len(report.plan.int8_nodes)
    assert told["against"] == "targets", "a denoiser on the bundled images is given noise"


def test_an_open_set_and_a_method_can_be_given(tiny_onnx: Path, tmp_path: Path) -> None:
    images = CalibrationSet.open(tile=TILE, count=2)
    found = quantize_onnx(
        tiny_onnx,
        tmp_path / "int8.onnx",
        calibration=images,
        tile=TILE,
        method="minmax",
        budget_db=50.0,
    )
    assert set(found.plan.all_int8_loss_db) == {"minmax"}
    assert found.tiles == 2
    assert found.plan.against == "fp32"
    assert found.warnings == tuple(images.warnings)
    assert Ranges.load(found.ranges_path).calibration_sha256 == images.sha256


def existing(source: Path, folder: Path, _: Path) -> QuantizeReport:
    (folder / "int8.onnx.plan.json").touch()
    return quantize_onnx(source, folder / "int8.onnx", overwrite=False)


def wrong_tiles(source: Path, folder: Path, _: Path) -> QuantizeReport:
    images = CalibrationSet.open(tile=(32, 32), count=2)
    return quantize_onnx(source, folder / "int8.onnx", calibration=images, tile=TILE)


def no_budget(source: Path, folder: Path, _: Path) -> QuantizeReport:
    images = CalibrationSet.open(tile=TILE, count=1)
    return quantize_onnx(
        source, folder / "a.onnx", calibration=images, tile=TILE, method="minmax", budget_db=0
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (existing, me.OutputError, "int8.onnx.plan.json exists"),
        (wrong_tiles, me.CalibrationError, "tiles are 32x32, but the graph is made for 36x44"),
        (no_budget, me.GraphError, r"no layer fits a budget of 0 dB: the cheapest, .* alone costs"),
        (lambda s, f, q: quantize_onnx(q, f / "a.onnx"), me.GraphError, "Q/DQ pairs already"),
        (lambda s, f, q: quantize_onnx(s, f / "a.engine"), me.GraphError, "must end in .onnx"),
        (
            lambda s, f, q: quantize_onnx(s, f / "a.onnx", method="max"),
            me.CalibrationError,
            "method 'max': use auto or one of minmax",
        ),
        (
            lambda s, f, q: quantize_onnx(s, f / "a.onnx", budget_db=-1),
            me.CalibrationError,
            "budget_db=-1: it may not be negative",
        ),
    ],
    ids=["exists", "tiles", "budget", "quantized", "suffix", "method", "negative"],
)
def test_what_cannot_be_quantized_is_refused_and_nothing_written(
    call: Callable[..., Any],
    error: type[Exception],
    message: str,
    tiny_onnx: Path,
    report: QuantizeReport,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        call(tiny_onnx, tmp_path, report.path)
    assert not list(tmp_path.glob("*.onnx"))
    assert not list(tmp_path.glob("*.ranges.json"))


@pytest.mark.parametrize("full_at", [".onnx", ".plan.json"])
def test_a_disk_that_fills_up_leaves_none_of_the_three(
    full_at: str, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "int8.onnx"
    write = Path.write_bytes if full_at == ".onnx" else Path.write_text
    count = iter(range(9))

    def written(path: Path, *arguments: Any, **options: Any) -> int:
        if path.name.startswith(".") and next(count) == (full_at != ".onnx"):
            raise OSError(28, "No space left on device")
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, write.__name__, written)
    images = CalibrationSet.open(tile=TILE, count=1)
    with pytest.raises(me.OutputError, match="no space left"):
        quantize_onnx(
            tiny_onnx, target, calibration=images, tile=TILE, method="minmax", budget_db=50.0
        )
    assert list(tmp_path.iterdir()) == []
