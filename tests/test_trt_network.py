"""The calls that make a plan, seen by a TensorRT that builds nothing; files of timings; and the
names of nodes in errors."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_builder
import graph_samples
import onnx
import pytest

from mirnet_edge.engines.card import TensorFacts
from mirnet_edge.trt import log as tensorrt_log
from mirnet_edge.trt.network import (
    BuildLimits,
    NetworkSource,
    build_plan,
    describe_node,
    inspect_plan,
    module_of_node,
)
from mirnet_edge.trt.timing_cache import TimingCache, timing_cache_name


@pytest.fixture(params=["8.6.1", "10.3.0", "11.4.0"])
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("FAKE_TENSORRT_VERSION", request.param)
    fake = importlib.reload(fake_builder)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(tensorrt_log, "_process_logger", None)
    return fake


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(graph_samples.network(), path)
    return path


def planned(trt: ModuleType, source: NetworkSource, **limits: Any) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(build_plan(trt, source, BuildLimits(**limits)).serialized)
    return plan


@pytest.mark.parametrize("trt", ["8.6.1", "10.3.0"], indirect=True)
def test_islands_are_constrained_by_name(trt: ModuleType, graph: Path) -> None:
    layers = planned(trt, NetworkSource(graph, False, "fp16", {"pool", "gate"}))["layers"]
    wide = {item["Name"] for item in layers if "FP32" in item["Inputs"][0]["Format/Datatype"]}
    assert wide == {"pool", "gate"}


@pytest.mark.parametrize("trt", ["8.6.1", "10.3.0"], indirect=True)
def test_the_heavy_nodes_of_a_weak_graph_are_held_to_fp16(trt: ModuleType, graph: Path) -> None:
    source = NetworkSource(graph, False, "fp16", islands={"pool"}, halves={"first", "one"})
    layers = planned(trt, source)["layers"]
    assert {item["Name"] for item in layers if item["Asked"] == "HALF"} == {"first", "one"}


@pytest.mark.parametrize("trt", ["8.6.1", "10.3.0"], indirect=True)
def test_flags_of_each_precision(trt: ModuleType, graph: Path) -> None:
    for precision, flags in (("fp32", set()), ("fp16", {"FP16"}), ("int8", {"FP16", "INT8"})):
        told = set(planned(trt, NetworkSource(graph, False, precision))["flags"])
        assert told - {"OBEY_PRECISION_CONSTRAINTS"} == flags


@pytest.mark.parametrize("trt", ["8.6.1", "10.3.0"], indirect=True)
def test_named_inputs_and_outputs_are_half(trt: ModuleType, graph: Path) -> None:
    proto = onnx.load(graph)
    proto.graph.output.append(onnx.ValueInfoProto(name="h"))
    onnx.save(onnx.shape_inference.infer_shapes(proto), graph)
    source = NetworkSource(graph, False, "fp16", half_io=["input", "output"])
    assert planned(trt, source)["dtypes"] == ["HALF", "HALF", "FLOAT"]


@pytest.mark.parametrize("trt", ["10.3.0", "11.4.0"], indirect=True)
def test_strong_types_set_no_flag(trt: ModuleType, graph: Path) -> None:
    told = planned(trt, NetworkSource(graph, True, "fp16"))
    assert (told["strongly_typed"], told["flags"]) == (True, [])


def test_a_plan_is_read_back(trt: ModuleType, graph: Path) -> None:
    plan = build_plan(trt, NetworkSource(graph, False, "fp32"), BuildLimits())
    facts, layers = inspect_plan(trt, plan.serialized)
    layout = "Row major linear FP32 format (kLINEAR)"
    assert facts.inputs == (TensorFacts("input", (1, 3, 20, 28), "float32", layout),)
    assert facts.outputs[0].name == "output"
    assert facts.activation_bytes == 2**20
    assert len(json.loads(layers)["Layers"]) == 11, "convolutions and the reduction"


# Timings


def test_timing_caches_are_named_after_gpu_and_release() -> None:
    name = timing_cache_name("NVIDIA H200 (MIG 1g)", "8.6.1")
    assert name == "NVIDIA-H200-MIG-1g-8.6.1.timing_cache"


def test_builds_at_the_same_time_keep_each_others_timings(trt: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "t.timing_cache"
    first, second = trt.Config(), trt.Config()
    caches = TimingCache(first, path), TimingCache(second, path)
    first.cache.entries.add("one")
    second.cache.entries.add("two")
    for cache in caches:
        cache.save()
        assert cache.notes == []
    assert json.loads(path.read_bytes()) == ["one", "two"]


def test_a_damaged_cache_is_replaced(trt: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "t.timing_cache"
    path.write_bytes(b"\0damaged")
    config = trt.Config()
    cache = TimingCache(config, path)
    assert "is damaged" in cache.notes[0]
    config.cache.entries.add("new")
    cache.save()
    assert json.loads(path.read_bytes()) == ["new"]


def test_a_cache_that_cannot_be_saved_is_noted(trt: ModuleType, tmp_path: Path) -> None:
    config = trt.Config()
    cache = TimingCache(config, tmp_path / "gone" / "t.timing_cache")
    cache.save()
    assert "not saved" in cache.notes[0]


# Names


def test_a_node_is_named_with_its_module(tiny_onnx: Path) -> None:
    nodes = onnx.load(tiny_onnx).graph.node
    softmax = next(i for i, node in enumerate(nodes) if node.op_type == "Softmax")
    said = describe_node(tiny_onnx, softmax)
    assert said.startswith(f"node {nodes[softmax].name!r} (Softmax, behind body.0.body.0.dau_")
    assert describe_node(tiny_onnx, -1) == "the graph"
    conv = next(node for node in nodes if node.op_type == "Conv" and "body" in node.input[1])
    module = conv.input[1].partition("/")[0].removesuffix(".weight")
    assert module_of_node(onnx.load(tiny_onnx).graph, conv) == f"in {module}"


def test_a_node_far_from_any_weight_has_no_module() -> None:
    graph = graph_samples.network().graph
    assert module_of_node(graph, graph.node[0]) is None, "its weight's name has no module"
