"""Graphs that look almost like what a pass is for compute the same after it too."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx
import pytest
from conftest import run_graph
from graph_samples import parsed, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from mirnet_edge.graph.file import dims_of
from mirnet_edge.graph.rewrite import rewrite, rewritten_for_tensorrt


def graph(shape: str, nodes: str, constants: str = "", **weights: tuple[int, ...]) -> Any:
    """A graph of one input of this shape, whose output's is inferred, and of float weights."""
    rank = shape.count(",") + 1
    out = ",".join("abcde"[:rank])
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[{shape}] input) => (float[{out}] output)
    <int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}},
     int64[1] last = {{-1}}, int64[1] large = {{1000}}, float[4] twice = {{1.0, 1.0, 2.0, 2.0}}
     {constants}>
    {{ {nodes} }}"""
    return parsed(text, **weights)


def changes_of(proto: Any) -> dict[str, int]:
    """How often each pass applied, where it did; what the graph computes is compared."""
    changed, reports = rewrite(proto, "tensorrt")
    onnx.checker.check_model(changed, full_check=True)
    expected = run_graph(proto, seed=0)
    found = run_graph(changed, seed=0)
    assert found.shape == expected.shape
    assert relative_error(found, expected) <= 1e-5, "the output differs"
    return {report.name: report.changes for report in reports if report.changes}


def grouped_then_pointwise(inputs: int, outputs: int, groups: int) -> Any:
    return graph(
        f"1,{inputs},9,13",
        f"""a = Conv <group = {groups}, kernel_shape = [3,3], pads = [1,1,1,1]> (input, v)
            output = Conv <kernel_shape = [1,1]> (a, w)""",
        v=(outputs, inputs // groups, 3, 3),
        w=(5, outputs, 1, 1),
    )


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups", "passes"),
    [
        (8, 8, 8, {"blur_pools": 1}),
        (8, 16, 8, {}),
        (1, 8, 1, {}),
        (1, 1, 1, {"blur_pools": 1}),
        (8, 12, 4, {"dense_groups": 1}),
    ],
    ids=["depthwise", "two filters a channel", "of gray", "of gray to gray", "grouped"],
)
def test_a_blur_before_a_1x1_convolution(
    inputs: int, outputs: int, groups: int, passes: dict[str, int]
) -> None:
    assert changes_of(grouped_then_pointwise(inputs, outputs, groups)) == passes


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_groups_of_any_size_before_a_1x1_convolution(groups: int, into: int, out: int) -> None:
    changes_of(grouped_then_pointwise(groups * into, groups * out, groups))


RESIZE = """Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">"""
PADDED = "Conv <kernel_shape = [1,1], pads = [1,0,2,1]>"


@pytest.mark.parametrize(
    "nodes",
    [
        f"a = {RESIZE} (input, , twice) output = {PADDED} (a, w)",
        f"""a = Conv <group = 4, kernel_shape = [3,3]> (input, v)
            output = {PADDED} (a, w)""",
        f"""a = {PADDED} (input, w)
            m = ReduceMean <axes = [2,3]> (a)
            output = Mul (m, input)""",
        f"""g = ReduceMean <axes = [2]> (input)
            m = ReduceMean <axes = [1]> (input)
            a = Mul (input, m) b = Mul (input, g)
            c = Concat <axis = 1> (a, b)
            output = {PADDED} (c, u)""",
    ],
    ids=["upsampling", "blur", "mean", "attention"],
)
def test_a_1x1_convolution_with_a_border(nodes: str) -> None:
    proto = graph("1,4,8,12", nodes, w=(4, 4, 1, 1), v=(4, 1, 3, 3), u=(4, 8, 1, 1))
    assert changes_of(proto).keys() <= {"staged_means"}


@pytest.mark.parametrize(
    ("mode", "corners", "scales", "passes"),
    [
        ("linear", "half_pixel", "twice", {"convolutions_before_upsampling": 1}),
        ("nearest", "half_pixel", "twice", {}),
        ("linear", "align_corners", "twice", {}),
        ("linear", "half_pixel", "thrice", {}),
    ],
    ids=["as in the network", "nearest", "corners aligned", "three times"],
)
def test_only_bilinear_doubling_changes_places(
    mode: str, corners: str, scales: str, passes: dict[str, int]
) -> None:
    nodes = f"""
        a = Resize <mode = "{mode}", coordinate_transformation_mode = "{corners}">
            (input, , {scales})
        output = Conv <kernel_shape = [1,1]> (a, w)"""
    thrice = ", float[4] thrice = {1.0, 1.0, 3.0, 3.0}"
    assert changes_of(graph("1,4,8,12", nodes, thrice, w=(4, 4, 1, 1))) == passes


@pytest.mark.parametrize(
    ("reader", "applies"), [("b", True), ("a", False)], ids=["read once", "read by others too"]
)
def test_downsampling_twice(reader: str, applies: bool) -> None:
    """Merged, a convolution that others read would be computed twice."""
    nodes = f"""
        a = Conv <kernel_shape = [2,2], strides = [2,2]> (input, v)
        b = Conv <kernel_shape = [2,2], strides = [2,2]> (a, w)
        m = ReduceMean <axes = [2,3]> ({reader})
        output = Add (b, m)"""
    proto = graph("1,4,16,24", nodes, v=(4, 4, 2, 2), w=(4, 4, 2, 2))
    assert ("strided_convolutions" in changes_of(proto)) == applies


def test_a_mean_of_blocks_that_others_read_is_merged_all_the_same() -> None:
    """It is a reading of the map, not an arithmetic that would be done twice."""
    nodes = """
        a = AveragePool <kernel_shape = [2,2], strides = [2,2]> (input)
        b = Conv <kernel_shape = [1,1]> (a, w)
        c = Relu (a)
        output = Add (b, c)"""
    assert changes_of(graph("1,4,16,24", nodes, w=(4, 4, 1, 1))) == {"strided_convolutions": 1}


def test_two_1x1_convolutions_are_no_downsampling() -> None:
    """Merged, through more channels or fewer, they may cost more than one after the other."""
    nodes = """
        a = Conv <kernel_shape = [1,1]> (input, v)
        output = Conv <kernel_shape = [1,1]> (a, w)"""
    assert changes_of(graph("1,4,16,24", nodes, v=(16, 4, 1, 1), w=(4, 16, 1, 1))) == {}


@pytest.mark.parametrize(
    ("nodes", "passes"),
    [
        (
            """g = ReduceMean <axes = [2,3]> (input) gate = Sigmoid (g)
               a = Mul (input, gate) m = ReduceMean <axes = [2,3]> (a)
               output = Add (input, m)""",
            {"means_through_linear_maps": 1},
        ),
        (
            """a = Conv <kernel_shape = [1,1]> (input, w) m = ReduceMean <axes = [2,3]> (a)
               output = Add (a, m)""",
            {},
        ),
        (
            """a = Conv <kernel_shape = [1,1]> (input, w) m = ReduceMean <axes = [2,3]> (a)
               output = Add (input, m)""",
            {"means_through_linear_maps": 1},
        ),
        (
            f"""a = {RESIZE} (input, , twice) m = ReduceMean <axes = [2,3]> (a)
               output = Add (input, m)""",
            {"means_through_linear_maps": 1},
        ),
    ],
    ids=["of a gated map", "of a map that others read", "of mixed channels", "of a doubled map"],
)
def test_a_mean_goes_through_a_map_where_that_saves_bytes(
    nodes: str, passes: dict[str, int]
) -> None:
    assert changes_of(graph("1,4,16,24", nodes, w=(4, 4, 1, 1))) == passes


def test_open_sizes() -> None:
    """An open batch is one tile of those that reports are of, and a size can be given."""
    nodes = "output = Conv <kernel_shape = [1,1]> (input, w)"
    reports = [
        rewrite(graph(shape, nodes, w=(4, 4, 1, 1)))[1] for shape in ("N,4,16,24", "1,4,16,24")
    ]
    assert reports[0] == reports[1]
    proto = rewritten_for_tensorrt(graph("N,4,H,W", nodes, w=(4, 4, 1, 1)), 2, (8, 12))
    assert dims_of(proto.graph.output[0]) == (2, 4, 8, 12)


@pytest.mark.parametrize(
    ("size", "passes"),
    [("64,72", {"staged_means": 1}), ("64,67", {}), ("67,64", {})],
    ids=["blocks", "prime width", "prime height"],
)
def test_a_side_that_is_a_prime_number_has_no_blocks(size: str, passes: dict[str, int]) -> None:
    nodes = "a = Relu (input) m = ReduceMean <axes = [2,3]> (a) output = Add (m, input)"
    assert changes_of(graph(f"1,4,{size}", nodes)) == passes


@pytest.mark.parametrize(
    "pool",
    [
        "AveragePool <kernel_shape = [2,2], strides = [2,2], ceil_mode = 1>",
        'AveragePool <kernel_shape = [2,2], strides = [2,2], auto_pad = "SAME_UPPER">',
        "AveragePool <kernel_shape = [2,2], strides = [2,2], pads = [0,0,1,1]>",
    ],
    ids=["ceil_mode", "auto_pad", "pads"],
)
def test_blocks_that_reach_over_the_edge(pool: str) -> None:
    nodes = f"a = {pool} (input) output = Conv <kernel_shape = [1,1]> (a, w)"
    assert changes_of(graph("1,4,9,13", nodes, w=(4, 4, 1, 1))) == {}


STACKED = """
    m = ReduceMean <axes = [2,3]> (input) n = Mul (m, m)
    m5 = Unsqueeze (m, {axis}) n5 = Unsqueeze (n, {axis})
    both = Concat <axis = {concat}> (m5, n5)
    [softmax] gates = Softmax <axis = {over}> (both)
    s0 = Slice (gates, {first}, {axis}) s1 = Slice (gates, {second}, {axis})
    g0 = Squeeze (s0, {axis}) g1 = Squeeze (s1, {axis})
    bent = Tanh (input) x0 = Mul (g0, input) x1 = Mul (g1, {other})
    output = Add (x0, x1)"""
STREAMS = {
    "axis": "one", "concat": "1", "over": "1", "first": "zero, one", "second": "one, large",
    "other": "bent",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "applies"),
    [
        ({}, True),
        ({"first": "last, large", "second": "zero, one"}, False),
        ({"other": "g1"}, True),
        ({"concat": "2", "axis": "two", "first": "zero, one"}, False),
        ({"over": "2"}, False),
    ],
    ids=[
        "as fused",
        "sliced from the end",
        "a gate times itself",
        "stacked behind the channels",
        "softmax over the channels",
    ],
)
def test_gates_of_two_streams(changed: dict[str, str], applies: bool) -> None:
    proto = graph("1,4,8,12", STACKED.format(**{**STREAMS, **changed}))
    assert ("weighted_sums" in changes_of(proto)) == applies


@pytest.mark.parametrize(
    ("first", "second", "convolutions"),
    [
        ("v, w0", "v, w1", 1),
        ("v, w0", "u, w1", 2),
        ("v, made", "v, w1", 2),
        ("v, w0", "v, made", 2),
    ],
    ids=["of one vector", "of two", "the first weight is computed", "the second is"],
)
def test_two_streams_take_one_convolution_and_one_product(
    first: str, second: str, convolutions: int
) -> None:
    """Where their logits come from one vector; their gates add up to one."""
    nodes = STACKED.format(**STREAMS).replace(
        "m = ReduceMean <axes = [2,3]> (input) n = Mul (m, m)",
        f"""v = ReduceMean <axes = [2,3]> (input)
            u = Tanh (v) vector = Reshape (v, column) made = Add (w0, vector)
            m = Conv <kernel_shape = [1,1]> ({first})
            n = Conv <kernel_shape = [1,1]> ({second})""",
    )
    column = ", int64[4] column = {4, 1, 1, 1}"
    proto = graph("1,4,8,12", nodes, column, w0=(4, 4, 1, 1), w1=(4, 4, 1, 1))
    changed, _ = rewrite(proto, "tensorrt")
    assert not changed.graph.value_info, "shapes are told of our own operators alone"
    kinds = Counter(node.op_type for node in changed.graph.node)
    assert {kind: kinds[kind] for kind in ("Conv", "MatMul", "Mul", "Sigmoid")} == {
        **{"Conv": convolutions, "MatMul": 0, "Mul": 1, "Sigmoid": 1}
    }
    assert "weighted_sums" in changes_of(proto)


@pytest.mark.parametrize(
    ("features", "axis", "applies"),
    [("input", 1, True), ("gray", 1, True), ("input", 2, False)],
    ids=["as in the unit", "of a gray map", "stacked by rows"],
)
def test_the_tail_of_an_attention_unit(features: str, axis: int, applies: bool) -> None:
    nodes = f"""
        gray = ReduceMean <axes = [1]> (input)
        spatial = Sigmoid (gray)
        mean = ReduceMean <axes = [2,3]> (input)
        channel = Sigmoid (mean)
        a = Mul ({features}, spatial) b = Mul ({features}, channel)
        c = Concat <axis = {axis}> (a, b)
        output = Conv <kernel_shape = [1,1]> (c, w)"""
    channels = 4 if axis == 2 else 5 if features == "gray" else 8
    proto = graph("1,4,8,12", nodes, w=(5, channels, 1, 1))
    assert ("attention_tails" in changes_of(proto)) == applies


def test_two_gates_of_channels_are_no_attention_unit() -> None:
    """A gate that differs from channel to channel does not commute with what mixes them."""
    nodes = """
        mean = ReduceMean <axes = [2,3]> (input)
        one_gate = Sigmoid (mean) other_gate = Tanh (mean)
        a = Mul (input, one_gate) b = Mul (input, other_gate)
        c = Concat <axis = 1> (a, b)
        output = Conv <kernel_shape = [1,1]> (c, w)"""
    assert "attention_tails" not in changes_of(graph("1,4,8,12", nodes, w=(4, 8, 1, 1)))


@pytest.mark.parametrize(
    "factor", [(4, 16, 24), (16, 24), (1,)], ids=["of three axes", "of two axes", "of one"]
)
def test_a_mean_of_a_map_times_a_constant_of_fewer_axes(factor: tuple[int, ...]) -> None:
    nodes = """
        v = ReduceMean <axes = [2,3]> (input)
        map = Mul (v, c)
        m = ReduceMean <axes = [2,3]> (map)
        output = Add (m, input)"""
    changes_of(graph("1,4,16,24", nodes, c=factor))


def test_a_mean_over_two_of_three_inner_axes() -> None:
    nodes = """
        a = Relu (input) b = Unsqueeze (a, two)
        m = ReduceMean <axes = [2,3]> (b)
        s = Squeeze (m, two)
        output = Add (s, input)"""
    assert changes_of(graph("1,4,128,128", nodes)) == {}


ATTENTION = """
    k = Conv <kernel_shape = [1,1]> (input, w)
    flat = Reshape (k, rows)
    [softmax] p = Softmax <axis = {axis}> (flat)
    t = Transpose <perm = [0,2,1]> (p)
    r = Reshape (input, features)
    product = MatMul (r, t)
    u = {view}
    m = ReduceMean <axes = [2,3]> (u)
    output = Add (m, input)"""


@pytest.mark.parametrize(
    ("queries", "axis", "view", "applies"),
    [
        (1, 2, "Unsqueeze (product, last)", True),
        (1, -1, "Unsqueeze (product, last)", True),
        (1, 1, "Unsqueeze (product, last)", False),
        (4, 2, "Reshape (product, back)", False),
    ],
    ids=["context", "last axis", "over the one channel", "four queries"],
)
def test_softmaxes_over_positions(queries: int, axis: int, view: str, applies: bool) -> None:
    shapes = f""", int64[3] rows = {{1, {queries}, -1}}, int64[3] features = {{1, 4, -1}},
                 int64[4] back = {{1, 4, 2, 2}}"""
    text = ATTENTION.format(axis=axis, view=view)
    proto = graph("1,4,16,24", text, shapes, w=(queries, 4, 1, 1))
    assert ("spatial_softmaxes" in changes_of(proto)) == applies
