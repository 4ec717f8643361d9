"""Graphs that take a batch keep its tiles apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import RawGraph
from graph_samples import parsed, ranges_of, relative_error
from onnx import numpy_helper

import mirnet_edge as me
from mirnet_edge.graph.file import dims_of, graph_sha256, shapes_of, with_shape
from mirnet_edge.graph.pooling import apply_graph, gather_graph
from mirnet_edge.graph.rewrite import rewrite
from mirnet_edge.pooling.vectors import Weights
from mirnet_edge.quantize.qdq import candidates, insert_qdq

NETWORKS = ["mirnet", "mirnet-v2", "edge-s"]
SIZE = (24, 40)
BATCH = 3
TOLERANCE = 1e-6


def made(raw: Any, form: str) -> Any:
    """A graph for one tile, in every form that is given a batch later."""
    if form in ("any", "tensorrt"):
        return rewrite(raw, form)[0]
    if form == "sized, tensorrt":
        return rewrite(with_shape(raw, 1, *SIZE), "tensorrt")[0]
    return raw


def session_of(proto: Any) -> onnxruntime.InferenceSession:
    """On one thread and with no kernels fused, where ONNX Runtime adds up a tile in the same order
    in every batch: quantization would make steps of last bits."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(proto: Any, tiles: np.ndarray) -> np.ndarray:
    output: np.ndarray = session_of(proto).run(["output"], {"input": tiles})[0]
    return output


def random_tiles(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((BATCH, *shape), np.float32)


def assert_tiles_stay_apart(proto: Any, size: tuple[int, int] = SIZE) -> None:
    single, batched = (with_shape(proto, batch, *size) for batch in (1, BATCH))
    onnx.checker.check_model(batched, full_check=True)
    tiles = random_tiles(dims_of(proto.graph.input[0])[1], *size)
    expected = np.concatenate([run(single, tile[None]) for tile in tiles])
    assert relative_error(run(batched, tiles), expected) <= TOLERANCE


@pytest.mark.parametrize("form", ["raw", "any", "tensorrt", "sized, tensorrt"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_batch_is_its_tiles_one_by_one(network: str, form: str, raw_graph: RawGraph) -> None:
    assert_tiles_stay_apart(made(raw_graph(network), form))


@pytest.mark.parametrize("form", ["raw", "any", "sized, tensorrt"])
@pytest.mark.parametrize("network", ["mirnet", "defocus", "edge-s"])  # convolutions without groups
def test_so_is_one_of_a_quantized_graph(network: str, form: str, raw_graph: RawGraph) -> None:
    proto = with_shape(made(raw_graph(network), form), 1, *SIZE)
    nodes = candidates(proto)
    assert nodes
    assert_tiles_stay_apart(insert_qdq(proto, ranges_of(proto), nodes))


@pytest.mark.parametrize("form", ["raw", "any"])
@pytest.mark.parametrize("make", [apply_graph, gather_graph])
def test_so_is_one_of_a_statistics_graph(make: Any, form: str, raw_graph: RawGraph) -> None:
    """One that was made for one tile, plain or after rewrites, all tiles having one region."""
    exact = make(with_shape(made(raw_graph("mirnet-v2"), form), 1, *SIZE))
    region = Weights.of(SIZE, slice(4, 24), slice(8, 36))
    tiles, random = random_tiles(3, *SIZE), np.random.default_rng(1)
    feeds = {"rows": region.rows, "columns": region.columns, "own": np.ones((1,) * 4, np.float32)}
    for value in exact.graph.input:
        feeds.setdefault(value.name, random.random(dims_of(value), np.float32))
    names = [value.name for value in exact.graph.output]
    given = {value.name: feeds[value.name] for value in exact.graph.input}
    for proto in (exact, rewrite(exact, "tensorrt")[0]):
        single, batched = (session_of(with_shape(proto, batch, *SIZE)) for batch in (1, BATCH))
        expected = [single.run(names, {**given, "input": tile[None]}) for tile in tiles]
        found = batched.run(names, {**given, "input": tiles})
        for name, a, b in zip(names, found, map(np.concatenate, zip(*expected)), strict=True):
            extent = max(np.ptp(b), np.abs(b).max(), 1.0)  # 1: masses are logarithms
            assert np.abs(a - b).max() <= TOLERANCE * extent, name


def test_a_graph_for_a_batch_takes_another(raw_graph: RawGraph) -> None:
    for_three = rewrite(with_shape(raw_graph("mirnet-v2"), 3, *SIZE), "tensorrt")[0]
    tiles = random_tiles(3, *SIZE)
    expected = run(with_shape(for_three, 3, *SIZE), tiles)
    for batch in (1, 2):
        found = run(with_shape(for_three, batch, *SIZE), tiles[:batch])
        assert relative_error(found, expected[:batch]) <= TOLERANCE


@pytest.mark.parametrize("form", ["raw", "any", "sized, tensorrt"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_graph_keeps_its_identity_at_its_own_batch(
    network: str, form: str, raw_graph: RawGraph
) -> None:
    """Recorded files are keyed by what `graph_sha256` hashes."""
    proto = made(raw_graph(network), form)
    sized = with_shape(proto, 1, *SIZE)
    assert sized.graph.node == proto.graph.node
    assert sized.graph.initializer == proto.graph.initializer
    assert graph_sha256(with_shape(sized, 1, *SIZE)) == graph_sha256(sized)


SHARED = """
<ir_version: 8, opset_import: ["" : 17]>
shared (float[1,2,4,8] input) => (float[1,2,4,8] output)
<int64[3] target = {1,2,32}, int64[4] back = {1,0,-1,8}>
{
  [flat] a = Reshape <allowzero = 1> (input, target)
  [table] b = Reshape (w, target)
  [wide] c = Expand (s, target)
  [sum] d = Sum (a, b, c)
  [view] output = Reshape (d, back)
}
"""


def test_a_shape_that_others_read_is_changed_for_none_of_them() -> None:
    proto = parsed(SHARED, w=(8, 8), s=(1, 2, 1))
    batched = with_shape(proto, BATCH, 4, 8)
    nodes = {node.name: node for node in batched.graph.node}
    constants = {t.name: numpy_helper.to_array(t) for t in batched.graph.initializer}
    targets = {
        name: constants[nodes[name].input[1]].tolist()
        for name in ("flat", "table", "wide", "view")
    }  # fmt: skip
    assert targets == {
        "flat": [0, 2, 32], "table": [1, 2, 32], "wide": [1, 2, 32], "view": [0, 0, -1, 8],
    }  # fmt: skip
    assert {name for node in nodes.values() for name in node.input} >= set(constants)
    assert proto == parsed(SHARED, w=(8, 8), s=(1, 2, 1)), "the graph that came was changed"
    assert_tiles_stay_apart(proto, (4, 8))


@pytest.mark.parametrize("target", ["2,32", "2,-1", "0,0,0,8"])
def test_a_reshape_that_cannot_keep_tiles_apart_is_refused(target: str) -> None:
    proto = parsed(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        mixed (float[1,2,4,8] input) => (float[1,2,4,8] output)
        <int64[{target.count(",") + 1}] target = {{{target}}}, int64[4] back = {{1,2,4,8}}>
        {{ [turned] a = Transpose <perm = [1,0,2,3]> (input)
           [flat] b = Reshape (a, target)
           [view] output = Reshape (b, back) }}"""
    )
    assert dims_of(with_shape(proto, 1, 4, 8).graph.output[0]) == (1, 2, 4, 8)
    for sized in (with_shape, shapes_of):
        with pytest.raises(me.GraphError, match=r"'flat' makes .* mixes the 3 tiles of a batch"):
            sized(proto, BATCH, 4, 8)
