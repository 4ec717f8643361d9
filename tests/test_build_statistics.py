"""Apply and gather engines beside the plain one, with a TensorRT that builds nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import graph_samples
import numpy as np
import onnx
import pytest
from build_sandbox import Sandbox, quantize
from conftest import RawGraph
from fake_tensorrt import make_plan, plan_of_graph

import mirnet_edge as me
from mirnet_edge import errors
from mirnet_edge._files import file_sha256
from mirnet_edge.build import process
from mirnet_edge.build.graphs import MAKERS, open_source, pairs_put
from mirnet_edge.build.process import BuildAnswer
from mirnet_edge.bundled import bundled_model
from mirnet_edge.engines.card import EngineCard, Kind, card_path, kind_path
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.graph.file import has_qdq, load_graph, with_shape
from mirnet_edge.graph.rewrite import rewrite, rewritten_for_tensorrt
from mirnet_edge.pooling.vectors import Pool, Weights
from mirnet_edge.quantize.qdq import candidates, insert_qdq
from mirnet_edge.trt.engine import TensorRTEngine

KINDS: list[Kind] = ["apply", "gather"]
POOLS = (Pool("h", "mean", 16, 1),)


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    return Sandbox(tmp_path, monkeypatch)


def cards(sandbox: Sandbox) -> dict[Kind, EngineCard]:
    """Of the engines beside the plain one, which are those their cards describe."""
    found = {kind: EngineCard.load(card_path(kind_path(sandbox.engine, kind))) for kind in KINDS}
    for kind, card in found.items():
        assert card.engine_sha256 == file_sha256(kind_path(sandbox.engine, kind))
    return found


@pytest.mark.parametrize("release", ["8.6.1", "10.3.0", "11.4.0"])
def test_three_engines_have_three_cards(release: str, sandbox: Sandbox) -> None:
    sandbox.release(release)
    plain = sandbox.build(statistics=True)
    names = {"net.engine", "net.apply.engine", "net.gather.engine"}
    assert sandbox.left() == {
        *names, *(f"{name}.json" for name in names), f"Orin-{release}.timing_cache"
    }  # fmt: skip
    found = cards(sandbox)
    assert (plain.kind, plain.pools) == ("plain", ())
    assert len({plain.key, *(card.key for card in found.values())}) == 3
    for kind, card in found.items():
        assert (card.kind, card.pools, card.precision) == (kind, POOLS, "fp16")
        assert card.strongly_typed == plain.strongly_typed
        assert card.graph_sha256 == plain.graph_sha256
    sides = {tensor.name: tensor.shape for tensor in found["gather"].inputs[1:]}
    assert sides == {
        "rows": (1, 1, 20, 1), "columns": (1, 1, 1, 28), "own": (1, 1, 1, 1),
        "statistic.0": (1, 16, 1, 1),
    }  # fmt: skip
    assert [tensor.name for tensor in found["gather"].outputs] == ["output", "gathered.0"]
    assert [tensor.name for tensor in found["apply"].inputs] == ["input", "statistic.0"]


@pytest.mark.parametrize(("options", "least_db"), [({}, 50), ({"precision": "fp32"}, 100)])
@pytest.mark.parametrize("batch", [1, 3])
def test_their_accuracy_is_that_of_each_tile_with_its_own_statistics(
    batch: int, options: dict[str, Any], least_db: float, sandbox: Sandbox
) -> None:
    sandbox.release("11.4.0")
    plain = sandbox.build(statistics=True, sigma=25, batch=batch, **options)
    for card in (plain, *cards(sandbox).values()):
        assert card.measured is not None
        assert card.measured.psnr_vs_fp32_db is not None
        assert card.measured.psnr_vs_fp32_db > least_db, card.kind
        assert (card.measured.graph_ms, card.measured.tiles) == (1.0, 8)
        assert card.measured.task_loss_db is not None
        assert abs(card.measured.task_loss_db) < 0.01


@pytest.mark.parametrize("release", ["8.6.1", "11.4.0"])
def test_only_images_are_float16(release: str, sandbox: Sandbox) -> None:
    sandbox.release(release)
    sandbox.build(statistics=True, io="float16")
    for kind in KINDS:
        plan = json.loads(kind_path(sandbox.engine, kind).read_bytes())
        if release == "8.6.1":
            assert plan["dtypes"].count("HALF") == 2
            assert plan["dtypes"][0] == "HALF"
        else:
            graph = onnx.load_from_string(__import__("base64").b64decode(plan["onnx"])).graph
            halves = [
                value.name
                for value in (*graph.input, *graph.output)
                if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
            ]
            assert halves == ["input", "output"]


def test_only_what_is_missing_is_built(sandbox: Sandbox) -> None:
    sandbox.build()
    sandbox.build(statistics=True)
    before = cards(sandbox)
    assert sum(phase == "building" for phase, _, _ in sandbox.events) >= 2
    sandbox.build(statistics=True)
    assert not sandbox.built
    kind_path(sandbox.engine, "apply").unlink()
    sandbox.build(statistics=True, overwrite=False)
    assert sandbox.built
    assert cards(sandbox)["apply"].key == before["apply"].key
    assert cards(sandbox)["gather"] == before["gather"]


def test_other_engines_are_not_replaced_unasked_and_nothing_is_built_before(
    sandbox: Sandbox,
) -> None:
    kind_path(sandbox.engine, "gather").write_bytes(b"another")
    with pytest.raises(errors.OutputError, match=r"net\.gather\.engine.*exists"):
        sandbox.build(statistics=True, overwrite=False)
    assert not sandbox.built
    assert sandbox.left() == {"net.gather.engine"}


def test_int8_engines_beside_int8(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_TIMES", '{"int8": 0.7}')
    options = {"precision": "int8", "method": "minmax", "budget_db": 3, "statistics": True}
    for release in ("8.6.1", "11.4.0"):
        sandbox.release(release)
        plain = sandbox.build(**options)
        for card in cards(sandbox).values():
            assert card.precision == "int8"
            assert card.layers_by_precision()["INT8"] == plain.layers_by_precision()["INT8"]
            assert card.notes == plain.notes
        sandbox.build(**options)
        assert not sandbox.built


def test_what_tensorrt_refused_of_the_plain_engine_is_not_tried_again(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_TIMES", '{"int8": 0.7}')
    sandbox.release("8.6.1")
    sandbox.fault("marked sums")
    builds, run_build = [], process.run_build

    def counted(folder: Path, progress: StageProgress | None) -> BuildAnswer:
        builds.append(folder)
        return run_build(folder, progress)

    monkeypatch.setattr(process, "run_build", counted)
    plain = sandbox.build(precision="int8", method="minmax", budget_db=3, statistics=True)
    assert len(builds) == 1 + 2 + 1 + 1, "FP16, INT8 twice, apply, gather"
    for card in cards(sandbox).values():
        assert card.layers_by_precision()["INT8"] == plain.layers_by_precision()["INT8"]
        assert card.notes == plain.notes


def test_a_quantized_file_has_no_statistics_engines(sandbox: Sandbox) -> None:
    sandbox.onnx = quantize(sandbox.onnx, sandbox.folder / "net.int8.onnx").path
    with pytest.raises(errors.GraphError, match="from the float graph, with precision='int8'"):
        sandbox.build(precision="int8", statistics=True)
    assert not sandbox.built


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_those_of_the_plain_graph(kind: Kind) -> None:
    bundled = bundled_model("edge-s-denoise")
    assert bundled is not None
    source = open_source(bundled.onnx, (64, 64), 1, True)
    names = candidates(source.rewritten)
    ranges = graph_samples.ranges_of(source.rewritten)
    plain = insert_qdq(source.rewritten, ranges, names)
    bare = rewritten_for_tensorrt(MAKERS[kind](source.sized), 1, (64, 64))
    paired, notes = pairs_put(bare, source.rewritten, ranges, names)
    assert notes == ()
    assert scales_of(paired) == scales_of(plain)
    assert len(scales_of(plain)) > len(names) > 20, "weights and activations"


def test_convolutions_that_read_other_tensors_are_noted() -> None:
    source = graph_samples.network()
    ranges, names = graph_samples.ranges_of(source), ["one", "two"]
    other = graph_samples.network()
    for node in other.graph.node:
        if node.name == "two":
            node.input[0] = "b"
    paired, notes = pairs_put(other, source, ranges, names)
    assert len(scales_of(paired)) == 2
    assert "1 of the 2 convolutions" in notes[0]
    assert "are FP16: two" in notes[0]
    for node in other.graph.node:
        node.name += "'"
    unpaired, notes = pairs_put(other, source, ranges, names)
    assert not has_qdq(unpaired)
    assert "2 of the 2 convolutions" in notes[0]


def scales_of(proto: Any) -> dict[str, list[float]]:
    """Of each quantized tensor."""
    arrays = {tensor.name: tensor for tensor in proto.graph.initializer}
    return {
        node.input[0]: onnx.numpy_helper.to_array(arrays[node.input[1]]).ravel().tolist()
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear"
    }


def test_engines_of_a_network_that_is_told_the_level(raw_graph: RawGraph, sandbox: Sandbox) -> None:
    """They are compared on tiles that tell the level of the noise that was added to them."""
    onnx.save(rewrite(raw_graph("edge"))[0], sandbox.onnx)
    size = (24, 40)
    plain = sandbox.build(tile=size, batch=2, statistics=True, calibration=None)
    for card in (plain, *cards(sandbox).values()):
        assert card.facts.noise_level
        assert (card.inputs[0].shape, card.outputs[0].shape) == ((2, 4, *size), (2, 3, *size))
        assert card.measured is not None
        assert card.measured.tiles == 8
        assert card.measured.psnr_vs_fp32_db is not None
        assert card.measured.psnr_vs_fp32_db > 50
    scales = {pool.scale for pool in cards(sandbox)["gather"].pools}
    assert scales == {2, 4, 8}, "of the frame, not of its blocks"
    with pytest.raises(errors.TilingError, match="multiples of 8 pixels; the next is 24x32"):
        sandbox.build(tile=(20, 28))


def test_without_a_tile_the_next_from_256_is_taken(raw_graph: RawGraph, sandbox: Sandbox) -> None:
    onnx.save(raw_graph("edge-x3"), sandbox.onnx)
    assert sandbox.build(tile=None).tile == (264, 264)


def test_a_plan_that_is_given_statistics_is_run(trt: ModuleType, tmp_path: Path) -> None:
    size, batch = (16, 24), 2
    bundled = bundled_model("edge-s-denoise")
    assert bundled is not None
    plain = load_graph(bundled.onnx)
    engine = me.OnnxEngine(bundled.onnx, provider="CPUExecutionProvider")
    tiles = np.random.default_rng(0).random((3, engine.facts.in_planes, *size), np.float32)
    whole = Weights.of(size, slice(0, size[0]), slice(0, size[1]))
    expected, vectors = [], []
    for tile in tiles:
        restored, partial = engine.statistics.gather(tile[None], whole, None)
        expected.append(restored[0].copy())
        vectors.append(partial.vectors)
    named = {f"statistic.{i}": np.concatenate(stack) for i, stack in enumerate(zip(*vectors))}
    graph = with_shape(MAKERS["apply"](with_shape(plain, batch, *size)), batch, *size)
    plan = tmp_path / "x.engine"
    plan.write_bytes(make_plan(**plan_of_graph(graph)))
    with TensorRTEngine(plan, trust=True) as given:
        found = given.run_given(tiles, named)
        assert given.measure(1)[0], "it is timed by the same engine"
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-4)
