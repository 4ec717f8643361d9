"""A TensorRT plan from a typed ONNX graph: one path for TensorRT 8.6 to 11.

What a release lacks is found by ``hasattr``, never by its version. tests/test_trt_api.py holds
every name used here against the public names of five releases; it knows an object's class by the
name of its variable.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mirnet_edge._imports import require
from mirnet_edge.errors import (
    BuildError,
    DeviceError,
    DeviceMemoryError,
    EngineError,
    MirnetEdgeError,
    first_line,
)
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.trt.log import Log, lacks_memory
from mirnet_edge.trt.plan import PlanFacts, read_facts
from mirnet_edge.trt.timing_cache import TimingCache

if TYPE_CHECKING:
    import onnx

NODES_BACK = 8
"""How far from a node its module's weights are looked for."""


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
    """Of a build: bytes of workspace, optimization level (0 to 5), streams beside the main one, all
    None for TensorRT's own; and the file of the timing cache, None for no cache."""

    workspace: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    aux_streams: int | None = None


@dataclass(frozen=True)
class Plan:
    """A serialized engine (``IHostMemory``) and what is to be noted of its build."""

    serialized: Any
    strongly_typed: bool
    notes: list[str]


def has_strong_types(trt: ModuleType) -> bool:
    """Whether this TensorRT takes precision from the graph."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def has_precision_flags(trt: ModuleType) -> bool:
    """Whether this TensorRT can be told precision by flags."""
    return hasattr(trt.BuilderFlag, "FP16")


def build_plan(
    trt: ModuleType,
    source: NetworkSource,
    limits: BuildLimits,
    progress: StageProgress | None = None,
) -> Plan:
    """Parse and build.

    Raises:
        DeviceError: TensorRT does not start on this driver, or the GPU's memory does not suffice.
        BuildError: an operator it refuses, or a failed build.
    """
    return _PlanBuilder(trt, source).build(limits, progress)


class _PlanBuilder:
    """Holds TensorRT's objects for one build. All must live until it is done: the network reads its
    weights from the parser, and TensorRT calls the monitor without owning it."""

    def __init__(self, trt: ModuleType, source: NetworkSource) -> None:
        self._trt, self._source, self._log = trt, source, Log()
        self._builder = self._start()
        self._network = self._builder.create_network(self._network_flags())
        self._parser = trt.OnnxParser(self._network, self._log.make_logger())
        self._parse()
        self._config = self._builder.create_builder_config()

    def build(self, limits: BuildLimits, progress: StageProgress | None) -> Plan:
        self._set_limits(limits)
        if not self._source.strongly_typed:
            self._set_precision()
        cache = TimingCache(self._config, limits.timing_cache) if limits.timing_cache else None
        self._monitor = self._make_monitor(progress) if progress is not None else None
        self._log.errors.clear()
        plan = self._builder.build_serialized_network(self._network, self._config)
        if plan is None:
            raise _build_error(self._log.cause(), limits)
        if cache is not None:
            cache.save()
        return Plan(plan, self._source.strongly_typed, cache.notes if cache else [])

    def _start(self) -> Any:
        try:
            return self._trt.Builder(self._log.make_logger())
        except Exception as error:
            reason = self._log.cause() if self._log.errors else first_line(error)
            raise DeviceError(
                f"TensorRT {self._trt.__version__} does not start: {reason}. Either there is no "
                "GPU, or its driver is too old for this TensorRT: mirnet-edge doctor shows the "
                "CUDA version that the driver runs; update the driver (on a Jetson: JetPack), or "
                "install a TensorRT for that CUDA (on a workstation, tensorrt-cu12 or "
                "tensorrt-cu13)"
            ) from error

    def _network_flags(self) -> int:
        flag = self._trt.NetworkDefinitionCreationFlag
        flags = 0
        if hasattr(flag, "EXPLICIT_BATCH"):  # the only mode from 10 on, and gone in 11
            flags |= 1 << int(flag.EXPLICIT_BATCH)
        if self._source.strongly_typed and hasattr(flag, "STRONGLY_TYPED"):
            flags |= 1 << int(flag.STRONGLY_TYPED)
        return flags

    def _parse(self) -> None:
        parser, onnx = self._parser, self._source.onnx
        if parser.parse(onnx.read_bytes()):
            return
        reasons = []
        for index in range(parser.num_errors):
            refusal = parser.get_error(index)
            node = describe_node(onnx, refusal.node())
            reasons.append(f"{node}: {refusal.desc()} ({refusal.func()})")
        raise BuildError(
            f"TensorRT {self._trt.__version__} cannot read the graph: "
            f"{'; '.join(dict.fromkeys(reasons)) or self._log.cause()}. Export the network again "
            "with this mirnet-edge, or use a newer TensorRT"
        )

    def _set_limits(self, limits: BuildLimits) -> None:
        trt, config = self._trt, self._config
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or layers are names alone
        # FP32 is FP32: the islands are there for bits that TF32 lacks.
        config.clear_flag(trt.BuilderFlag.TF32)
        # TensorRT's own kernels alone: without cuBLAS and cuDNN an engine needs neither library
        # where it runs.
        own = (trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS)
        config.set_tactic_sources(sum(1 << int(source) for source in own))
        if limits.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limits.workspace)
        if limits.optimization_level is not None:
            config.builder_optimization_level = limits.optimization_level
        if limits.aux_streams is not None:
            config.max_aux_streams = limits.aux_streams

    def _set_precision(self) -> None:
        """Flags and types for a release, or a fallback, without strong types."""
        trt, config, network, source = self._trt, self._config, self._network, self._source
        flag = trt.BuilderFlag
        if source.precision == "fp32" or not hasattr(flag, "FP16"):
            return
        config.set_flag(flag.FP16)
        if source.precision == "int8" and hasattr(flag, "INT8"):
            config.set_flag(flag.INT8)
        # Without this the types below are wishes, which TensorRT drops where another is quicker.
        if hasattr(flag, "OBEY_PRECISION_CONSTRAINTS"):
            config.set_flag(flag.OBEY_PRECISION_CONSTRAINTS)
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        outputs = [network.get_output(index) for index in range(network.num_outputs)]
        for tensor in (*inputs, *outputs):
            if tensor.name in source.half_io:
                tensor.dtype = trt.float16
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            if not (hasattr(layer, "precision") and hasattr(layer, "set_output_type")):
                continue
            if layer.name in source.islands:
                # Only what is a float is told so: a Shape or an ArgMax gives integers.
                results = range(layer.num_outputs)
                floats = [i for i in results if layer.get_output(i).dtype == trt.float32]
                if floats:
                    layer.precision = trt.float32
                for result in floats:
                    layer.set_output_type(result, trt.float32)
            elif layer.name in source.halves:
                layer.precision = trt.float16

    def _make_monitor(self, report: StageProgress) -> object:
        """An ``IProgressMonitor`` in the config, where there is one (TensorRT 10)."""
        trt, config = self._trt, self._config
        if not (hasattr(trt, "IProgressMonitor") and hasattr(config, "progress_monitor")):
            return None

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)
                self._steps: dict[str, int] = {}

            def phase_start(self, phase_name: str, _parent: str | None, num_steps: int) -> None:
                self._steps[phase_name] = num_steps
                report(phase_name, 0, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                report(phase_name, step + 1, self._steps.get(phase_name, 0))
                return True  # False would cancel the build

            def phase_finish(self, phase_name: str) -> None:
                self._steps.pop(phase_name, None)

        config.progress_monitor = monitor = Monitor()
        return monitor


def _build_error(cause: str, limits: BuildLimits) -> MirnetEdgeError:
    if not lacks_memory(cause):
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


def inspect_plan(trt: ModuleType, serialized: object) -> tuple[PlanFacts, str]:
    """Read a plan back: what TensorRT tells of the engine, and its layers as JSON text."""
    log = Log()
    runtime = trt.Runtime(log.make_logger())
    engine = runtime.deserialize_cuda_engine(serialized)
    if engine is None:
        raise EngineError(f"TensorRT does not load the engine that it built: {log.cause()}")
    inspector = engine.create_engine_inspector()
    layers = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return read_facts(trt, engine), str(layers)


def describe_node(onnx_file: Path, index: int) -> str:
    """Name a node by its place in a graph's list, with its operator and the module of the network
    that it came from: who reads the error may know the network alone."""
    onnx = require("onnx", "naming a node of a graph")
    graph = onnx.load(str(onnx_file)).graph
    if not 0 <= index < len(graph.node):
        return "the graph"
    node = graph.node[index]
    module = module_of_node(graph, node)
    return f"node {node.name!r} ({node.op_type}{', ' + module if module else ''})"


def module_of_node(graph: onnx.GraphProto, node: onnx.NodeProto) -> str | None:
    """Find it: "in body.0.dau_top" where the node itself has that module's weights, "behind
    body.0.dau_top" where a node before it has, None where none of the last `NODES_BACK` has any."""
    stored = {tensor.name for tensor in graph.initializer}
    producer = {name: item for item in graph.node for name in item.output}
    level, place = [node], "in"
    for _ in range(NODES_BACK):
        for item in level:
            for name in item.input:
                module = name.partition("/")[0].rpartition(".")[0]  # rewrites append "/dense"
                if name in stored and module:
                    return f"{place} {module}"
        level = [producer[name] for item in level for name in item.input if name in producer]
        place = "behind"
    return None
