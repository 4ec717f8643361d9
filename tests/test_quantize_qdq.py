"""Where Q/DQ pairs stand, and that they compute what quantization by hand computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from graph_samples import QUANTIZABLE, network, parsed, ranges_of, run
from onnx import numpy_helper

import mirnet_edge as me
from mirnet_edge.graph.file import graph_sha256, with_shape
from mirnet_edge.quantize.qdq import (
    LEFT_OUT,
    _channels,
    _Surroundings,
    candidates,
    insert_qdq,
    keep_pairs,
    macs_of,
)
from mirnet_edge.quantize.ranges import Ranges


class Wiring:
    """Who writes and reads what in a graph."""

    def __init__(self, proto: Any) -> None:
        self.nodes = {node.name: node for node in proto.graph.node}
        self.producer = {name: node for node in proto.graph.node for name in node.output}
        self.constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}

    def readers(self, name: str) -> set[str]:
        return {node.name for node in self.nodes.values() if name in node.input}

    def pair_before(self, node: str, index: int) -> tuple[Any, Any] | None:
        """The Q and DQ that an input of a node comes through."""
        dequantize = self.producer.get(self.nodes[node].input[index])
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            return None
        quantize = self.producer[dequantize.input[0]]
        assert quantize.op_type == "QuantizeLinear"
        assert list(quantize.input[1:]) == list(dequantize.input[1:])
        return quantize, dequantize


def quantized(nodes: list[str] | None = None) -> tuple[Any, Ranges, Wiring]:
    proto = network()
    ranges = ranges_of(proto)
    found = insert_qdq(proto, ranges, QUANTIZABLE if nodes is None else nodes)
    onnx.checker.check_model(found, full_check=True)
    return found, ranges, Wiring(found)


def test_candidates_are_the_convolutions_that_pay() -> None:
    assert candidates(network()) == QUANTIZABLE


@pytest.mark.parametrize(
    ("rule", "left_out"),
    [
        ("few channels", {"mask"}),
        ("map of 1x1", {"gate"}),
        ("padded input", {"padded"}),
    ],
)
def test_each_rule_leaves_out_its_own(
    rule: str, left_out: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(LEFT_OUT, rule)
    assert set(candidates(network())) == {*QUANTIZABLE, *left_out}


@pytest.mark.parametrize(
    ("rule", "left_out"), [("first or last", ["first", "last"]), ("computed weights", ["middle"])]
)
def test_each_rule_leaves_out_its_own_of_many_channels(
    rule: str, left_out: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    wide (float[1,32,9,11] input) => (float[1,32,9,11] output)
    { [first] a = Conv (input, w)
      [compute] v = Neg (w)
      [middle] b = Conv (a, v)
      [last] output = Conv (b, w) }"""
    proto = parsed(text, w=(32, 32, 1, 1))
    assert candidates(proto) == []
    monkeypatch.delitem(LEFT_OUT, rule)
    assert candidates(proto) == left_out


def test_a_convolution_whose_output_others_read_is_read_without_a_pair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    branches (float[1,32,9,11] input) => (float[1,32,9,11] output)
    { [first] a = Conv (input, w)
      [shared] b = Conv (a, w)
      [one] c = Conv (b, w)
      [two] d = Conv (c, w)
      [add] e = Add (b, d)
      [last] output = Conv (e, w) }"""
    proto = parsed(text, w=(32, 32, 1, 1))
    assert candidates(proto) == ["shared", "two"]
    monkeypatch.delitem(LEFT_OUT, "shares a convolution's output")
    assert candidates(proto) == ["shared", "one", "two"]


def test_grouped_convolutions_are_judged_by_their_groups() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    grouped (float[1,32,9,11] input) => (float[1,32,9,11] output)
    { [first] a = Conv (input, w)
      [pairs] b = Conv <group = 4> (a, g)
      [halves] c = ConvTranspose <group = 2> (b, h)
      [last] output = Conv (c, w) }"""
    proto = parsed(text, w=(32, 32, 1, 1), g=(32, 8, 1, 1), h=(32, 16, 1, 1))
    assert candidates(proto) == ["halves"]


def test_macs_are_those_of_a_count_by_hand() -> None:
    macs = macs_of(network())
    assert macs["first"] == 20 * 28 * 3 * 16 * 9
    assert macs["up"] == 20 * 28 * 16 * 24 * 9
    assert macs["down"] == 20 * 28 * 16 * 24 * 9
    assert macs["gate"] == 16 * 16


@pytest.mark.parametrize("name", QUANTIZABLE)
def test_a_quantized_convolution_reads_two_pairs(name: str) -> None:
    _, ranges, wiring = quantized()
    node = wiring.nodes[name]
    original = next(item for item in network().graph.node if item.name == name)
    activation, weight = wiring.pair_before(name, 0), wiring.pair_before(name, 1)
    assert activation is not None
    assert weight is not None
    assert activation[0].input[0] == original.input[0]
    assert weight[0].input[0] == original.input[1]
    scale, zero = (wiring.constants[item] for item in activation[0].input[1:])
    np.testing.assert_allclose(scale, ranges.tensors[original.input[0]].amax / 127, rtol=1e-6)
    assert (zero.dtype, zero.shape, int(zero)) == (np.int8, (), 0)
    values = wiring.constants[original.input[1]]
    assert values.dtype == np.float32, "the weights stay float"
    axis = 1 if node.op_type == "ConvTranspose" else 0
    assert all(next(a.i for a in item.attribute if a.name == "axis") == axis for item in weight)
    scales, zeros = (wiring.constants[item] for item in weight[0].input[1:])
    others = tuple(i for i in range(4) if i != axis)
    np.testing.assert_allclose(scales, np.abs(values).max(others) / 127, rtol=1e-6)
    assert zeros.dtype == np.int8
    assert not zeros.any()


def test_the_activation_function_stays_between_convolution_and_the_next_pair() -> None:
    _, _, wiring = quantized()
    assert wiring.readers("b") == {"leaky"}
    pair = wiring.pair_before("two", 0)
    assert pair is not None
    assert pair[0].input[0] == wiring.nodes["leaky"].output[0]


def test_one_pair_serves_all_quantized_readers_and_no_other() -> None:
    proto, _, wiring = quantized()
    assert {wiring.nodes[name].input[0] for name in ("three", "side")} == {
        "n_DequantizeLinear_Output"
    }
    assert wiring.readers("a") == {"a_QuantizeLinear", "residual"}
    assert wiring.readers("n") == {"n_QuantizeLinear"}
    for name in ("first", "mask", "gate", "last", "padded"):
        assert wiring.pair_before(name, 0) is None
        assert wiring.pair_before(name, 1) is None
    sources = [n.input[0] for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    assert len(sources) == len(set(sources))


def test_a_weight_shared_with_a_float_convolution_is_quantized_for_one_only() -> None:
    _, _, wiring = quantized(["two"])
    assert wiring.pair_before("two", 1) is not None
    assert wiring.nodes["three"].input[1] == "w_shared"


def test_biases_stay_float() -> None:
    _, _, wiring = quantized()
    assert wiring.nodes["one"].input[2] == "b_one"
    assert wiring.constants["b_one"].dtype == np.float32


def test_metadata_stays() -> None:
    proto = network()
    proto.metadata_props.add(key="mirnet_edge.task", value='"denoise"')
    proto.producer_name, proto.producer_version = "mirnet_edge", "7.5"
    found = insert_qdq(proto, ranges_of(proto), QUANTIZABLE)
    assert found.metadata_props == proto.metadata_props
    assert (found.producer_name, found.producer_version) == ("mirnet_edge", "7.5")


def rounded(values: np.ndarray, amax: np.ndarray | float) -> np.ndarray:
    """Quantization by its formula: 127 levels to either side."""
    scale = np.asarray(amax, np.float32) / np.float32(127)
    return (np.rint(values / scale).clip(-128, 127) * scale).astype(np.float32)


@pytest.mark.parametrize(("operator", "axes"), [("Conv", (1, 2, 3)), ("ConvTranspose", (0, 2, 3))])
def test_it_computes_what_quantization_by_hand_does(operator: str, axes: tuple[int, ...]) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    one (float[1,16,13,7] input) => (float[1,16,13,7] output)
    {{ [one] output = {operator} <pads = [1,1,1,1]> (input, w) }}"""
    proto = parsed(text, w=(16, 16, 3, 3))
    unquantized = run(proto)
    ranges = ranges_of(proto, amax=0.7)  # clips what is above
    found = run(insert_qdq(proto, ranges, ["one"]))
    weights = proto.graph.initializer[0]
    values = numpy_helper.to_array(weights)
    weights.CopyFrom(
        numpy_helper.from_array(rounded(values, np.abs(values).max(axes, keepdims=True)), "w")
    )
    clip = parsed(
        """<ir_version: 8, opset_import: ["" : 17]>
        fake (float[1,16,13,7] input) => (float[1,16,13,7] x)
        <float s = {%.9g}, float low = {-128}, float high = {127}>
        { a = Div (input, s) b = Round (a) c = Clip (b, low, high) x = Mul (c, s) }"""
        % (np.float32(0.7) / np.float32(127))
    )
    by_hand = onnx.compose.merge_models(
        clip, onnx.compose.add_prefix(proto, "own_"), io_map=[("x", "own_input")]
    )
    np.testing.assert_allclose(found, run(by_hand), atol=1e-5)
    assert np.abs(found - unquantized).max() > 1e-3


@pytest.mark.parametrize("kept", [[], ["two"], ["one", "up"], QUANTIZABLE])
def test_keeping_some_pairs_is_inserting_only_those(kept: list[str]) -> None:
    proto = network()
    ranges = ranges_of(proto)
    few = keep_pairs(insert_qdq(proto, ranges, QUANTIZABLE), kept)
    onnx.checker.check_model(few, full_check=True)
    direct = insert_qdq(proto, ranges, kept)
    assert sorted(n.name for n in few.graph.node) == sorted(n.name for n in direct.graph.node)
    assert {t.name for t in few.graph.initializer} >= {t.name for t in proto.graph.initializer}
    np.testing.assert_array_equal(run(few), run(direct))


def test_no_pairs_is_the_same_graph() -> None:
    proto = network()
    assert graph_sha256(insert_qdq(proto, ranges_of(proto), [])) == graph_sha256(proto)


def stale(proto: Any) -> tuple[Ranges, list[str]]:
    return ranges_of(network(seed=1)), QUANTIZABLE


def incomplete(proto: Any) -> tuple[Ranges, list[str]]:
    ranges = ranges_of(proto)
    del ranges.tensors["k"]
    return ranges, QUANTIZABLE


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (stale, me.CalibrationError, "ranges are of the graph"),
        (incomplete, me.CalibrationError, "lack the tensor 'k', which 'up' reads"),
        (lambda proto: (ranges_of(proto), ["leaky"]), me.GraphError, "'leaky' is no convolution"),
        (lambda proto: (ranges_of(proto), ["x"]), me.GraphError, "'x' is no convolution"),
    ],
    ids=["stale", "incomplete", "no convolution", "no node"],
)
def test_ranges_and_names_that_do_not_fit_are_refused(
    make: Callable[[Any], tuple[Ranges, list[str]]], error: type[Exception], message: str
) -> None:
    proto = network()
    ranges, nodes = make(proto)
    with pytest.raises(error, match=message):
        insert_qdq(proto, ranges, nodes)


def test_a_quantized_graph_takes_a_size() -> None:
    proto, _, _ = quantized()
    assert with_shape(proto, 1, 20, 28).graph.output[0].name == "output"


def test_channels_are_those_of_each_group() -> None:
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], group=2)
    assert _channels(node, {"w": (32, 8, 3, 3)}) == (16, 8)


def test_who_reads_twice_is_one_reader() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    twice (float[1,4,8,8] x) => (float[1,4,8,8] y)
    <float[4,4,1,1] w = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}>
    { a = Conv (x, w)
      b = Mul (a, a)
      c = Conv (b, w)
      d = Add (c, a)
      y = Add (d, c) }"""
    found = _Surroundings.of(onnx.parser.parse_model(text))
    assert found.shared == {"a", "c"}
    alone = text.replace("d = Add (c, a)", "d = Relu (c)")
    assert _Surroundings.of(onnx.parser.parse_model(alone)).shared == {"c"}
