"""Every rewrite computes what the graph computed, on random weights and odd sizes, and does what it
is for."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from conftest import TINY, RawGraph, fitting, run_graph
from graph_samples import relative_error

import mirnet_edge as me
from mirnet_edge.graph.cost import bytes_moved
from mirnet_edge.graph.file import dims_of, with_shape
from mirnet_edge.graph.rewrite import FOR_ANY, FOR_TENSORRT, rewrite
from mirnet_edge.graph.rewrite.edit import GraphEditor

SIZES = [(8, 12), (20, 44), (64, 72), (36, 260)]
"""Height and width: the least, odd multiples of 4, blocks of 8, blocks that do not fit."""
PASSES = (*FOR_ANY, *FOR_TENSORRT)
NETWORKS = ["mirnet", "mirnet-two-streams", "mirnet-v2", "defocus", "edge", "edge-x3"]
APPLIES_TO = {
    "leaky_relus": {"mirnet", "mirnet-two-streams"},
    "weighted_sums": set(NETWORKS),
    "convolutions_before_upsampling": {"mirnet", "mirnet-two-streams"},
    "means_through_linear_maps": set(NETWORKS),
    "strided_convolutions": {"mirnet-v2", "defocus", "edge", "edge-x3"},
    "blur_pools": {"mirnet", "mirnet-two-streams"},
    "attention_tails": {"mirnet", "mirnet-two-streams"},
    "dense_groups": {"mirnet-v2"},
    "spatial_softmaxes": {"mirnet-v2", "defocus", "edge-x3"},
    "staged_means": set(NETWORKS),
}


def sizes_of(network: str) -> list[tuple[int, int]]:
    """At which the convolutions of a network work at `SIZES`."""
    side = TINY[network].shuffle
    return [(side * height, side * width) for height, width in SIZES]


def operators(proto: Any) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def parsed(text: str, **weights: tuple[int, ...]) -> Any:
    """A graph in ONNX's text form, with random weights of these shapes."""
    proto = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, shape in weights.items():
        array = random.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def applied(run: Any, proto: Any) -> tuple[Any, int]:
    """The graph after one pass, and how often it applied."""
    editor = GraphEditor(proto)
    changes = editor.apply(run)
    return editor.to_proto(), changes


Plain = Callable[[str, int, int], tuple[Any, np.ndarray]]


@pytest.fixture(scope="module")
def plain(raw_graph: RawGraph) -> Plain:
    """A network's graph of a size before any rewrite, and its output, run once."""

    @functools.cache
    def made(network: str, height: int, width: int) -> tuple[Any, np.ndarray]:
        proto = with_shape(raw_graph(network), 1, height, width)
        return proto, run_graph(proto, seed=1)

    return made


def connections(proto: Any) -> list[tuple[str, list[str], list[str]]]:
    return [(node.op_type, list(node.input), list(node.output)) for node in proto.graph.node]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("run", PASSES)
def test_a_pass_alone_computes_the_same(run: Any, network: str, plain: Plain) -> None:
    changes = 0
    for height, width in sizes_of(network):
        proto, expected = plain(network, height, width)
        changed, times = applied(run, proto)
        changes += times
        if not times:
            assert connections(changed) == connections(proto)
            continue
        onnx.checker.check_model(changed, full_check=True)
        assert relative_error(run_graph(changed, seed=1), expected) <= 1e-5
    assert (changes > 0) == (network in APPLIES_TO[run.__name__])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("network", NETWORKS)
def test_all_passes_compute_the_same_for_every_tile_of_a_batch(
    network: str, batch: int, raw_graph: RawGraph
) -> None:
    raw = raw_graph(network)
    for height, width in sizes_of(network)[1:]:
        changed, reports = rewrite(with_shape(raw, batch, height, width), "tensorrt")
        assert [report.name for report in reports[1:]] == [item.__name__ for item in PASSES]
        found = run_graph(changed, seed=2)
        tiles = np.random.default_rng(2).random((batch, found.shape[1], height, width))
        assert found.shape[0] == batch == len(tiles)
        plain = with_shape(raw, 1, height, width)
        expected = np.concatenate([run_graph(plain, seed=2, index=i) for i in range(batch)])
        assert relative_error(found, expected) <= 1e-5


@pytest.mark.parametrize("network", NETWORKS)
def test_passes_for_any_runtime_keep_sizes_open(
    network: str, raw_graph: RawGraph, plain: Plain
) -> None:
    changed, _ = rewrite(raw_graph(network), "any")
    for height, width in sizes_of(network):
        found = run_graph(with_shape(changed, 1, height, width), seed=1)
        assert relative_error(found, plain(network, height, width)[1]) <= 1e-5


@pytest.mark.parametrize("network", NETWORKS)
def test_rewriting_twice_changes_nothing(network: str, raw_graph: RawGraph) -> None:
    once, _ = rewrite(with_shape(raw_graph(network), 1, *fitting(network, (64, 64))), "tensorrt")
    again, reports = rewrite(once, "tensorrt")
    stages = {"staged_means"}  # a mean of blocks is a mean again, of a map too small to stage
    assert [report.name for report in reports if report.changes and report.name not in stages] == []
    assert len(again.graph.node) == len(once.graph.node)


def test_fusion_has_no_concatenation_and_no_five_dimensions(raw_graph: RawGraph) -> None:
    for network in NETWORKS:
        size = fitting(network, (32, 32))
        proto = with_shape(raw_graph(network), 1, *size)
        before, changed = operators(proto), rewrite(proto)[0]
        after = operators(changed)
        assert before["Slice"] > 1
        # That of the frame without the plane of its noise level stays.
        assert (after["Slice"], after["Squeeze"]) == (TINY[network].noise_level, 0)
        ranks = {
            len(v.type.tensor_type.shape.dim)
            for v in with_shape(changed, 1, *size).graph.value_info
        }
        assert max(ranks) == 4


def test_means_of_sums_are_taken_before_the_sum(raw_graph: RawGraph) -> None:
    """No map is made for its mean alone: every input of a mean over the frame is read elsewhere."""
    for network in ("mirnet", "mirnet-v2"):
        graph = rewrite(with_shape(raw_graph(network), 1, 64, 64))[0].graph
        readers: dict[str, list[str]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node.op_type)
        means = [n for n in graph.node if n.op_type == "ReduceMean" and _axes(n) == [2, 3]]
        assert means
        for mean in means:
            assert set(readers[mean.input[0]]) != {"ReduceMean"}


def test_v2_takes_each_mean_over_the_frame_once(raw_graph: RawGraph) -> None:
    """4 fusions a block read means of 3 streams in 2 passes: the other ones follow."""
    raw = with_shape(raw_graph("mirnet-v2"), 1, 64, 64)
    changed, _ = rewrite(raw)
    counts = []
    for graph in (raw.graph, with_shape(changed, 1, 64, 64).graph):
        width = {value.name: dims_of(value)[-1] for value in graph.value_info}
        means = [n for n in graph.node if n.op_type == "ReduceMean" and _axes(n) == [2, 3]]
        counts.append(Counter(width[mean.input[0]] for mean in means))
    assert counts[0] == {64: 2, 32: 2}
    assert counts[1] == {64: 2, 32: 2, 16: 2}


def test_downsampling_is_one_convolution(raw_graph: RawGraph) -> None:
    changed, _ = rewrite(with_shape(raw_graph("mirnet-v2"), 1, 64, 64), "tensorrt")
    kernels = Counter(
        tuple(onnx.helper.get_attribute_value(a))
        for n in changed.graph.node
        if n.op_type == "Conv"
        for a in n.attribute
        if a.name == "strides" and list(a.ints) != [1, 1]
    )
    assert kernels == {(2, 2): 1, (4, 4): 1}


def test_any_two_convolutions_of_blocks_are_one() -> None:
    graph = parsed(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 2, 12, 24] input) => (float[1, 4, 2, 4] output) {
            small = Conv <kernel_shape = [2, 2], strides = [2, 2]> (input, inner)
            output = Conv <kernel_shape = [3, 3], strides = [3, 3]> (small, outer)
        }
        """,
        inner=(3, 2, 2, 2),
        outer=(4, 3, 3, 3),
    )
    changed, _ = rewrite(graph, "tensorrt")
    assert [tuple(t.dims) for t in changed.graph.initializer] == [(4, 2, 6, 6)]
    assert relative_error(run_graph(changed, seed=0), run_graph(graph, seed=0)) <= 1e-5


def test_three_way_gates_survive_logits_that_overflow_their_exponential() -> None:
    """exp(100) is infinite in float32; the largest logit is taken off first."""
    graph = parsed(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 2, 4, 4] input) => (float[1, 2, 4, 4] output)
        <int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] zero = {0},
         float[1] large = {1000.0}>
        {
            mean = ReduceMean <axes = [2, 3]> (input)
            a = Mul (mean, large)
            b = Add (a, large)
            c = Sub (a, large)
            a5 = Unsqueeze (a, one)
            b5 = Unsqueeze (b, one)
            c5 = Unsqueeze (c, one)
            stack = Concat <axis = 1> (a5, b5, c5)
            [softmax] gates = Softmax <axis = 1> (stack)
            s0 = Slice (gates, zero, one, one)
            s1 = Slice (gates, one, two, one)
            s2 = Slice (gates, two, three, one)
            g0 = Squeeze (s0, one)
            g1 = Squeeze (s1, one)
            g2 = Squeeze (s2, one)
            x0 = Mul (g0, input)
            x1 = Mul (g1, input)
            x2 = Mul (g2, input)
            x01 = Add (x0, x1)
            output = Add (x01, x2)
        }
        """
    )
    changed, reports = rewrite(graph)
    assert next(r for r in reports if r.name == "weighted_sums").changes == 1
    found = run_graph(changed, seed=0)
    assert np.isfinite(found).all()
    assert relative_error(found, run_graph(graph, seed=0)) <= 1e-5


def test_the_spatial_softmax_survives_logits_that_overflow_its_exponential() -> None:
    """exp(100) is infinite in float32; the largest logit is taken off first."""
    from onnx import TensorProto, helper, numpy_helper

    shape, mask = [1, 2, 32, 32], np.array([[[[100.0]], [[0.0]]]], np.float32)
    constants = [
        numpy_helper.from_array(mask, "mask"),
        numpy_helper.from_array(np.array([1, 1, -1]), "row"),
        numpy_helper.from_array(np.array([1, 2, -1]), "rows"),
        numpy_helper.from_array(np.array([3]), "last"),
    ]
    nodes = [
        helper.make_node("Relu", ["input"], ["features"]),
        helper.make_node("Conv", ["features", "mask"], ["logits"], kernel_shape=[1, 1]),
        helper.make_node("Reshape", ["logits", "row"], ["flat"]),
        helper.make_node("Softmax", ["flat"], ["weights"], axis=2, name="softmax"),
        helper.make_node("Transpose", ["weights"], ["column"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["features", "rows"], ["flat_features"]),
        helper.make_node("MatMul", ["flat_features", "column"], ["product"]),
        helper.make_node("Unsqueeze", ["product", "last"], ["context"]),
        helper.make_node("Add", ["features", "context"], ["output"]),
    ]
    value = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("input", "output")
    ]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    changed, reports = rewrite(proto, "tensorrt")
    assert next(r for r in reports if r.name == "spatial_softmaxes").changes == 1
    found, expected = run_graph(changed, seed=0, scale=9), run_graph(proto, seed=0, scale=9)
    assert np.isfinite(found).all()
    assert relative_error(found, expected) <= 1e-5


def test_reports_say_what_each_pass_did(raw_graph: RawGraph) -> None:
    proto = with_shape(raw_graph("mirnet-v2"), 1, 64, 64)
    changed, reports = rewrite(proto, "tensorrt")
    assert (reports[0].name, reports[0].nodes) == ("before", len(proto.graph.node))
    assert reports[-1].nodes == len(changed.graph.node)
    assert reports[0].bytes_moved == bytes_moved(proto) > reports[-1].bytes_moved


def test_metadata_stays(raw_graph: RawGraph) -> None:
    raw = raw_graph("mirnet-v2")
    changed, _ = rewrite(raw)
    assert list(changed.metadata_props) == list(raw.metadata_props) != []


def test_what_cannot_be_rewritten_is_said(raw_graph: RawGraph) -> None:
    newer = onnx.ModelProto()
    newer.CopyFrom(raw_graph("mirnet-v2"))
    newer.opset_import[0].version = 18
    with pytest.raises(me.GraphError, match="opset 18: rewrites are for opset 17"):
        rewrite(newer)


def _axes(node: Any) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == "axes"), [])
