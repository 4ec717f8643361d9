"""Typed graphs: every tensor's type, the casts between, and what the graph computes."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import TINY, RawGraph, fitting
from graph_samples import QUANTIZABLE, network, parsed, ranges_of, relative_error, run
from onnx import TensorProto, numpy_helper

import mirnet_edge as me
from mirnet_edge.bundled import bundled_model
from mirnet_edge.graph.file import load_graph, read_facts, shapes_by_name, with_shape
from mirnet_edge.graph.pooling import apply_graph, gather_graph, pools_of
from mirnet_edge.graph.precision import PRECISIONS, typed_graph
from mirnet_edge.graph.precision.islands import fp32_islands
from mirnet_edge.graph.precision.typing_pass import IoType, retyped
from mirnet_edge.graph.rewrite import rewrite
from mirnet_edge.metrics import psnr
from mirnet_edge.pooling.vectors import Weights
from mirnet_edge.quantize.calibration import CalibrationSet
from mirnet_edge.quantize.qdq import insert_qdq

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def to_fp16(proto: Any, islands: Any = None, io: IoType = "float32") -> Any:
    """With islands of one's own, or those that are found."""
    if islands is not None:
        return retyped(proto, islands, io)
    return typed_graph(proto, "fp16", strongly_typed=True, io=io)


def types(proto: Any) -> dict[str, int]:
    graph = proto.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in graph.initializer
    }


def casts(proto: Any) -> list[Any]:
    return [node for node in proto.graph.node if node.op_type == "Cast"]


def tiny(path: Path, rewritten: bool, height: int = 36, width: int = 44) -> Any:
    proto = with_shape(load_graph(path), 1, height, width)
    return with_shape(rewrite(proto, "tensorrt")[0], 1, height, width) if rewritten else proto


@pytest.mark.parametrize("rewritten", [False, True], ids=["plain", "rewritten"])
@pytest.mark.parametrize("io", ["float32", "float16"])
def test_a_network_in_fp16_computes_the_same(tiny_onnx: Path, io: Any, rewritten: bool) -> None:
    proto = tiny(tiny_onnx, rewritten)
    half = to_fp16(proto, io=io)
    onnx.checker.check_model(half, full_check=True)
    error = relative_error(run(half), run(proto))
    assert 0 < error <= 3e-3
    assert half.metadata_props == proto.metadata_props
    wanted = FLOAT if io == "float32" else HALF
    assert [types(half)[name] for name in ("input", "output")] == [wanted, wanted]


@pytest.mark.parametrize("name", ["edge", "edge-x3", "edge-x4"])
def test_a_network_on_blocks_of_pixels_in_fp16(name: str, raw_graph: RawGraph) -> None:
    """Its maps of features have fewer values than a plane of the image; they stay in FP16."""
    size = fitting(name, (256, 256))
    proto = with_shape(rewrite(with_shape(raw_graph(name), 1, *size), "tensorrt")[0], 1, *size)
    half = to_fp16(proto)
    assert relative_error(run(half), run(proto)) <= 3e-3
    shapes = shapes_by_name(half)
    mask = size[0] * size[1] // TINY[name].shuffle ** 2
    large = {name for node in casts(half) for name in node.input if np.prod(shapes[name]) > mask}
    assert large <= {"input", "output_as_float16"}


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("io", ["float32", "float16"])
def test_statistics_are_float32_whatever_images_are(
    tiny_onnx: Path, io: Any, precision: Any
) -> None:
    sized = tiny(tiny_onnx, rewritten=False)
    for make in (apply_graph, gather_graph):
        proto = with_shape(rewrite(make(sized), "tensorrt")[0], 1, 36, 44)
        typed = typed_graph(proto, precision, strongly_typed=True, io=io)
        of = types(typed)
        names = [value.name for value in (*typed.graph.input, *typed.graph.output)]
        wanted = FLOAT if io == "float32" else HALF
        for name in names:
            assert of[name] == (wanted if name in ("input", "output") else FLOAT), name
        written = {name for node in casts(typed) for name in node.output}
        assert not written & (set(names) - {"output"}), "statistics leave as they were computed"


def test_gathering_in_fp16_costs_what_fp16_maps_cost() -> None:
    """On noisy photos: nearly all of the vectors' error is of the maps that they are means of."""
    size = (128, 128)
    bundled = bundled_model("edge-s-denoise")
    assert bundled is not None
    original = load_graph(bundled.onnx)
    level = read_facts(original).noise_level
    photos = CalibrationSet.open(None, tile=size, count=2, sigma=25, noise_level=level)
    plain = with_shape(original, 1, *size)
    gather = with_shape(rewrite(gather_graph(plain), "tensorrt")[0], 1, *size)
    applied = with_shape(rewrite(apply_graph(plain), "tensorrt")[0], 1, *size)
    of_maps = [n.name for n in gather.graph.node if not n.name.startswith("gathered")]
    halves = (
        to_fp16(gather), to_fp16(gather, islands={*fp32_islands(gather), *of_maps})
    )  # fmt: skip
    region = Weights.of(size, slice(16, 108), slice(0, 116))
    sides = {"rows": region.rows, "columns": region.columns, "own": np.ones((1,) * 4, np.float32)}
    for tile in photos.tiles:
        given = {f"statistic.{i}": np.zeros((1, pool.channels, 1, 1), np.float32)
                 for i, pool in enumerate(pools_of(plain))}  # fmt: skip
        feeds = {"input": tile[None], **sides, **given}
        expected, found, pooled = (outputs(graph, feeds) for graph in (gather, *halves))
        names = [name for name in expected if name.startswith("gathered")]
        assert max(distance(pooled[name], expected[name]) for name in names) <= 1e-3
        assert max(distance(found[name], expected[name]) for name in names) <= 1e-2
        assert np.median([distance(found[name], expected[name]) for name in names]) <= 2e-3
        for name in set(expected) - {"output", *names}:
            assert abs(pooled[name] - expected[name]).max() <= 2e-3, "logarithms"
        assert psnr(found["output"][0], expected["output"][0]) >= 60
        vectors = {f"statistic.{name.split('.')[1]}": expected[name] for name in names}
        exact, half = (
            outputs(graph, {"input": tile[None], **vectors})["output"][0]
            for graph in (applied, to_fp16(applied))
        )
        assert psnr(half, exact) >= 60


def outputs(proto: Any, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds)))


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Of vectors, relative to the largest element."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("rewritten", [False, True], ids=["plain", "rewritten"])
def test_float32_is_in_islands_only(tiny_onnx: Path, rewritten: bool) -> None:
    proto = tiny(tiny_onnx, rewritten)
    islands, half = fp32_islands(proto), to_fp16(proto, io="float16")
    of = types(half)
    assert islands
    for node in half.graph.node:
        if node.op_type == "Cast":
            continue
        kinds = {of[name] for name in (*node.input, *node.output) if name} & {FLOAT, HALF}
        if node.op_type == "Resize":
            kinds.discard(FLOAT)  # the scale factors
        assert kinds <= {FLOAT if node.name in islands else HALF}, node.name


@pytest.mark.parametrize("rewritten", [False, True], ids=["plain", "rewritten"])
def test_casts_stand_at_borders_and_once_each(tiny_onnx: Path, rewritten: bool) -> None:
    half = to_fp16(tiny(tiny_onnx, rewritten))
    found = casts(half)
    cast_outputs = {node.output[0] for node in found}
    of = types(half)
    for node in found:
        assert node.input[0] not in cast_outputs, f"{node.name} casts what was cast"
        assert of[node.input[0]] != of[node.output[0]]
    most = max(Counter((node.input[0], node.attribute[0].i) for node in found).values())
    assert most == 1
    assert len({node.name for node in half.graph.node}) == len(half.graph.node)


def test_a_mean_over_a_bright_frame_does_not_overflow() -> None:
    proto = parsed(
        """<ir_version: 8, opset_import: ["" : 17]>
        bright (float[1,2,70,110] input) => (float[1,2,1,1] output)
        { [mean] output = ReduceMean <axes = [2,3], keepdims = 1> (input) }"""
    )
    mean = run(to_fp16(proto), scale=2000.0)
    np.testing.assert_allclose(mean, run(proto, scale=2000.0), rtol=1e-3)


def test_islands_can_be_told() -> None:
    half = to_fp16(network(), islands=["one", "leaky"], io="float16")
    of = types(half)
    assert [of[name] for name in "abcd"] == [HALF, FLOAT, FLOAT, HALF]
    assert [node.input[0] for node in casts(half)] == ["a", "c"]
    assert {of[name] for node in half.graph.node if node.name == "one" for name in node.input} == {
        FLOAT
    }


def test_a_constant_read_in_both_types_is_stored_in_both() -> None:
    proto = network()
    half = to_fp16(proto, islands=["two"])
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    original = numpy_helper.to_array(
        next(tensor for tensor in proto.graph.initializer if tensor.name == "w_shared")
    )
    np.testing.assert_array_equal(stored["w_shared_as_float32"], original)
    np.testing.assert_array_equal(stored["w_shared"], original.astype(np.float16))


def test_constant_nodes_are_typed_too() -> None:
    proto = parsed(
        """<ir_version: 8, opset_import: ["" : 17]>
        constant (float[1,2,7,9] input) => (float[1,2,7,9] output)
        { [half] a = Constant <value = float {0.5}> ()
          [third] b = Constant <value = float {0.25}> ()
          [times] c = Mul (input, a)
          [plus] output = Add (c, b) }"""
    )
    half = to_fp16(proto, io="float16")
    assert set(types(half).values()) == {HALF}
    assert relative_error(run(half), run(proto)) < 2e-3


def test_fp32_with_fp16_input_and_output_casts_at_the_border() -> None:
    graph = typed_graph(network(), "fp32", strongly_typed=True, io="float16")
    of = types(graph)
    assert (of["input"], of["output"], of["a"], of["t"]) == (HALF, HALF, FLOAT, FLOAT)
    assert len(casts(graph)) == 2
    plain = typed_graph(network(), "fp32", strongly_typed=True)
    assert not casts(plain)
    assert np.array_equal(run(plain), run(network()))


def test_int8_is_strongly_typed_with_fp16_scales() -> None:
    proto = network()
    quantized = insert_qdq(proto, ranges_of(proto), QUANTIZABLE)
    typed = typed_graph(with_shape(quantized, 1, 20, 28), "int8", strongly_typed=True)
    of = types(typed)
    assert typed.opset_import[0].version >= 19
    assert typed.ir_version >= 9
    pairs = [n for n in typed.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) == 2 * (5 + 4)  # of what is read, and of weights
    assert {of[node.input[1]] for node in pairs} == {HALF}
    assert {of[n.output[0]] for n in pairs if n.op_type == "DequantizeLinear"} == {HALF}
    assert {of[n.input[0]] for n in pairs if n.op_type == "QuantizeLinear"} == {HALF}
    assert [node.input[0] for node in casts(typed)] == ["input", "output_as_float16"]
    # A level more or less: a quarter of what INT8 itself does; four fifths in ONNX Runtime 1.18 to
    # 1.26, which run the same graph in FP16 otherwise.
    apart = np.sqrt(np.mean(np.square(run(typed) - run(quantized))))
    assert apart < np.sqrt(np.mean(np.square(run(quantized) - run(proto))))


def test_dead_channels_keep_a_scale_that_fp16_holds() -> None:
    proto = network()
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "w_one")
    values = numpy_helper.to_array(weight).copy()
    values[3] *= 1e-7
    weight.CopyFrom(numpy_helper.from_array(values, "w_one"))
    quantized = insert_qdq(proto, ranges_of(proto), QUANTIZABLE)
    typed = typed_graph(with_shape(quantized, 1, 20, 28), "int8", strongly_typed=True)
    scales = next(t for t in typed.graph.initializer if t.name == "w_one_scale")
    assert numpy_helper.to_array(scales).min() == np.float16(2**-20)
    assert np.isfinite(run(typed)).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_weakly_typed_graph_stays_as_it_is(precision: Any) -> None:
    proto = network()
    if precision == "int8":
        proto = insert_qdq(proto, ranges_of(proto), QUANTIZABLE)
    same = typed_graph(proto, precision, strongly_typed=False, io="float16")
    assert same is not proto
    assert same == proto


def test_a_weight_beyond_fp16_is_named() -> None:
    proto = network()
    tensor = next(item for item in proto.graph.initializer if item.name == "w_one")
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = 1e5
    tensor.CopyFrom(numpy_helper.from_array(values, "w_one"))
    with pytest.raises(me.GraphError, match=r"'w_one' holds 100000, beyond FP16's range of 65504"):
        to_fp16(proto)
    to_fp16(proto, islands=["one", "side"])


def test_a_weight_that_fp16_loses_is_warned_of() -> None:
    proto = network()
    tensor = next(item for item in proto.graph.initializer if item.name == "w_one")
    values = numpy_helper.to_array(tensor) * 1e-7
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), "w_one"))
    with pytest.warns(UserWarning, match=r"'w_one' is at most .*e-08: FP16 loses more than 1%"):
        to_fp16(proto)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_fp16(network())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda *_: me.build_engine("a.onnx", "a.engine", precision="int4"),
            me.ConfigError,
            "'int4': need one of fp32, fp16, int8",
        ),
        (
            lambda *_: me.build_engine("a.onnx", "a.engine", io="int8"),
            me.ConfigError,
            "io='int8': need float32 or float16",
        ),
        (
            lambda plain, _: typed_graph(plain, "int8", strongly_typed=True),
            me.GraphError,
            "has no Q/DQ pairs, so it cannot be built for INT8; quantize it first",
        ),
        (
            lambda _, quantized: typed_graph(quantized, "fp16", strongly_typed=True),
            me.GraphError,
            "has Q/DQ pairs, so it cannot be built for fp16",
        ),
    ],
    ids=["precision", "io", "no pairs", "pairs"],
)
def test_what_cannot_be_typed_is_refused(call: Any, error: Any, message: str) -> None:
    proto = network()
    quantized = with_shape(insert_qdq(proto, ranges_of(proto), QUANTIZABLE), 1, 20, 28)
    with pytest.raises(error, match=message):
        call(proto, quantized)
