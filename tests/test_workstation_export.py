"""Exported graphs against PyTorch, for every preset, and what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import graph_samples
import numpy as np
import onnx
import pytest
import torch
from conftest import TINY, RawGraph, fitting, lively, run_graph

import mirnet_edge as me
from mirnet_edge.graph.cost import peak_activation_bytes
from mirnet_edge.graph.file import with_shape
from mirnet_edge.graph.rewrite import Target, rewrite
from mirnet_edge.model.config import PRESETS
from mirnet_edge.model.layers import Network
from mirnet_edge.workstation import export as export_module
from mirnet_edge.workstation.export import _checked, _simplified

ODD_SIZES = {"open": [(8, 132), (52, 36), (84, 20)], "fixed": [(32, 48)]}
PUBLISHED = replace(PRESETS["mirnet-v2"], groups=(4,), n_mrb=1)
"""One block of ``mirnet-v2``, whose whole takes most of a minute to export."""


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.ptp(expected))


@pytest.mark.slow
def test_a_published_network_in_onnx_runtime_equals_pytorch(tmp_path: Path) -> None:
    network = me.create_model(PUBLISHED, seed=0)
    report = me.export_onnx(network, tmp_path / "model.onnx")
    assert report.error <= 1e-4
    check_equals_pytorch(report.path, network, "open")


def test_so_does_one_of_a_fixed_size(tmp_path: Path) -> None:
    network = me.create_model(TINY["edge"], seed=0)
    (size,) = ODD_SIZES["fixed"]
    report = me.export_onnx(network, tmp_path / "x.onnx", size=size, task="denoise")
    assert report.error <= 1e-4
    check_equals_pytorch(report.path, network, "fixed")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edge-s", "edge", "edge-x3", "edge-x4"])
def test_so_does_a_network_on_blocks_of_pixels(
    name: str, raw_graph: RawGraph, tmp_path: Path
) -> None:
    network = lively(me.create_model(TINY.get(name, name)))
    for proto in (raw_graph(name), rewrite(raw_graph(name))[0]):
        onnx.save(proto, tmp_path / "x.onnx")
        check_equals_pytorch(tmp_path / "x.onnx", network, "open")


def check_equals_pytorch(path: Path, network: Network, kind: str) -> None:
    engine = me.OnnxEngine(path)
    assert (engine.fixed_size is None) == (kind == "open")
    for size in ODD_SIZES[kind]:
        height, width = map(engine.facts.size_rule.padded, size)
        shape = (1, network.config.in_planes, height, width)
        tiles = np.random.default_rng(height).random(shape, np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(tiles)).numpy()
        assert relative_error(engine.run(tiles), expected) <= 1e-4


def test_a_network_exports_with_opset_18(tmp_path: Path) -> None:
    network = me.create_model(TINY["edge"], seed=0)
    (size,) = ODD_SIZES["fixed"]
    me.export_onnx(network, tmp_path / "x.onnx", size=size, opset=18)
    tiles = np.random.default_rng(0).random((1, network.config.in_planes, *size), np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(tiles)).numpy()
    found = me.OnnxEngine(tmp_path / "x.onnx").run(tiles)
    assert relative_error(found, expected) <= 1e-4
    assert onnx.load(tmp_path / "x.onnx").opset_import[0].version == 18


@pytest.mark.parametrize("name", TINY)
def test_any_graph_can_be_said_in_opset_18(name: str, raw_graph: RawGraph) -> None:
    size = fitting(name, (24, 40))
    proto = rewrite(raw_graph(name))[0]
    newer = _checked(proto, 18)
    assert newer.opset_import[0].version == 18
    found, expected = (run_graph(with_shape(graph, 1, *size), seed=0) for graph in (newer, proto))
    assert relative_error(found, expected) <= 1e-5


def test_facts_travel_in_the_metadata(tmp_path: Path) -> None:
    network = me.create_model("edge-s", seed=0)
    report = me.export_onnx(network, tmp_path / "x.onnx", task="denoise")
    facts = me.OnnxEngine(report.path).facts
    assert facts == report.facts
    assert facts.task == "denoise"
    assert facts.preset == "edge-s"
    assert facts.local_support_px == 96
    assert facts.bytes_per_pixel
    assert len(facts.weights_sha256) == 64
    assert report.size_bytes == report.path.stat().st_size


@pytest.mark.parametrize("name", ["edge", "edge-x3", "edge-x4"])
@pytest.mark.parametrize("form", ["raw", "any", "tensorrt"])
def test_blocks_of_pixels_are_one_convolution_and_one_depth_to_space(
    name: str, form: Target | Literal["raw"], raw_graph: RawGraph
) -> None:
    config = TINY[name]
    raw = raw_graph(name)
    graph = (raw if form == "raw" else rewrite(raw, form)[0]).graph
    kinds = Counter(node.op_type for node in graph.node)
    # A context block's product of positions and weights has the one Transpose there may be.
    assert kinds["Shape"] == 0 == kinds["Transpose"] * (not config.context)
    assert kinds["DepthToSpace"] == 1
    first = next(node for node in graph.node if node.op_type == "Conv")
    assert first.input[0] == "input"
    told = {item.name: list(item.ints) for item in first.attribute if item.ints}
    side = config.shuffle
    assert (told["kernel_shape"], told["strides"]) == ([3 * side] * 2, [side] * 2)
    assert told["pads"] == [side] * 4
    readers = Counter(node.op_type for node in graph.node if "input" in node.input)
    assert readers == {"Conv": 1, "Slice" if config.noise_level else "Add": 1}


def test_scale_and_noise_level_travel(tmp_path: Path) -> None:
    network = me.create_model(TINY["edge"], seed=0)
    me.save_model(network, tmp_path / "x.safetensors", "super-resolution", scale=2)
    loaded = me.load_model(tmp_path / "x.safetensors")
    facts = me.export_onnx(loaded, tmp_path / "x.onnx").facts
    assert facts == me.OnnxEngine(tmp_path / "x.onnx").facts
    assert (facts.scale, facts.noise_level, facts.in_planes) == (2, True, 4)
    assert (facts.size_multiple, facts.min_size_px) == (8, 8)
    assert facts.weights_sha256 == loaded.facts.weights_sha256
    assert network.conv_in.weight.shape == (8, 16, 3, 3), "the network that came was changed"


def test_graph_is_opset_17_with_named_sizes_and_no_newer_options(tiny_onnx: Path) -> None:
    proto = onnx.load(tiny_onnx)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == 17
    assert proto.ir_version == 8
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == [1, 3, "height", "width"]
    assert {"Shape", "Loop", "If"}.isdisjoint(node.op_type for node in proto.graph.node)


def test_graph_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(proto: onnx.ModelProto) -> onnx.ModelProto:
        spoiled = simplify(proto)
        weights = next(t for t in spoiled.graph.initializer if t.name == "conv_out.weight")
        values = onnx.numpy_helper.to_array(weights) * np.float32(1.1)
        weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
        return spoiled

    simplify = export_module._simplified
    monkeypatch.setattr(export_module, "_simplified", spoil)
    (size,) = ODD_SIZES["fixed"]
    with pytest.raises(me.ExportError, match=r"differs from PyTorch by \d\.\d+e-0\d"):
        me.export_onnx(me.create_model(TINY["edge"], seed=0), tmp_path / "x.onnx", size=size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (30, 32)}, r"size=\(30, 32\)"),
        ({"size": (0, 32)}, r"size=\(0, 32\)"),
        ({"opset": 16}, "opset=16"),
    ],
)
def test_impossible_exports_are_refused(
    arguments: dict[str, object], message: str, tmp_path: Path
) -> None:
    network = me.create_model(TINY["mirnet-v2"])
    with pytest.raises(me.ExportError, match=message):
        me.export_onnx(network, tmp_path / "x.onnx", **arguments)  # type: ignore[arg-type]


def test_names_and_existing_files_are_checked_first(tmp_path: Path) -> None:
    network = me.create_model(TINY["mirnet-v2"])
    with pytest.raises(me.ExportError, match=r"must end in \.onnx"):
        me.export_onnx(network, tmp_path / "x.pb")
    (tmp_path / "x.onnx").write_bytes(b"mine")
    with pytest.raises(me.OutputError, match="exists"):
        me.export_onnx(network, tmp_path / "x.onnx", overwrite=False)
    assert (tmp_path / "x.onnx").read_bytes() == b"mine"
    with pytest.raises(me.OutputError, match="no folder"):
        me.export_onnx(network, tmp_path / "missing" / "x.onnx")


def test_peak_memory_counts_what_is_alive() -> None:
    """input -> Relu a -> Relu b; then a + b: three maps of 8x8 are alive when the sum is made."""
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("Relu", ["x"], ["a"]),
        make("Relu", ["a"], ["b"]),
        make("Add", ["a", "b"], ["y"]),
    ]
    x, y = (info(name, onnx.TensorProto.FLOAT, [1, 1, "h", "w"]) for name in "xy")
    proto = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y]))
    assert peak_activation_bytes(proto, 8, 8) == 3 * 8 * 8 * 4
    assert peak_activation_bytes(proto, 16, 8) == 3 * 16 * 8 * 4


def test_kernel_sizes_are_told_where_the_exporter_leaves_them_to_the_weight() -> None:
    proto = graph_samples.network()
    told = {tensor.name: list(tensor.dims[2:]) for tensor in proto.graph.initializer}
    assert not any(item.name == "kernel_shape" for n in proto.graph.node for item in n.attribute)
    convolutions = [n for n in _simplified(proto).graph.node if n.op_type.startswith("Conv")]
    assert len(convolutions) > 5
    for node in convolutions:
        (kernel,) = (list(item.ints) for item in node.attribute if item.name == "kernel_shape")
        assert kernel == told[node.input[1]], node.name
