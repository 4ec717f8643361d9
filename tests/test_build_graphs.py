"""Which nodes a TensorRT without strong types is told what of."""

from __future__ import annotations

import graph_samples
import pytest

from mirnet_edge.build.graphs import HEAVY, typed_graphs
from mirnet_edge.graphs import with_shape
from mirnet_edge.precision import Precision
from mirnet_edge.quantize.qdq import insert_qdq


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_heavy_nodes_are_halves_unless_they_are_islands_or_quantized(precision: Precision) -> None:
    proto = graph_samples.network()
    chosen = graph_samples.QUANTIZABLE[:2]
    if precision == "int8":
        proto = insert_qdq(proto, graph_samples.ranges_of(proto), chosen)
    graphs = typed_graphs(with_shape(proto, 1, 20, 28), precision, "float32")
    heavy = {node.name for node in proto.graph.node if node.op_type in HEAVY}
    assert {"first", "last", "one"} < heavy
    expected = {"fp32": set(), "fp16": heavy, "int8": heavy - set(chosen)}[precision]
    assert graphs.halves == expected
    assert not graphs.halves & graphs.islands
    assert graphs.quantized == set(chosen if precision == "int8" else ())
