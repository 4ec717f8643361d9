"""A TensorRT plan from a typed ONNX graph: one path for TensorRT 8.6 to 11.

What a release lacks is found by ``hasattr``, never by its version. tests/test_trt_api.py holds
every name used here against the public names of five releases; it knows an object's class by the
name of its variable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirnet_edge.errors import (
    BuildError,
    DeviceError,
    DeviceMemoryError,
    EngineError,
    MirnetEdgeError,
    first_line,
)
from mirnet_edge.trt.log import Log
from mirnet_edge.trt.node_names import describe_node
from mirnet_edge.trt.timing_cache import TimingCache

Progress = Callable[[str, int, int], None]
"""Called with the phase, the steps done, and the steps there are (0 where nobody knows)."""
OUT_OF_MEMORY = re.compile(
    r"insufficient (memory|workspace)|out of memory|OutOfMemory|cudaErrorMemoryAllocation"
    r"|Requested amount of GPU memory|memory allocation",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class NetworkSource:
    """A graph for TensorRT, and how its precision is told.

    Attributes:
        onnx: the file.
        strongly_typed: by the types in the graph alone; otherwise by the flags and types below.
        precision: "fp32", "fp16" or "int8".
        islands: names of nodes that compute in FP32 all the same.
        halves: names of nodes that must compute in FP16: without this, TensorRT 8.6 takes FP32
            where its heuristics or a neighbour in FP32 make it look quicker.
        half_io: names of the inputs and outputs that are FP16 (of a graph whose own are FP32).
    """

    onnx: Path
    strongly_typed: bool
    precision: str
    islands: Collection[str] = ()
    halves: Collection[str] = ()
    half_io: Collection[str] = ()


@dataclass(frozen=True)
class BuildLimits:
    """Of a build: bytes of workspace, optimization level (0 to 5), both None for TensorRT's own;
    and the file of the timing cache, None for no cache."""

    workspace: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Plan:
    """A serialized engine and what is to be noted of its build."""

    serialized: Any
    strongly_typed: bool
    notes: list[str]


def has_strong_types(trt: Any) -> bool:
    """Whether this TensorRT takes precision from the graph."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def has_precision_flags(trt: Any) -> bool:
    """Whether this TensorRT can be told precision by flags."""
    return hasattr(trt.BuilderFlag, "FP16")


def build_plan(
    trt: Any, source: NetworkSource, limits: BuildLimits, progress: Progress | None = None
) -> Plan:
    """Parse and build.

    Raises:
        DeviceError: TensorRT does not start on this driver.
        DeviceMemoryError: the GPU's memory does not suffice.
        BuildError: an operator it refuses, or a failed build.
    """
    log = Log()
    builder = make_builder(trt, log)
    network = builder.create_network(_network_flags(trt, source.strongly_typed))
    keep = _parse(trt, network, source.onnx, log)
    config = builder.create_builder_config()
    _set_limits(trt, config, limits)
    if not source.strongly_typed:
        _set_precision(trt, config, network, source)
    cache = TimingCache(config, limits.timing_cache) if limits.timing_cache else None
    monitor = _monitor(trt, config, progress)
    log.clear()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _build_error(log.cause(), limits)
    if cache is not None:
        cache.save(config)
    del monitor, keep  # TensorRT uses both until here
    return Plan(plan, source.strongly_typed, cache.notes if cache else [])


def make_builder(trt: Any, log: Log) -> Any:
    """A ``trt.Builder``.

    Raises:
        DeviceError: TensorRT finds no GPU, or the driver is too old for it.
    """
    try:
        return trt.Builder(log.make_logger())
    except Exception as error:
        reason = log.cause() if log.errors else first_line(error)
        raise DeviceError(
            f"TensorRT {trt.__version__} does not start: {reason}. Either there is no GPU, or its "
            "driver is too old for this TensorRT: mirnet-edge doctor shows the CUDA version that "
            "the driver runs; update the driver (on a Jetson: JetPack), or install a TensorRT for "
            "that CUDA (on a workstation, tensorrt-cu12 or tensorrt-cu13)"
        ) from error


def _network_flags(trt: Any, strongly_typed: bool) -> int:
    """``EXPLICIT_BATCH`` is the only mode from 10 on and gone in 11; the number of
    ``STRONGLY_TYPED`` differs between releases."""
    flag = trt.NetworkDefinitionCreationFlag
    flags = 0
    if hasattr(flag, "EXPLICIT_BATCH"):
        flags |= 1 << int(flag.EXPLICIT_BATCH)
    if strongly_typed and hasattr(flag, "STRONGLY_TYPED"):
        flags |= 1 << int(flag.STRONGLY_TYPED)
    return flags


def _parse(trt: Any, network: Any, onnx: Path, log: Log) -> Any:
    """Fill the network from the file; the parser holds the weights and must outlive the build."""
    parser = trt.OnnxParser(network, log.make_logger())
    if parser.parse(onnx.read_bytes()):
        return parser
    reasons = "; ".join(
        dict.fromkeys(_refusal(parser.get_error(i), onnx) for i in range(parser.num_errors))
    )
    raise BuildError(
        f"TensorRT {trt.__version__} cannot read the graph: {reasons or log.cause()}. Export the "
        "network again with this mirnet-edge, or use a newer TensorRT"
    )


def _refusal(refusal: Any, onnx: Path) -> str:
    return f"{describe_node(onnx, refusal.node())}: {refusal.desc()} ({refusal.func()})"


def _set_limits(trt: Any, config: Any, limits: BuildLimits) -> None:
    """All but precision. Kernels are TensorRT's own: with cuBLAS and cuDNN off, an engine needs
    neither library where it runs. FP32 is FP32: the islands are there for bits that TF32 lacks."""
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    own = (trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS)
    config.set_tactic_sources(sum(1 << int(source) for source in own))
    if limits.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limits.workspace)
    if limits.optimization_level is not None:
        config.builder_optimization_level = limits.optimization_level


def _set_precision(trt: Any, config: Any, network: Any, source: NetworkSource) -> None:
    """Flags and types for a release, or a fallback, without strong types."""
    flag = trt.BuilderFlag
    if source.precision == "fp32" or not hasattr(flag, "FP16"):
        return
    config.set_flag(flag.FP16)
    if source.precision == "int8" and hasattr(flag, "INT8"):
        config.set_flag(flag.INT8)
    if hasattr(flag, "OBEY_PRECISION_CONSTRAINTS"):
        config.set_flag(flag.OBEY_PRECISION_CONSTRAINTS)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    for tensor in (*inputs, *outputs):
        if tensor.name in source.half_io:
            tensor.dtype = trt.float16
    islands, halves = set(source.islands), set(source.halves)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.name in islands:
            _compute_in_float32(trt, layer)
        elif layer.name in halves and hasattr(layer, "precision"):
            layer.precision = trt.float16


def _compute_in_float32(trt: Any, layer: Any) -> None:
    floats = [i for i in range(layer.num_outputs) if layer.get_output(i).dtype == trt.float32]
    if floats and hasattr(layer, "precision") and hasattr(layer, "set_output_type"):
        layer.precision = trt.float32
        for index in floats:
            layer.set_output_type(index, trt.float32)


def _monitor(trt: Any, config: Any, progress: Progress | None) -> Any | None:
    """An ``IProgressMonitor`` in the config, where there is one (TensorRT 10)."""
    if progress is None or not hasattr(trt, "IProgressMonitor"):
        return None
    if not hasattr(config, "progress_monitor"):
        return None
    report = progress

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, _parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            report(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            report(phase_name, step + 1, self._steps.get(phase_name, 0))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    monitor = Monitor()
    config.progress_monitor = monitor
    return monitor


def _build_error(cause: str, limits: BuildLimits) -> MirnetEdgeError:
    if not OUT_OF_MEMORY.search(cause):
        return BuildError(f"TensorRT built no engine: {cause}")
    if limits.workspace is not None:
        return BuildError(
            f"TensorRT built no engine within a workspace of {limits.workspace / 2**20:.0f} MiB: "
            f"{cause}. Allow more workspace, or take a smaller tile or batch"
        )
    return DeviceMemoryError(
        f"the GPU's memory does not suffice for the build: {cause}. Take a smaller tile or batch, "
        "limit the workspace, or end what else uses the GPU"
    )


def inspect_plan(trt: Any, serialized: Any) -> dict[str, Any]:
    """What the plan says of itself: its layers as JSON text, inputs and outputs, and the device
    memory that one execution context needs.

    Raises:
        EngineError: TensorRT does not load what it built.
    """
    log = Log()
    runtime = trt.Runtime(log.make_logger())
    engine = runtime.deserialize_cuda_engine(serialized)
    if engine is None:
        raise EngineError(f"TensorRT does not load the engine that it built: {log.cause()}")
    inspector = engine.create_engine_inspector()
    tensors: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        tensors["inputs" if is_input else "outputs"].append(
            {
                "name": name,
                "shape": list(engine.get_tensor_shape(name)),
                "dtype": _dtype_name(engine.get_tensor_dtype(name)),
                "layout": str(engine.get_tensor_format_desc(name)),
            }
        )
    if hasattr(engine, "device_memory_size_v2"):
        activation_bytes = engine.device_memory_size_v2
    else:
        activation_bytes = engine.device_memory_size  # api: before device_memory_size_v2
    layers = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return {**tensors, "layers": layers, "activation_bytes": int(activation_bytes)}


def _dtype_name(dtype: Any) -> str:
    """As numpy spells it."""
    spelled = {"FLOAT": "float32", "HALF": "float16"}
    return str(spelled.get(dtype.name, dtype.name.lower()))
