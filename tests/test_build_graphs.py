"""Which nodes a TensorRT without strong types is told what of."""

from __future__ import annotations

import graph_samples
import pytest

from mirnet_edge.build.graphs import HEAVY, typed_for_tensorrt
from mirnet_edge.graph.file import with_shape
from mirnet_edge.graph.precision import Precision
from mirnet_edge.quantize.qdq import insert_qdq


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_heavy_nodes_are_halves_unless_they_are_islands_or_quantized(precision: Precision) -> None:
    proto = graph_samples.network()
    chosen = graph_samples.QUANTIZABLE[:2]
    if precision == "int8":
        proto = insert_qdq(proto, graph_samples.ranges_of(proto), chosen)
    graphs = typed_for_tensorrt(with_shape(proto, 1, 20, 28), precision, "float32")
    heavy = {node.name for node in proto.graph.node if node.op_type in HEAVY}
    assert {"first", "last", "one"} < heavy
    expected = {"fp32": set(), "fp16": heavy, "int8": heavy - set(chosen)}[precision]
    assert graphs.halves == expected
    assert not graphs.halves & graphs.islands
    assert graphs.quantized == set(chosen if precision == "int8" else ())


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_convolutions_of_several_groups_are_never_halves(operator: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    grouped (float[1,32,9,11] input) => (float[1,32,9,11] output)
    {{ [one] a = {operator} <group = 1> (input, w)
       [two] b = {operator} <group = 2> (a, h)
       [each] output = {operator} <group = 32> (b, d) }}"""
    shapes = {"w": (32, 32, 1, 1), "h": (32, 16, 1, 1), "d": (32, 1, 1, 1)}
    proto = graph_samples.parsed(text, **shapes)
    assert typed_for_tensorrt(with_shape(proto, 1, 9, 11), "fp16", "float32").halves == {"one"}
