"""A small TensorRT on the fake GPU: plans are JSON, and the network halves its input, or is a graph
that ONNX Runtime runs.

It has the names that the package uses, in the release asked for; where the real one returns None or
False and logs why, so does this.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu
from fake_plan_runner import session

from mirnet_edge.engines.card import EngineCard, TensorFacts, card_path, kind_path
from mirnet_edge.facts import ModelFacts
from mirnet_edge.graph.file import with_shape
from mirnet_edge.graph.pooling import apply_graph, gather_graph, pools_of
from mirnet_edge.graph.rewrite import rewrite
from mirnet_edge.trt import log as tensorrt_log

SHAPE = (3, 8, 12)
MAGIC = b"fake plan\n"
ENQUEUE_MS = 2.0
LAYERS = {"conv_in": 0.5, "halve": 1.0, "conv_out": 0.5}


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorFormat(enum.Enum):
    LINEAR = 0
    HWC8 = 2


NUMPY = {"FLOAT": np.float32, "HALF": np.float16}


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


def make_plan(**changes: Any) -> bytes:
    """A plan the fake runtime loads: inputs and outputs as [name, shape, dtype, format]; "onnx", in
    base64, is what it runs (see `plan_of_graph`)."""
    plan = {
        "version": "10.3.0",
        "capability": [9, 0],
        "activation_bytes": 4096,
        "inputs": [["frame", [1, *SHAPE], "FLOAT", "LINEAR"]],
        "outputs": [["clean", [1, *SHAPE], "FLOAT", "LINEAR"]],
        **changes,
    }
    return MAGIC + json.dumps(plan).encode()


def write_plan(
    folder: Path, card: dict[str, Any] | None = None, name: str = "tiny.engine", **changes: Any
) -> Path:
    """A plan with its card; ``card`` changes the card, ``changes`` the plan."""
    path = folder / name
    plan = make_plan(**changes)
    path.write_bytes(plan)
    tensors = (TensorFacts("frame", (1, *SHAPE), "float32", "linear"),)
    written = EngineCard(
        key="k",
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        engine_bytes=len(plan),
        source="tiny.onnx",
        graph_sha256="g",
        facts=ModelFacts(task="denoise", size_multiple=4, min_size_px=8),
        precision="fp32",
        strongly_typed=True,
        tile=(8, 12),
        batch=1,
        inputs=tensors,
        outputs=tensors,
        layers=(),
        activation_bytes=4096,
        options={},
        versions={"tensorrt": "8.6.2", "cuda": "12.2"},
        device={"name": "Orin", "compute_capability": "8.7"},
    )
    dataclasses.replace(written, **(card or {})).save(card_path(path))
    return path


def batch_of(batch: int, dtype: str = "FLOAT", out_channels: int = 3) -> dict[str, Any]:
    """Changes of a plan: its inputs and outputs."""
    return {
        "inputs": [["frame", [batch, *SHAPE], dtype, "LINEAR"]],
        "outputs": [["clean", [batch, out_channels, *SHAPE[1:]], dtype, "LINEAR"]],
    }


def plan_of_graph(proto: Any, image: str = "FLOAT") -> dict[str, Any]:
    """Changes of a plan: it runs a graph of fixed shapes in FP32, whose first input and output are
    of type ``image``. Its tensors are listed from last to first, as TensorRT's order is nobody's to
    count on."""

    def listed(values: Any) -> list[list[Any]]:
        tensors = []
        for index, value in enumerate(values):
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            tensors.append([value.name, shape, "FLOAT" if index else image, "LINEAR"])
        return tensors[::-1]

    return {
        "inputs": listed(proto.graph.input),
        "outputs": listed(proto.graph.output),
        "onnx": base64.b64encode(proto.SerializeToString()).decode(),
    }


Plans = list[tuple[str, dict[str, Any], dict[str, Any]]]
_made: dict[tuple[Any, ...], Plans] = {}


def write_plans(
    folder: Path, proto: Any, tile: tuple[int, int], batch: int = 1, image: str = "FLOAT"
) -> Path:
    """The plans of a plain graph of open size: ``net.engine``, and beside it those that statistics
    need, each larger than the one before."""
    # Made once each: their graphs take a second, and hundreds of tests run the same few.
    graph = proto.SerializeToString(deterministic=True)
    key = (hashlib.sha256(graph).digest(), tile, batch, image)
    if key not in _made:
        _made[key] = _plans(proto, tile, batch, image)
    for name, card, changes in _made[key]:
        write_plan(folder, card, name, **changes)
    return folder / "net.engine"


def _plans(proto: Any, tile: tuple[int, int], batch: int, image: str) -> Plans:
    """Name, card and contents of each, as `write_plan` takes them."""
    sized = with_shape(proto, batch, *tile)
    plain = with_shape(rewrite(sized, "tensorrt")[0], batch, *tile)
    graphs = {"plain": plain, "apply": apply_graph(sized), "gather": gather_graph(sized)}
    pools = pools_of(sized)
    metadata = {item.key: item.value for item in proto.metadata_props}
    # As large as those of the plan: memory limits choose by what the card says.
    dtype = "float32" if image == "FLOAT" else "float16"
    facts = ModelFacts.from_metadata(metadata)
    taken, given = (
        (TensorFacts(name, (batch, planes, *tile), dtype, "linear"),)
        for name, planes in (("frame", facts.in_planes), ("clean", facts.out_channels))
    )
    made = []
    for number, (kind, graph) in enumerate(graphs.items(), 1):
        card = {
            "kind": kind,
            "pools": () if kind == "plain" else pools,
            "facts": facts,
            "tile": tile,
            "batch": batch,
            "inputs": taken,
            "outputs": given,
            "activation_bytes": number << 16,
        }
        changes = {**plan_of_graph(graph, image), "activation_bytes": number << 16}
        made.append((kind_path("net.engine", kind).name, card, changes))
    return made


def random_tiles(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *SHAPE), np.float32)


def tensorrt(machine: FakeGpu, version: str = "10.3.0") -> ModuleType:
    """The module; ``gone`` lists what was destroyed, in order, and the contexts of the driver that
    were current then; ``strategies`` how the memory of each execution context was come by."""
    module = ModuleType("tensorrt")
    gone: list[tuple[str, int]] = []
    strategies: list[str] = []
    release = int(version.partition(".")[0])
    switches = SimpleNamespace(enqueue_fails=False, refuses_address=False)

    class ILogger:
        pass

    ILogger.Severity = Severity  # type: ignore[attr-defined]

    class IProfiler:
        pass

    class Mortal:
        def __del__(self) -> None:
            gone.append((type(self).__name__, machine.context_depth()))

    class IExecutionContext(Mortal):
        def __init__(self, owner: ICudaEngine, strategy: str) -> None:
            strategies.append(strategy)
            self.gpu = owner.gpu
            self.plan, self.logger, self.owner = owner.plan, owner.logger, owner
            self.addresses: dict[str, int] = {}
            self.profiler: Any = None
            self.own_memory = strategy == "STATIC"
            self.memory: tuple[int, int] | None = None

        def _give_memory(self, address: int, size_bytes: int) -> None:
            assert not self.own_memory
            self.memory = address, size_bytes

        if release >= 10:

            def set_device_memory(self, memory: int, size: int) -> None:
                self._give_memory(memory, size)

        def _give_memory_alone(self, address: int) -> None:
            self._give_memory(address, self.plan["activation_bytes"])

        device_memory = property(fset=_give_memory_alone)

        def set_tensor_address(self, name: str, address: int) -> bool:
            if switches.refuses_address:
                self.logger.log(Severity.ERROR, "3: setTensorAddress: misaligned")
                return False
            assert isinstance(address, int)
            assert name in self.owner.tensors
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert self.gpu is machine.here(), "an engine of another GPU"
            self.gpu.need_context("enqueueV3")
            missing = self.owner.tensors.keys() - self.addresses.keys()
            if missing:
                self.logger.log(Severity.ERROR, f"3: Address is not set for {sorted(missing)}")
                return False
            if not self._has_memory():
                self.logger.log(Severity.ERROR, "3: device memory is not set, or too small")
                return False
            if switches.enqueue_fails:
                self.logger.log(Severity.ERROR, "1: [runner.cpp::execute] Error Code 1: no kernel")
                return False
            if self.profiler is not None:
                for name, time_ms in LAYERS.items():
                    self.profiler.report_layer_time(name, time_ms)
            self.gpu.queue(stream_handle, self._compute, ENQUEUE_MS)
            return True

        def _has_memory(self) -> bool:
            needed = self.plan["activation_bytes"]
            return self.own_memory or (self.memory is not None and self.memory[1] >= needed)

        def _compute(self) -> None:
            if self.memory is not None:  # whatever else lies there is lost
                self.gpu.bytes_at(self.memory[0], self.plan["activation_bytes"])[...] = 0xC3
            inputs = {item[0]: np.float32(self._view(item)) for item in self.plan["inputs"]}
            for item, result in zip(self.plan["outputs"], self._results(inputs), strict=True):
                self._view(item)[...] = result

        def _results(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            if self.owner.session is not None:
                names = [item[0] for item in self.plan["outputs"]]
                return self.owner.session.run(names, inputs)
            ((_, shape, _, _),) = self.plan["outputs"]
            return [(source * 0.5)[:, : shape[1]] for source in inputs.values()]

        def _view(self, tensor: list[Any]) -> np.ndarray:
            name, shape, dtype, _ = tensor
            size = int(np.prod(shape)) * np.dtype(NUMPY[dtype]).itemsize
            return self.gpu.bytes_at(self.addresses[name], size).view(NUMPY[dtype]).reshape(shape)

    class ICudaEngine(Mortal):
        def __init__(self, plan: dict[str, Any], logger: Any) -> None:
            self.gpu = machine.here()
            self.plan, self.logger = plan, logger
            self.session = session_of(plan)
            self.tensors = {item[0]: item for item in (*plan["inputs"], *plan["outputs"])}
            self.num_io_tensors, self.num_aux_streams = len(self.tensors), plan.get("streams", 0)
            name = "device_memory_size" if release < 10 else "device_memory_size_v2"
            setattr(self, name, plan["activation_bytes"])

        def get_tensor_name(self, index: int) -> str:
            return list(self.tensors)[index]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(self.tensors[name][1])

        def get_tensor_dtype(self, name: str) -> DataType:
            return DataType[self.tensors[name][2]]

        def get_tensor_format(self, name: str) -> TensorFormat:
            return TensorFormat[self.tensors[name][3]]

        def get_tensor_format_desc(self, name: str) -> str:
            return f"Row major (k{self.tensors[name][3]})"

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            inputs = [item[0] for item in self.plan["inputs"]]
            return TensorIOMode.INPUT if name in inputs else TensorIOMode.OUTPUT

        def create_execution_context(
            self,
            strategy: ExecutionContextAllocationStrategy = (
                ExecutionContextAllocationStrategy.STATIC
            ),
        ) -> IExecutionContext | None:
            assert release >= 10 or strategy.name == "STATIC"
            return self._make_context(strategy.name)

        if release < 10:

            def create_execution_context_without_device_memory(self) -> IExecutionContext | None:
                return self._make_context("USER_MANAGED")

        def _make_context(self, strategy: str) -> IExecutionContext | None:
            gpu = self.gpu
            gpu.need_context("createExecutionContext")
            needed = self.plan["activation_bytes"] if strategy == "STATIC" else 0
            if needed > gpu.total_bytes - gpu.used_bytes():
                self.logger.log(
                    Severity.ERROR, "2: [executionContext.cpp] Error Code 2: OutOfMemory"
                )
                return None
            return IExecutionContext(self, strategy)

    class Runtime(Mortal):
        def __init__(self, logger: Any) -> None:
            assert isinstance(logger, ILogger)
            self.logger = logger

        def deserialize_cuda_engine(self, serialized: bytes) -> ICudaEngine | None:
            gpu = machine.here()
            gpu.need_context("deserializeCudaEngine")
            self.logger.log(Severity.INFO, f"Loaded engine size: {len(serialized)} bytes")
            try:
                plan = json.loads(serialized.removeprefix(MAGIC))
            except ValueError:
                return self._refuse("1: [stdArchiveReader.cpp::35] Error Code 1: Serialization")
            if plan["version"] != version:
                return self._refuse("6: The engine plan file is not compatible with this version")
            if tuple(plan["capability"]) != gpu.capability:
                return self._refuse(
                    "6: The engine plan file is generated on an incompatible device"
                )
            if plan.get("weights_bytes", 0) > gpu.total_bytes:
                return self._refuse("1: [defaultAllocator.cpp] Error Code 1: Cuda (out of memory)")
            return ICudaEngine(plan, self.logger)

        def _refuse(self, reason: str) -> None:
            self.logger.log(Severity.ERROR, reason)

    module.__dict__.update(
        __version__=version,
        ILogger=ILogger,
        IProfiler=IProfiler,
        Runtime=Runtime,
        IExecutionContext=IExecutionContext,
        TensorIOMode=TensorIOMode,
        TensorFormat=TensorFormat,
        gone=gone,
        strategies=strategies,
        switches=switches,
    )
    if release >= 10:
        module.ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    return module


def session_of(plan: dict[str, Any]) -> Any:
    """What runs the graph in a plan; None for a plan without."""
    return session(plan["onnx"]) if "onnx" in plan else None


def install(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu, version: str = "10.3.0") -> ModuleType:
    """Put it where the package imports the real one from."""
    module = tensorrt(gpu, version)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(tensorrt_log, "_process_logger", None)
    return module
