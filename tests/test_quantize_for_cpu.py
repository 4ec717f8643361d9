"""INT8 for a CPU: exact where nothing is rounded, finer than TensorRT's, of open size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import mirnet_edge as me
from mirnet_edge.engines.protocol import statistics_of_engine
from mirnet_edge.graph.file import graph_sha256, has_qdq, load_graph
from mirnet_edge.quantize import quantize_onnx
from mirnet_edge.quantize.for_cpu import channel_peaks, smoothed
from mirnet_edge.quantize.qdq import insert_qdq
from mirnet_edge.quantize.ranges import Ranges, TensorRange

CHANNELS = 16
TALL = np.geomspace(0.05, 20, CHANNELS).astype(np.float32)
"""How tall the channels of the network's middle are."""


def network(size: Any = (20, 24)) -> onnx.ModelProto:
    """Convolutions whose middle has channels of very different heights, hardly below zero; a mean
    over the frame besides."""
    random = np.random.default_rng(0)

    def weights(name: str, out: int, given: int) -> onnx.TensorProto:
        scale = (given * 9) ** -0.5
        kernel = random.standard_normal((out, given, 3, 3)) * scale
        kernel *= TALL.reshape(-1, 1, 1, 1) if name == "w1" else 1
        kernel /= TALL.reshape(1, -1, 1, 1) if name == "w2" else 1
        return numpy_helper.from_array(kernel.astype(np.float32), name)

    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["input", "w0"], ["a"], name="first", **conv),
        helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.1),
        helper.make_node("Conv", ["b", "w1"], ["c"], name="tall", **conv),
        helper.make_node("LeakyRelu", ["c"], ["d"], alpha=0.1),
        helper.make_node("Conv", ["d", "w2"], ["e"], name="low", **conv),
        helper.make_node("ReduceMean", ["e"], ["m"], name="pool", axes=[2, 3], keepdims=1),
        helper.make_node("Add", ["e", "m"], ["f"]),
        helper.make_node("Conv", ["f", "w3"], ["output"], name="last", **conv),
    ]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, *size])
    result = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, *size])
    constants = [weights("w0", 16, 3), weights("w1", 16, 16), weights("w2", 16, 16)]
    graph = helper.make_graph(nodes, "net", [given], [result], [*constants, weights("w3", 3, 16)])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, value in me.ModelFacts(min_size_px=4).to_metadata().items():
        proto.metadata_props.add(key=key, value=value)
    return onnx.shape_inference.infer_shapes(proto)


def tiles(count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).random((count, 3, 20, 24), np.float32)


def run(proto: onnx.ModelProto, tile: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: np.ndarray = session.run(None, {"input": tile[None]})[0]
    return result


def test_smoothing_computes_the_same_and_levels_the_channels() -> None:
    proto, (tile, *_) = network(), tiles()
    peaks = channel_peaks(proto, ["b", "d"], tiles())
    assert peaks["d"].max() > 100 * peaks["d"].min()
    smooth = smoothed(proto, ["tall", "low"], peaks)
    expected = run(proto, tile)
    np.testing.assert_allclose(run(smooth, tile), expected, atol=1e-5 * np.ptp(expected))
    leveled = channel_peaks(smooth, ["low/smooth"], tiles())["low/smooth"]
    assert leveled.max() < 12 * leveled.min()
    assert graph_sha256(proto) == graph_sha256(network()), "the given graph is left alone"


def ranges_of(proto: onnx.ModelProto, names: list[str]) -> Ranges:
    shown, found = onnx.ModelProto(), {}
    shown.CopyFrom(proto)
    shown.graph.output.extend(helper.make_tensor_value_info(n, 1, None) for n in names)
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values = [session.run(names, {"input": tile[None]}) for tile in tiles()]
    for name, seen in zip(names, zip(*values)):
        low, high = float(np.min(seen)), float(np.max(seen))
        found[name] = TensorRange(max(-low, high), low, high)
    return Ranges(graph_sha256(proto), "minmax", found, "", len(values))


def test_zero_points_and_smoothing_lose_less() -> None:
    proto, (tile, *_) = network(), tiles()
    expected = run(proto, tile)
    smooth = smoothed(proto, ["tall", "low"], channel_peaks(proto, ["b", "d"], tiles()))

    def error(graph: onnx.ModelProto, read: list[str], asymmetric: bool) -> float:
        ranges = ranges_of(graph, read)
        quantized = insert_qdq(graph, ranges, ["tall", "low"], asymmetric)
        return float(np.sqrt(np.square(run(quantized, tile) - expected).mean()))

    symmetric, finer = (error(proto, ["b", "d"], which) for which in (False, True))
    finest = error(smooth, ["tall/smooth", "low/smooth"], True)
    assert finer < 0.8 * symmetric, (symmetric, finer)
    assert finest < 0.5 * finer, (finer, finest)


def test_clips_have_zero_and_no_more_than_was_measured() -> None:
    assert TensorRange(5.0, -1.0, 8.0).clip == (-1.0, 5.0)
    assert TensorRange(5.0, -9.0, 2.0).clip == (-5.0, 2.0)
    assert TensorRange(5.0, 1.0, 2.0).clip == (0.0, 2.0)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cpu")
    onnx.save(network(["height", "width"]), folder / "net.onnx")
    quantize_onnx(
        folder / "net.onnx", folder / "int8.onnx", device="cpu", tile=(32, 32), budget_db=20.0
    )
    return folder / "int8.onnx"


def test_the_file_is_of_open_size_and_has_its_pools(quantized: Path) -> None:
    proto = load_graph(quantized)
    assert has_qdq(proto)
    zero_points = {t.data_type for t in proto.graph.initializer if "zero_point" in t.name}
    assert zero_points == {TensorProto.UINT8, TensorProto.INT8}
    engine = me.OnnxEngine(quantized)
    assert engine.fixed_size is None
    exact = me.OnnxEngine(quantized.with_name("net.onnx"))
    for size in ((20, 24), (36, 16)):
        tile = np.random.default_rng(2).random((1, 3, *size), np.float32)
        expected = exact.run(tile)
        np.testing.assert_allclose(engine.run(tile), expected, atol=0.05 * np.ptp(expected))
    (pool,) = statistics_of_engine(engine).pools
    assert pool.channels == CHANNELS


def test_openvino_runs_it_as_it_was_simulated(quantized: Path) -> None:
    pytest.importorskip("openvino")
    tile = np.random.default_rng(2).random((1, 3, 36, 48), np.float32)
    fast, portable = me.OpenVINOEngine(quantized), me.OnnxEngine(quantized)
    exact = me.OnnxEngine(quantized.with_name("net.onnx")).run(tile)
    found, simulated = fast.run(tile), portable.run(tile)
    # Where a value lies between two levels, either may be taken.
    apart = np.sqrt(np.square(found - simulated).mean())
    assert apart < 0.5 * np.sqrt(np.square(simulated - exact).mean())
    with me.Restorer(fast, tile=32, halo=4, statistics="frame") as restore:
        assert restore(np.full((50, 70, 3), 99, np.uint8)).shape == (50, 70, 3)


def test_a_device_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(me.MirnetEdgeError, match="'npu': use one of tensorrt, cpu"):
        quantize_onnx("x.onnx", tmp_path / "y.onnx", device="npu")  # type: ignore[arg-type]
