"""What a graph is said to cost is what is counted by hand."""

from __future__ import annotations

import pytest
from graph_samples import parsed

import mirnet_edge as me
from mirnet_edge.graph.cost import bytes_moved, peak_activation_bytes

MAP = 4 * 3 * 8 * 12
"""Bytes of three channels of 8 x 12 in float32."""


def test_an_operator_on_what_a_convolution_makes_moves_nothing_more() -> None:
    """One kernel reads the input, the weights and the map that is added; it writes the output."""
    proto = parsed(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,3,8,12] input, float[1,3,8,12] other) => (float[1,3,8,12] output)
        { a = Conv <kernel_shape = [1,1]> (input, w)
          b = Relu (a)
          output = Add (b, other) }""",
        w=(3, 3, 1, 1),
    )
    assert bytes_moved(proto) == 3 * MAP + 4 * 9


def test_a_map_that_two_operators_read_is_written() -> None:
    """Relu reads one and writes one; Sigmoid and the sum are one kernel, which does too."""
    proto = parsed(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,3,8,12] input) => (float[1,3,8,12] output)
        { a = Relu (input)
          b = Sigmoid (a)
          output = Add (a, b) }"""
    )
    assert bytes_moved(proto) == (2 + 2) * MAP


def test_bytes_are_those_of_the_type() -> None:
    proto = parsed(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,3,8,12] input) => (float16[1,3,16,24] output)
        <float[4] scales = {1.0, 1.0, 2.0, 2.0}>
        { a = Cast <to = 10> (input)
          output = Resize <mode = "nearest"> (a, , scales) }"""
    )
    assert bytes_moved(proto) == MAP + MAP // 2 + (MAP // 2 + 4 * 4 + 4 * MAP // 2)
    assert peak_activation_bytes(proto, 8, 12) == MAP // 2 + 4 * MAP // 2


def test_memory_of_a_graph_of_unknown_shapes_is_refused() -> None:
    proto = parsed(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,3,8,12] input) => (float[1,3,8,12] output)
        { places = NonZero (input)
          more = Cast <to = 1> (places)
          one = ReduceMax <keepdims = 0> (more)
          output = Add (input, one) }"""
    )
    with pytest.raises(me.GraphError, match=r"the shape of tensor '(places|more)' cannot be"):
        peak_activation_bytes(proto, 8, 12)


def test_a_graph_for_another_size_is_refused() -> None:
    proto = parsed(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,3,8,12] input) => (float[1,3,8,12] output) { output = Relu (input) }"""
    )
    with pytest.raises(me.GraphError, match="takes only a height of 8, not 16"):
        peak_activation_bytes(proto, 16, 12)
