"""Which nodes compute in FP32, told by the sizes of their tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import RawGraph
from graph_samples import network, parsed

import mirnet_edge as me
from mirnet_edge.graph.file import dims_of, load_graph, with_shape
from mirnet_edge.graph.pooling import apply_graph, gather_graph
from mirnet_edge.graph.precision.islands import fp32_islands
from mirnet_edge.graph.rewrite import rewrite

SOFTMAX = """
<ir_version: 8, opset_import: ["" : 17]>
spatial (float[1,8,40,60] input, float[1,1,40,60] logits) => (float[1,8,1,1] output)
<int64[2] flat = {1,2400}, int64[3] rows = {1,8,2400}, int64[3] column = {1,2400,1},
 int64[4] vector = {1,8,1,1}, float count = {2400.0}>
{
%s
  [flatten] r = Reshape (input, rows)
  [turn] c = Reshape (w, column)
  [product] p = MatMul (r, c)
  [view] v = Reshape (p, vector)
%s
}
"""
PLAIN = SOFTMAX % (
    "[lines] l = Reshape (logits, flat)\n[softmax] w = Softmax <axis = 1> (l)",
    "[out] output = Identity (v)",
)
STAGED = SOFTMAX % (
    """
    [maxima] m = MaxPool <kernel_shape = [5,6], strides = [5,6]> (logits)
    [largest] t = ReduceMax <axes = [2,3], keepdims = 1> (m)
    [below] b = Sub (logits, t)
    [weights] w = Exp (b)
    [sums] s = AveragePool <kernel_shape = [5,6], strides = [5,6]> (w)
    [mean] n = ReduceMean <axes = [2,3], keepdims = 1> (s)
    [total] d = Mul (n, count)
    """,
    "[out] output = Div (v, d)",
)


def pool(nodes: str, channels: int = 8) -> list[str]:
    """Islands of a graph of pools on a map of 40 x 60."""
    return fp32_islands(
        parsed(
            f"""<ir_version: 8, opset_import: ["" : 17]>
            pool (float[1,{channels},40,60] input) => (float[N,C,H,W] output) {{ {nodes} }}"""
        )
    )


def test_a_softmax_over_the_frame_and_its_product_are_one_island() -> None:
    assert fp32_islands(parsed(PLAIN)) == ["softmax", "turn", "product"]


def test_the_staged_softmax_keeps_the_large_map_in_fp16() -> None:
    islands = fp32_islands(parsed(STAGED))
    assert set(islands) == {
        "maxima", "largest", "below", "weights", "sums", "mean", "total", "out"
    }  # fmt: skip


def test_a_softmax_over_few_values_is_none() -> None:
    assert pool("[gates] output = Softmax <axis = 1> (input)") == []


def test_exponentials_that_are_not_summed_over_the_frame_are_none() -> None:
    assert pool("[one] a = Exp (input) [two] output = Add (a, input)") == []


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        pytest.param(
            "[mean] output = ReduceMean <axes = [2,3]> (input)", set(), id="large map, 2400 values"
        ),
        pytest.param(
            "[mean] output = ReduceMean <axes = [1,2,3]> (input)",
            {"mean"},
            id="large map, 19200 values",
        ),
        pytest.param("[mean] output = GlobalAveragePool (input)", set(), id="global pool"),
        pytest.param(
            "[first] a = AveragePool <kernel_shape = [20,30], strides = [20,30]> (input)"
            "[second] output = ReduceMean <axes = [2,3]> (a)",
            set(),
            id="four values each",
        ),
        pytest.param(
            "[first] a = AveragePool <kernel_shape = [5,6], strides = [5,6]> (input)"
            "[second] output = ReduceMean <axes = [2,3]> (a)",
            {"second"},
            id="two stages",
        ),
        pytest.param(
            "[mean] output = ReduceMean <axes = [1]> (input)", set(), id="over few channels"
        ),
    ],
)
def test_pools(nodes: str, expected: set[str]) -> None:
    assert set(pool(nodes)) == expected


def test_convolutions_and_gates_are_none() -> None:
    assert fp32_islands(network()) == []


def statistics_graph(plain: Any, make: Callable[[Any], Any], size: tuple[int, int]) -> Any:
    """Rewritten for TensorRT."""
    proto = with_shape(make(with_shape(plain, 1, *size)), 1, *size)
    return with_shape(rewrite(proto, "tensorrt")[0], 1, *size)


def test_given_statistics_need_no_island(tiny_onnx: Path) -> None:
    assert fp32_islands(statistics_graph(load_graph(tiny_onnx), apply_graph, (64, 96))) == []


def test_gathered_vectors_and_masses_are_made_in_fp32_and_maps_read_in_fp16(
    raw_graph: RawGraph,
) -> None:
    any_runtime, _ = rewrite(raw_graph("mirnet-v2-wider"))
    proto = statistics_graph(any_runtime, gather_graph, (256, 256))
    islands = fp32_islands(proto)
    nodes = {node.name: node for node in proto.graph.node}
    outputs = {value.name for value in proto.graph.output[1:]}
    assert outputs <= set(islands)
    pools = {name for name in outputs if name.startswith("gathered")}
    softmax = {name for name in pools if f"{name}/product" in nodes}
    assert (len(pools), len(softmax)) == (12, 6)
    for name in softmax:
        chain = ("inside", "maxima", "largest", "shift", "below", "weights", "sums", "mean", "sum",
                 "log", "power")  # fmt: skip
        assert {f"{name}/{part}" for part in chain} <= set(islands)
        assert f"{name}/product" not in islands, "reads a map"
    for name in pools - softmax:
        assert (nodes[name].op_type, nodes[f"{name}/kept"].op_type) == ("Div", "Mul")
        assert f"{name}/kept/mean" in islands, "a sum of 64 values"
        assert not {f"{name}/blocks", f"{name}/kept"} & set(islands), "read a map"
    wide = {name for name in pools - softmax if f"{name}/kept/blocks" in islands}
    assert len(wide) == 2, "those of 16 channels, whose map of blocks is small"
    assert not {node.op_type for node in proto.graph.node if node.name in islands} & {
        "Conv", "Resize", "LeakyRelu", "Sigmoid",
    }  # fmt: skip


def test_a_product_of_computed_matrices_is_a_sum_over_positions() -> None:
    rows = "[rows] r = ReduceMean <axes = [1], keepdims = 1> (input)"
    turned = "[turned] t = Transpose <perm = [0,1,3,2]> (r)"
    assert pool(f"{rows} {turned} [product] output = MatMul (r, t)")[-1] == "product"
    assert "product" not in pool(f"{rows} {turned} [product] output = MatMul (input, t)")


@pytest.mark.parametrize("make", [lambda proto: proto, apply_graph, gather_graph])
def test_rewritten_networks_turn_no_large_map_into_fp32(
    make: Callable[[Any], Any], tiny_onnx: Path
) -> None:
    proto = statistics_graph(load_graph(tiny_onnx), make, (64, 96))
    islands = fp32_islands(proto)
    sizes = {value.name: math.prod(dims_of(value)) for value in proto.graph.value_info}
    read = {
        name: sizes.get(name, 0)
        for node in proto.graph.node
        if node.name in islands
        for name in node.input
    }
    assert (len(islands) > 0) == (make is not apply_graph)
    assert max(read.values(), default=0) <= 64 * 96, read


def test_an_unknown_shape_is_named() -> None:
    proto = network()
    proto.graph.input[0].type.tensor_type.shape.dim[2].Clear()
    with pytest.raises(me.GraphError, match=r"shape of tensor 'input' is not known.*with_shape"):
        fp32_islands(proto)


def test_a_node_without_a_name_is_refused() -> None:
    proto = network()
    proto.graph.node[4].name = ""
    with pytest.raises(me.GraphError, match="the Conv that writes 'd' has no name"):
        fp32_islands(proto)
