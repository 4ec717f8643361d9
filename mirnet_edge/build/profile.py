"""Where the time of an engine goes, beside what its device can do: how fast that multiplies is
measured by the one means that an engine has, TensorRT's own convolution."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge._imports import require
from mirnet_edge.build import process
from mirnet_edge.build.graphs import typed_for_tensorrt
from mirnet_edge.build.process import BuildRequest
from mirnet_edge.build.target import find_target
from mirnet_edge.errors import BuildError
from mirnet_edge.graph.precision import Precision
from mirnet_edge.graph.precision.typing_pass import IoType
from mirnet_edge.quantize.qdq import macs_of
from mirnet_edge.trt.engine import TensorRTEngine
from mirnet_edge.trt.profile import EngineProfile, profile_engine
from mirnet_edge.trt.timing_cache import timing_cache_name

if TYPE_CHECKING:
    from onnx import ModelProto

CHANNELS, SIDE_PX = 256, 256
"""Of a 3x3 convolution of 39 GMAC that moves 67 MB in FP16: on an H100 (3.0 TB/s) its bytes take a
quarter of the time of its arithmetic, on an Orin less."""
LEVEL = 3


def profile_plan(path: Path, runs: int = 20) -> EngineProfile:
    """Profile an engine on this machine; what it takes to build a convolution is seconds, the next
    time less.

    Raises:
        EngineError: no engine, or one without a card that lists its layers.
        BuildError, DeviceError, MissingDependencyError: as `build_engine`.
    """
    target = find_target()
    cache = timing_cache_name(target.device["name"], target.versions["tensorrt"])
    with TensorRTEngine(path) as engine:
        precision = engine.card.precision if engine.card else "fp16"
        rate = multiplications_per_second(precision, path.parent / cache)
        return profile_engine(engine, rate, runs)


def multiplications_per_second(precision: str, timing_cache: Path) -> float:
    """Build and time one large convolution in FP16, or in FP32 for "fp32".

    Raises:
        BuildError, DeviceError, MissingDependencyError: as `build_engine` does.
    """
    proto = _convolution()
    of: Precision = "fp32" if precision == "fp32" else "fp16"
    io: IoType = "float32" if of == "fp32" else "float16"
    graph = typed_for_tensorrt(proto, of, io)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / process.STRONG).write_bytes(graph.strong.SerializeToString())
        (folder / process.WEAK).write_bytes(proto.SerializeToString())
        BuildRequest(
            precision=of,
            islands=sorted(graph.islands),
            halves=sorted(graph.halves),
            half_io=["input", "output"] if io == "float16" else [],
            workspace=None,
            optimization_level=LEVEL,
            timing_cache=str(timing_cache.resolve()),
        ).save(folder)
        answer = process.run_build(folder)
    if answer.graph_ms is None:
        raise BuildError(f"the device's arithmetic could not be timed: {'; '.join(answer.notes)}")
    return sum(macs_of(proto).values()) / (answer.graph_ms / 1e3)


def _convolution() -> ModelProto:
    helper = require("onnx.helper", "timing a convolution")
    numpy_helper = require("onnx.numpy_helper", "timing a convolution")
    random = np.random.Generator(np.random.PCG64(0))
    shape = CHANNELS, CHANNELS, 3, 3
    weights = (random.standard_normal(shape) / (3 * CHANNELS**0.5)).astype(np.float32)
    floats = helper.np_dtype_to_tensor_dtype(weights.dtype)
    values = [
        helper.make_tensor_value_info(name, floats, [1, CHANNELS, SIDE_PX, SIDE_PX])
        for name in ("input", "output")
    ]
    node = helper.make_node(
        "Conv",
        ["input", "weight"],
        ["output"],
        name="convolution",
        kernel_shape=[3, 3],
        pads=[1] * 4,
    )
    stored = numpy_helper.from_array(weights, "weight")
    graph = helper.make_graph([node], "rate", values[:1], values[1:], [stored])
    proto: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    proto.ir_version = 8
    return proto
