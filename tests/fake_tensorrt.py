"""A small TensorRT on the fake GPU: plans are JSON, and the network halves its input.

It has the names that the package uses, in the release asked for; where the real one returns None or
False and logs why, so does this.
"""

from __future__ import annotations

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

from mirnet_edge.card import EngineCard, TensorFacts, card_path
from mirnet_edge.facts import ModelFacts
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


def make_plan(**changes: Any) -> bytes:
    """A plan the fake runtime loads: inputs and outputs as [name, shape, dtype, format]."""
    plan = {
        "version": "10.3.0",
        "capability": [9, 0],
        "activation_bytes": 4096,
        "inputs": [["frame", [1, *SHAPE], "FLOAT", "LINEAR"]],
        "outputs": [["clean", [1, *SHAPE], "FLOAT", "LINEAR"]],
        **changes,
    }
    return MAGIC + json.dumps(plan).encode()


def write_plan(folder: Path, card: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A plan with its card; ``card`` changes the card, ``changes`` the plan."""
    path = folder / "tiny.engine"
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


def random_tiles(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *SHAPE), np.float32)


def tensorrt(gpu: FakeGpu, version: str = "10.3.0") -> ModuleType:
    """The module; ``gone`` lists what was destroyed, in order, and the contexts of the driver that
    were current then."""
    module = ModuleType("tensorrt")
    gone: list[tuple[str, int]] = []
    switches = SimpleNamespace(enqueue_fails=False, refuses_address=False)

    class ILogger:
        pass

    ILogger.Severity = Severity  # type: ignore[attr-defined]

    class IProfiler:
        pass

    class Mortal:
        def __del__(self) -> None:
            gone.append((type(self).__name__, gpu.context_depth()))

    class IExecutionContext(Mortal):
        def __init__(self, plan: dict[str, Any], logger: Any) -> None:
            self.plan, self.logger = plan, logger
            self.addresses: dict[str, int] = {}
            self.profiler: Any = None

        def set_tensor_address(self, name: str, address: int) -> bool:
            if switches.refuses_address:
                self.logger.log(Severity.ERROR, "3: setTensorAddress: misaligned")
                return False
            assert isinstance(address, int)
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            gpu.need_context("enqueueV3")
            if switches.enqueue_fails:
                self.logger.log(Severity.ERROR, "1: [runner.cpp::execute] Error Code 1: no kernel")
                return False
            if self.profiler is not None:
                for name, time_ms in LAYERS.items():
                    self.profiler.report_layer_time(name, time_ms)
            gpu.queue(stream_handle, self._halve, ENQUEUE_MS)
            return True

        def _halve(self) -> None:
            (taken,), (given,) = self.plan["inputs"], self.plan["outputs"]
            source, target = self._view(taken), self._view(given)
            target[...] = (source * 0.5)[:, : target.shape[1]]

        def _view(self, tensor: list[Any]) -> np.ndarray:
            name, shape, dtype, _ = tensor
            size = int(np.prod(shape)) * np.dtype(NUMPY[dtype]).itemsize
            return gpu.bytes_at(self.addresses[name], size).view(NUMPY[dtype]).reshape(shape)

    class ICudaEngine(Mortal):
        def __init__(self, plan: dict[str, Any], logger: Any) -> None:
            self.plan, self.logger = plan, logger
            self.tensors = {item[0]: item for item in (*plan["inputs"], *plan["outputs"])}
            self.num_io_tensors = len(self.tensors)
            name = "device_memory_size" if version.startswith("8.") else "device_memory_size_v2"
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

        def create_execution_context(self) -> IExecutionContext | None:
            gpu.need_context("createExecutionContext")
            if self.plan["activation_bytes"] > gpu.total_bytes - gpu.used_bytes():
                self.logger.log(
                    Severity.ERROR, "2: [executionContext.cpp] Error Code 2: OutOfMemory"
                )
                return None
            return IExecutionContext(self.plan, self.logger)

    class Runtime(Mortal):
        def __init__(self, logger: Any) -> None:
            assert isinstance(logger, ILogger)
            self.logger = logger

        def deserialize_cuda_engine(self, serialized: bytes) -> ICudaEngine | None:
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
        TensorIOMode=TensorIOMode,
        TensorFormat=TensorFormat,
        gone=gone,
        switches=switches,
    )
    return module


def install(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu, version: str = "10.3.0") -> ModuleType:
    """Put it where the package imports the real one from."""
    module = tensorrt(gpu, version)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(tensorrt_log, "_process_logger", None)
    return module
