"""A TensorRT that builds nothing: the builder's side of its API in the shape of three releases.

It stands for ``tensorrt`` in this process, or, through `write_shim`, in a build process. The
environment says which release it plays and what goes wrong. A plan holds the ONNX graph, and
`fake_plan_runner.FakeTensorRTEngine` runs it on ONNX Runtime, so that outputs are real.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import sys
import time
from enum import IntEnum
from pathlib import Path
from typing import Any

VERSION = os.environ.get("FAKE_TENSORRT_VERSION", "8.6.1")
FAULT = os.environ.get("FAKE_TENSORRT_FAULT", "")
"""driver (too old), refuse (a Sigmoid), workspace, memory (too little), crash, killed, exit, slow,
wide (all layers in FP32), untyped (strongly typed builds fail), silent (no layers), nograph,
nan (an output that is none), halves (a layer that is held to FP16) and halves unnamed, marked (a
pair, where types are not strong) and marked sums (one of a convolution that only adds)."""
RELEASE = tuple(map(int, VERSION.split(".")[:2]))
BUILD_S = 60.0
SHIM = """
import sys
sys.path.insert(0, {tests!r})
import fake_builder, fake_plan_runner
from fake_builder import *
__version__ = fake_builder.VERSION
sys.modules["mirnet_edge.build.worker"].TensorRTEngine = fake_plan_runner.FakeTensorRTEngine
"""


def write_shim(folder: Path) -> Path:
    """Write the module ``tensorrt`` into a folder that is to stand on ``sys.path``."""
    text = SHIM.format(tests=str(Path(__file__).parent))
    (folder / "tensorrt.py").write_text(text, encoding="utf-8")
    return folder


__version__ = VERSION
DataType = IntEnum("DataType", ["FLOAT", "HALF", "INT8", "INT64"], start=0)
float32, float16 = DataType.FLOAT, DataType.HALF
TensorIOMode = IntEnum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"], start=0)
ProfilingVerbosity = IntEnum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "NONE", "DETAILED"])
LayerInformationFormat = IntEnum("LayerInformationFormat", ["ONELINE", "JSON"], start=0)
MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE"], start=0)
TacticSource = IntEnum("TacticSource", ["EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"], start=3)
_NETWORK_FLAGS = {8: ["EXPLICIT_BATCH"], 10: ["EXPLICIT_BATCH", "STRONGLY_TYPED"]}
NetworkDefinitionCreationFlag: Any = IntEnum(
    "NetworkDefinitionCreationFlag", _NETWORK_FLAGS.get(RELEASE[0], ["STRONGLY_TYPED"]), start=0
)
_PRECISIONS = ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"] if RELEASE < (11, 0) else []
BuilderFlag: Any = IntEnum("BuilderFlag", ["TF32", *_PRECISIONS], start=0)


class ILogger:
    """As TensorRT's: to be derived from."""

    Severity = IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class Tensor:
    def __init__(self, name: str, dtype: Any) -> None:
        self.name, self.dtype = name, dtype


class Layer:
    num_outputs = 1

    def __init__(self, node: Any) -> None:
        self.name, self.node = node.name, node
        self.computed: Any = None
        if RELEASE < (11, 0):
            self.precision = float32

    def get_output(self, _index: int) -> Tensor:
        return Tensor(self.node.output[0], float32)

    def set_output_type(self, _index: int, dtype: Any) -> None:
        assert RELEASE < (11, 0)
        self.computed = dtype


class Network:
    def __init__(self, flags: int) -> None:
        names = {flag.name for flag in NetworkDefinitionCreationFlag if flags & (1 << int(flag))}
        assert RELEASE < (11, 0) or "EXPLICIT_BATCH" not in names
        self.strongly_typed = "STRONGLY_TYPED" in names
        self.layers: list[Layer] = []
        self.proto: Any = None

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]


class ParserError:
    def __init__(self, node: int, desc: str) -> None:
        self._node, self._desc = node, desc

    def node(self) -> int:
        return self._node

    def desc(self) -> str:
        return self._desc

    def func(self) -> str:
        return "parseNode"


class OnnxParser:
    def __init__(self, network: Network, logger: ILogger) -> None:
        self._network, self._errors = network, []

    def parse(self, model: bytes) -> bool:
        import onnx

        proto = onnx.load_from_string(model)
        if FAULT == "refuse" or (FAULT == "untyped" and self._network.strongly_typed):
            index = next(i for i, node in enumerate(proto.graph.node) if node.op_type == "Sigmoid")
            self._errors.append(ParserError(index, "no importer"))
            return False
        self._network.proto = proto
        self._network.layers = [Layer(node) for node in proto.graph.node]
        self._network.inputs = [Tensor(value.name, float32) for value in proto.graph.input]
        self._network.outputs = [Tensor(value.name, float32) for value in proto.graph.output]
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class TimingCache:
    def __init__(self, entries: set[str]) -> None:
        self.entries = entries

    def combine(self, other: TimingCache, ignore_mismatch: bool) -> bool:
        self.entries |= other.entries
        return True

    def serialize(self) -> bytes:
        return json.dumps(sorted(self.entries)).encode()


class Config:
    builder_optimization_level = 3
    max_aux_streams: int | None = None
    profiling_verbosity = None

    def __init__(self) -> None:
        self.flags: set[Any] = {BuilderFlag.TF32}
        self.workspace: int | None = None
        self.cache: TimingCache | None = None
        self.sources = -1
        if RELEASE >= (10, 0):
            self.progress_monitor: Any = None

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def set_tactic_sources(self, sources: int) -> bool:
        self.sources = sources
        return True

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.workspace = size

    def create_timing_cache(self, stored: bytes) -> TimingCache | None:
        try:
            return TimingCache(set(json.loads(stored))) if stored else TimingCache(set())
        except ValueError:
            return None

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self.cache


class IProgressMonitor:
    """As TensorRT's: to be derived from."""


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        if FAULT == "driver":
            self._fail("CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int) -> Network:
        return Network(flags)

    def create_builder_config(self) -> Config:
        return Config()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        monitor = getattr(config, "progress_monitor", None)
        for step in range(3):
            if monitor and step == 0:
                monitor.phase_start("Building engine", None, 3)
            if monitor:
                assert monitor.step_complete("Building engine", step)
        if monitor:
            monitor.phase_finish("Building engine")
        _go_wrong()
        if FAULT in ("workspace", "memory"):
            self._fail(f"no implementation for node {{x}} due to insufficient {FAULT}")
            return None
        if reason := _refusal(network):
            self._fail(reason)
            return None
        if config.cache is not None:
            config.cache.entries.add(secrets.token_hex(8))
        return _plan(network, config)

    def _fail(self, text: str) -> None:
        self._logger.log(ILogger.Severity.ERROR, text)


def _refusal(network: Network) -> str:
    """In the words of TensorRT 8.6."""
    held = [layer for layer in network.layers if getattr(layer, "precision", None) == float16]
    if FAULT == "halves" and held:
        return (
            "10: [optimizer.cpp::computeCosts::3869] Error Code 10: Internal Error (Could not find "
            f"any implementation for node {held[0].name} + PWN(leaky.94).)"
        )
    if FAULT == "halves unnamed" and held:
        return "no luck"
    nodes = network.proto.graph.node
    dequantized = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    int8 = [node for node in nodes if node.op_type == "Conv" and node.input[0] in dequantized]
    readers = [[reader.op_type for reader in nodes if n.output[0] in reader.input] for n in int8]
    refused = {"marked": bool(dequantized), "marked sums": ["Add"] in readers}
    if refused.get(FAULT) and not network.strongly_typed:
        return (
            "2: [optimizer.cpp::filterQDQFormats::4422] Error Code 2: Internal Error (Assertion "
            "!n->candidateRequirements.empty() failed. All of the candidates were removed, which "
            "points to the node being incorrectly marked as an int8 node.)"
        )
    return ""


def _go_wrong() -> None:
    if FAULT == "slow":
        print("building slowly", flush=True)  # libraries print; the events must survive it
        time.sleep(BUILD_S)
    elif FAULT == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif FAULT == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif FAULT == "exit":
        print("out of ideas", file=sys.stderr)
        os._exit(7)


def _plan(network: Network, config: Config) -> bytes:
    value_types = {value.name: value.type.tensor_type for value in _values(network.proto)}
    dequantized = {
        node.output[0] for node in network.proto.graph.node if node.op_type == "DequantizeLinear"
    }
    narrow = FAULT != "wide" and (network.strongly_typed or _flag("FP16") in config.flags)
    layers = []
    for layer in network.layers:
        node = layer.node
        if node.op_type not in ("Conv", "ReduceMean"):
            continue
        half = narrow and layer.computed != float32
        if network.strongly_typed:
            half = narrow and value_types[node.output[0]].elem_type == 10
        int8 = half and node.input[0] in dequantized
        dims = [dim.dim_value for dim in value_types[node.output[0]].shape.dim]
        word = "Int8" if int8 else "FP16" if half else "FP32"
        tensor = {"Dimensions": dims, "Format/Datatype": f"Row major linear {word} format"}
        described = {
            "Name": node.name,
            "LayerType": "CaskConvolution" if node.op_type == "Conv" else "Reduce",
            "Inputs": [tensor],
            "Outputs": [tensor],
            "TacticName": "sm90_fake",
            "Asked": getattr(getattr(layer, "precision", None), "name", None),
        }
        if node.op_type == "Conv":
            described["Weights"] = {"Type": {"FP16": "Half", "FP32": "Float"}.get(word, word)}
        layers.append(described)
    plan = {
        "strongly_typed": network.strongly_typed,
        "flags": sorted(flag.name for flag in config.flags),
        "sources": config.sources,
        "aux_streams": config.max_aux_streams,
        "layers": [] if FAULT == "silent" else layers,
        "dtypes": [tensor.dtype.name for tensor in (*network.inputs, *network.outputs)],
        "onnx": base64.b64encode(network.proto.SerializeToString()).decode(),
    }
    return json.dumps(plan).encode()


def _values(proto: Any) -> list[Any]:
    return [*proto.graph.input, *proto.graph.value_info, *proto.graph.output]


def _flag(name: str) -> Any:
    return getattr(BuilderFlag, name, None)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        pass

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        return Engine(json.loads(plan))


class Engine:
    def __init__(self, plan: dict[str, Any]) -> None:
        import onnx

        self._plan = plan
        graph = onnx.load_from_string(base64.b64decode(plan["onnx"])).graph
        self._inputs = len(graph.input)
        self._values = [*graph.input, *graph.output]
        self.num_io_tensors = len(self._values)
        name = "device_memory_size" if RELEASE < (10, 1) else "device_memory_size_v2"
        setattr(self, name, 1 << 20)

    def get_tensor_name(self, index: int) -> str:
        return self._values[index].name

    def _index(self, name: str) -> int:
        return [value.name for value in self._values].index(name)

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if self._index(name) < self._inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        dims = self._values[self._index(name)].type.tensor_type.shape.dim
        return tuple(dim.dim_value for dim in dims)

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self._plan["dtypes"][self._index(name)]]

    def get_tensor_format_desc(self, name: str) -> str:
        return "Row major linear FP32 format (kLINEAR)"

    def create_engine_inspector(self) -> Engine:
        return self

    def get_engine_information(self, _format: Any) -> str:
        return json.dumps({"Layers": self._plan["layers"]})
