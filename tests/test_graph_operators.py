"""Graphs with operators of ours compute what they computed without, and only where they may."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import RawGraph
from graph_samples import parsed
from plugin_nodes import DOMAIN, evaluated

from mirnet_edge.bundled import bundled_model
from mirnet_edge.graph.file import load_graph, with_shape
from mirnet_edge.graph.operators import (
    BLOCKS,
    FUSIONS,
    GROUPS,
    INPUT,
    OUTPUT,
    groups_for,
    with_plugins,
)
from mirnet_edge.graph.operators.blocks import BLOCK_SHARED_BYTES
from mirnet_edge.graph.pooling import apply_graph
from mirnet_edge.graph.rewrite import rewritten_for_tensorrt
from mirnet_edge.trt.plugins import sources_folder

BATCH, SIZE = 2, (16, 24)
FUSED = {"MirnetResidualSum": 12, "MirnetFusionGate": 8, "MirnetGatedSum": 8}
BLOCKED = {**FUSED, "MirnetResidualSum": 8, "MirnetResidualBlock": 4}
COUNTS: dict[tuple[str, ...], dict[str, int]] = {
    (): {},
    (FUSIONS,): FUSED,
    (INPUT,): {"MirnetUnshuffle": 1},
    (OUTPUT,): {"MirnetShuffleAdd": 1},
    (BLOCKS,): {},
    GROUPS: {**BLOCKED, "MirnetUnshuffle": 1, "MirnetShuffleAdd": 1},
}


CONTEXTS = {
    **dict.fromkeys(("MirnetContextRows", "MirnetContextVector", "MirnetContextSum"), 12),
    "MirnetFusionGate": 8,
    "MirnetGatedSum": 8,
}
"""Of low light, whose residual blocks have context."""


@functools.cache
def exported(model: str = "edge-s-denoise") -> Any:
    bundled = bundled_model(model)
    assert bundled is not None
    return load_graph(bundled.onnx)


@functools.cache
def rewritten(model: str = "edge-s-denoise") -> Any:
    return rewritten_for_tensorrt(exported(model), BATCH, SIZE)


@functools.cache
def expected(model: str = "edge-s-denoise") -> Any:
    return computed(exported(model))


def computed(exported: Any) -> Any:
    """The output of a graph as it was exported."""
    plain = with_shape(exported, BATCH, *SIZE)
    planes = plain.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    session = onnxruntime.InferenceSession(
        plain.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"input": image(planes)})[0]


def image(planes: int = 4) -> Any:
    return np.random.default_rng(0).random((BATCH, planes, *SIZE), np.float32)


@pytest.mark.parametrize("groups", COUNTS, ids="+".join)
def test_the_graph_computes_the_same(groups: tuple[str, ...]) -> None:
    proto, counts = with_plugins(rewritten(), groups)
    assert counts == COUNTS[groups]
    # One of its means off by a percent is 1e-3.
    np.testing.assert_allclose(evaluated(proto, image()), expected(), rtol=0, atol=1e-5)


def test_context_blocks_compute_the_same() -> None:
    proto, counts = with_plugins(rewritten("edge-m-enhance"), GROUPS)
    assert counts == {**CONTEXTS, "MirnetUnshuffle": 1, "MirnetShuffleAdd": 1}
    found = evaluated(proto, image(3))
    np.testing.assert_allclose(found, expected("edge-m-enhance"), rtol=0, atol=1e-5)
    kinds = {node.op_type for node in proto.graph.node if node.domain != DOMAIN}
    assert kinds == {"Conv", "LeakyRelu", "Add"}


@pytest.mark.parametrize("part", ["positions", "mask", "mean"])
def test_another_mean_than_a_context_blocks_stays(part: str) -> None:
    """The sum takes it as it comes."""
    plain = rewritten("edge-m-enhance")

    def change(graph: Any) -> None:
        quotient = next(node for node in graph.node if node.op_type == "Div")
        count = writer(graph, quotient.input[1])
        if part == "positions":
            new = onnx.numpy_helper.from_array(np.full((1, 1, 1, 1), 7, np.float32), "seven")
            graph.initializer.append(new)
            count.input[1] = new.name
        elif part == "mask":
            below = next(node for node in graph.node if node.op_type == "Sub")
            mask = writer(graph, below.input[0])
            mask.input[0] = writer(graph, mask.input[0]).input[0]  # as many channels, before
        else:
            squeeze = readers(graph, quotient.output[0])[0]
            squeeze.input[0] = writer(graph, quotient.input[0]).output[0]

    proto = changed_graph(plain, change)
    counts = with_plugins(proto, GROUPS)[1]
    assert counts["MirnetContextRows"] == counts["MirnetContextVector"] == 11
    assert counts["MirnetContextSum"] == 12


@pytest.fixture(scope="module")
def first_family(raw_graph: RawGraph) -> tuple[Any, Any]:
    """A small network of the first family, as exported and as rewritten."""
    exported = raw_graph("mirnet")
    return exported, rewritten_for_tensorrt(exported, BATCH, SIZE)


ATTENTION = ("MirnetAttentionPools", "MirnetChannelGate", "MirnetDualGate")


def test_dual_attention_computes_the_same(first_family: tuple[Any, Any]) -> None:
    exported, plain = first_family
    proto, counts = with_plugins(plain, (FUSIONS,))
    assert [counts[name] for name in ATTENTION] == [6, 6, 6]
    found = evaluated(proto, image(3))
    np.testing.assert_allclose(found, computed(exported), rtol=0, atol=1e-5)

    def swap(graph: Any) -> None:  # the mean before the largest
        planes = next(n for n in graph.node if n.op_type == "Concat")
        planes.input[:] = reversed(planes.input)

    counts = with_plugins(changed_graph(plain, swap), (FUSIONS,))[1]
    assert [counts[name] for name in ATTENTION] == [5, 5, 5]


SELECTION = ("MirnetMeanRows", "MirnetSelectGate", "MirnetSelectSum")


@pytest.mark.parametrize("swapped", ["nothing", "all", "means"])
def test_selective_fusion_of_three_computes_the_same(
    first_family: tuple[Any, Any], swapped: str
) -> None:
    exported, plain = first_family

    def swap(graph: Any) -> None:
        for node in graph.node if swapped != "nothing" else ():
            is_mean = node.output[0].endswith("/mean")
            if node.op_type in ("Add", "Mul", "Max", "Sum") and (is_mean or swapped == "all"):
                node.input[:] = reversed(node.input)

    proto, counts = with_plugins(changed_graph(plain, swap), (FUSIONS,))
    assert [counts[name] for name in SELECTION] == [4, 4, 4]
    assert not {"Max", "Exp", "Div"} & {node.op_type for node in proto.graph.node}
    onnx.checker.check_model(proto)
    found = evaluated(proto, image(3))
    np.testing.assert_allclose(found, computed(exported), rtol=0, atol=1e-5)


OF_GATES = ["vector", "mean", "largest", "powers", "gate", "gate elsewhere"]
OF_SUMS = ["map", "product elsewhere", "sum elsewhere"]


@pytest.mark.parametrize("part", OF_GATES + OF_SUMS)
def test_another_selective_fusion_of_three_stays(first_family: tuple[Any, Any], part: str) -> None:
    """Of other gates the sum is taken as they come."""

    def change(graph: Any) -> None:
        first, *_, last = (node for node in graph.node if node.op_type == "Max")
        quotients = [node for node in graph.node if node.op_type == "Div"][-3:]
        gates = [node.output[0] for node in quotients]
        products = [readers(graph, gate)[0] for gate in gates]
        expand = writer(graph, last.input[1])
        squeeze = writer(graph, writer(graph, expand.input[0]).input[0])
        two = writer(graph, writer(graph, squeeze.input[0]).input[0])
        elsewhere = next(n for n in reversed(graph.node) if n.op_type == "Add"
                         and "input" not in n.input)  # fmt: skip
        node, place, name = {
            "vector": (expand, 0, writer(graph, first.input[0]).input[0]),
            "mean": (two, 0, two.input[1]),
            "largest": (last, 0, last.input[1]),
            "powers": (writer(graph, quotients[0].input[1]), 0, quotients[1].input[0]),
            "gate": (products[1], 0, gates[0]),
            "gate elsewhere": (elsewhere, 1, gates[0]),
            "map": (products[1], 1, gates[2]),
            "product elsewhere": (elsewhere, 1, products[0].output[0]),
            "sum elsewhere": (elsewhere, 1, readers(graph, products[0].output[0])[0].output[0]),
        }[part]
        assert node.input[place] != name
        node.input[place] = name

    other = changed_graph(first_family[1], change)
    proto, counts = with_plugins(other, (FUSIONS,))
    assert [counts[name] for name in SELECTION] == [3, 3, 4 if part in OF_GATES else 3]
    found = evaluated(proto, image(3))
    np.testing.assert_allclose(found, computed(other), rtol=0, atol=1e-5)


WEIGHTED = """
<ir_version: 8, opset_import: ["" : 17]>
network (float[1,3,4,6] input) => (float[1,CHANNELS,4,6] output)
{
  a = Conv (input, wa)
  b = Conv (input, wb)
  c = Conv (input, wc)
  mean = ReduceMean <axes = [2,3], keepdims = 1> (input)
  g = Conv (mean, wb)
  ga = Mul (a, g)
  gb = Mul (vb, b)
  gc = Mul (c, vc)
  SUMS
}
"""


@pytest.mark.parametrize("sums", ["two = Add (gb, gc) output = Add (ga, two)",
                                  "two = Add (gc, ga) output = Add (two, gb)"])  # fmt: skip
@pytest.mark.parametrize(("channels", "count"), [(4, 1), (6, 0), (512, 1), (516, 0)])
def test_the_sum_of_three_maps_of_so_many_channels(sums: str, channels: int, count: int) -> None:
    text = WEIGHTED.replace("SUMS", sums).replace("CHANNELS", str(channels))
    tables = dict.fromkeys(("wa", "wb", "wc"), (channels, 3, 1, 1))
    vectors = dict.fromkeys(("vb", "vc"), (1, channels, 1, 1))
    plain = parsed(text, **tables, **vectors)
    proto, counts = with_plugins(plain, (FUSIONS,))
    assert counts == ({"MirnetSelectSum": 1} if count else {})
    tiles = np.random.default_rng(0).random((1, 3, 4, 6), np.float32)
    found, expected = evaluated(proto, tiles), evaluated(plain, tiles)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_given_vectors_leave_the_sum_of_three_alone(raw_graph: RawGraph) -> None:
    given = apply_graph(with_shape(raw_graph("mirnet"), 1, *SIZE))
    counts = with_plugins(rewritten_for_tensorrt(given, 1, SIZE), (FUSIONS,))[1]
    assert [counts.get(name, 0) for name in SELECTION] == [0, 0, 4]


def test_given_weights_of_channels_are_taken_as_they_come(raw_graph: RawGraph) -> None:
    given = apply_graph(with_shape(raw_graph("mirnet"), 1, *SIZE))
    counts = with_plugins(rewritten_for_tensorrt(given, 1, SIZE), (FUSIONS,))[1]
    assert [counts.get(name, 0) for name in ATTENTION] == [6, 0, 6]


def test_blocks_want_the_shared_memory_that_their_kernel_asks_for() -> None:
    source = (sources_folder() / "residual_block.cuh").read_text("utf-8")
    enumerators = re.search(r"enum \{(.*?)\};", re.sub(r"//.*", "", source), re.DOTALL)
    assert enumerators
    values: dict[str, int] = {
        "BLOCK_WARPS": int(re.findall(r"define BLOCK_WARPS (\d+)", source)[0])
    }
    for name, value in re.findall(r"(\w+) = ([^,]+),", enumerators[1]):
        values[name] = eval(value.replace("/", "//"), {}, values)
    assert values["shared_bytes"] == BLOCK_SHARED_BYTES
    assert groups_for(BLOCK_SHARED_BYTES) == GROUPS
    assert groups_for(BLOCK_SHARED_BYTES - 1) == (FUSIONS, INPUT, OUTPUT)


def test_a_graph_without_operators_is_as_it_came() -> None:
    proto = rewritten()
    assert with_plugins(proto, ())[0] is proto


def test_what_stays_of_the_graph() -> None:
    plain = rewritten()
    proto, counts = with_plugins(plain, GROUPS)
    names = [[v.name for v in (*g.graph.input, *g.graph.output)] for g in (plain, proto)]
    assert names[0] == names[1] == ["input", "output"]
    assert proto.metadata_props == plain.metadata_props
    kinds = {node.op_type for node in proto.graph.node if node.domain != DOMAIN}
    # No pass over a map is left but convolutions, and what TensorRT fuses into them.
    assert kinds == {"Conv", "LeakyRelu", "Add"}
    assert {opset.domain for opset in proto.opset_import} == {"", DOMAIN}
    names_of = [node.name for node in proto.graph.node]
    assert len(names_of) == len(set(names_of))
    onnx.checker.check_model(proto)
    assert sum(counts.values()) == 30


def test_given_vectors_leave_no_gate_to_compute() -> None:
    proto = rewritten_for_tensorrt(apply_graph(with_shape(exported(), 1, *SIZE)), 1, SIZE)
    assert with_plugins(proto, (FUSIONS,))[1] == {"MirnetGatedSum": 8}


def changed_graph(plain: Any, change: Callable[[Any], None]) -> Any:
    proto = onnx.ModelProto()
    proto.CopyFrom(plain)
    change(proto.graph)
    return with_shape(proto, BATCH, *SIZE)


def changed(change: Callable[[Any], None]) -> dict[str, int]:
    """The operators of a graph that was changed after its rewrite."""
    return with_plugins(changed_graph(rewritten(), change), GROUPS)[1]


def readers(graph: Any, name: str) -> list[Any]:
    return [node for node in graph.node if name in node.input]


def writer(graph: Any, name: str) -> Any:
    return next(node for node in graph.node if name in node.output)


def first_gate(graph: Any) -> list[Any]:
    """Sum of means, convolution, activation, convolution, sigmoid of the first fusion."""
    chain = [next(node for node in graph.node if node.op_type == "Sigmoid")]
    while chain[0].op_type != "Add":
        chain.insert(0, writer(graph, chain[0].input[0]))
    return chain


def test_a_gate_of_another_mean_stays() -> None:
    def change(graph: Any) -> None:
        total = first_gate(graph)[0]
        total.input[0] = total.input[1]

    # The fusion that reads what this one makes has no mean of it.
    found = changed(change)
    assert found["MirnetFusionGate"] == 6
    assert found["MirnetGatedSum"] == 8


def test_a_sum_whose_branch_others_read_stays() -> None:
    def change(graph: Any) -> None:
        leaky = next(n for n in graph.node if readers(graph, n.output[0])[0].op_type == "Add"
                     and n.op_type == "LeakyRelu")  # fmt: skip
        target = next(n for n in reversed(graph.node) if n.op_type == "Add"
                      and writer(graph, n.input[0]).op_type == "Conv")  # fmt: skip
        same = [v for v in graph.value_info if v.name == leaky.output[0]]
        assert same[0].type.tensor_type.shape.dim[1].dim_value == 32
        target.input[1] = leaky.output[0]

    found = changed(change)
    assert found["MirnetResidualBlock"] == 3
    assert found["MirnetResidualSum"] == 8
    assert found["MirnetFusionGate"] == 7


@pytest.mark.parametrize(("name", "value"), [("mode", b"DCR"), ("blocksize", None)])
def test_another_shuffle_stays(name: str, value: bytes | None) -> None:
    def change(graph: Any) -> None:
        shuffle = next(node for node in graph.node if node.op_type == "DepthToSpace")
        for attribute in shuffle.attribute:
            if attribute.name == name and value is not None:
                attribute.s = value
        if value is None:  # a sum with other planes than the image's first
            cut = next(node for node in graph.node if node.op_type == "Slice")
            for index, bound in ((1, 1), (2, 4)):
                new = onnx.numpy_helper.from_array(np.array([bound]), f"bound.{index}")
                graph.initializer.append(new)
                cut.input[index] = new.name

    assert "MirnetShuffleAdd" not in changed(change)
