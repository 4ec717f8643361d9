"""The fastest engine of a CPU: OpenVINO, in a precision that the CPU has; and the same given a
frame's pooled vectors."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge._imports import require
from mirnet_edge.engines.graph_engine import End, GraphEngine
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import EngineError, GraphError, first_line
from mirnet_edge.facts import ModelFacts
from mirnet_edge.graph.sealed import check_onnx
from mirnet_edge.system import checked_threads

if TYPE_CHECKING:
    from openvino import InferRequest, Model

PROVIDER = "OpenVINO"
PRECISIONS = {"FP32": "f32", "BF16": "bf16", "FP16": "f16"}
"""As OpenVINO names them. Layers between Q/DQ pairs are INT8 with any of them."""

OPEN_SIDES = ("batch", "channels", "height", "width")
SHAPES_KEPT = 4


@cache
def cpu_precisions() -> tuple[str, ...]:
    """The precisions of `PRECISIONS` in which OpenVINO computes on this CPU, FP32 first.

    FP16 is left out where there are BF16 instructions: of what OpenVINO has for both, it was the
    slower one (a Xeon with AVX-512 FP16 and no AMX: 833 and 750 ms for what takes 457 in FP32).
    """
    capable = _core(_library()).get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    low = [name for name in ("BF16", "FP16") if name in capable]
    return ("FP32", *low[:1])


class OpenVINOEngine(GraphEngine):
    """Runs an exported ``.onnx`` file on the CPU.

    Args:
        path: a graph with one (N, C, H, W) float32 input and one such output.
        threads: CPU threads; None takes all this process may use.
        precision: "FP32", "BF16" or "FP16", of activations and weights; what goes in and comes out
            is float32.

    Attributes:
        facts: what the file says of itself.
        fixed_size: (height, width) where the graph's input is of fixed size, else None.
        precision: in use.
        provider: as `open_engine` takes it, e.g. "OpenVINO-BF16".

    Raises:
        EngineError: no such file, a corrupt one, another signature, a precision that this CPU does
            not compute in.
    """

    runtime = PROVIDER

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        precision: str = "FP32",
    ) -> None:
        ov = _library()
        self.path = path = Path(path)
        if not path.is_file():
            raise EngineError(f"{path}: no such file")
        if precision not in cpu_precisions():
            raise EngineError(
                f"precision {precision!r}: OpenVINO computes on this CPU in "
                f"{', '.join(cpu_precisions())}"
            )
        options = _options(checked_threads(threads), precision)
        self._open = partial(_open_content, ov, options)
        try:
            check_onnx(path)
        except GraphError as error:
            raise EngineError(str(error)) from error
        try:
            graph = _read(ov, path)
            self.facts = ModelFacts.from_metadata(_metadata(graph))
            self._check_signature(*map(_ends, (graph.inputs, graph.outputs)))
            self._opened: _OpenModel | None = _OpenModel(ov, graph, options)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(
                f"{path}: OpenVINO {ov.__version__} cannot load it ({_reason(error)}). "
                "If the file is damaged, export it again."
            ) from error
        self.precision, self.provider = precision, f"{PROVIDER}-{precision}"

    def run(self, tiles: Tiles) -> Tiles:
        """Restore (N, in_planes, H, W) float32 in [0, 1] to (N, out_channels, H, W), not clamped.

        Raises:
            EngineError: closed, or OpenVINO refuses the shape or runs out of memory.
        """
        model = self._require_open()
        try:
            result: Tiles = model.run(model.names, {model.inputs[0]: tiles})[0]
        except EngineError as error:
            raise self._failed(tiles, str(error)) from error
        return result


class _OpenModel:
    """A graph compiled for the CPU, run like a session of ONNX Runtime's.

    Several threads may run it: each run has the model's buffers for itself. A graph with Q/DQ pairs
    is compiled for each shape that comes, and the last few are kept: of open size, OpenVINO 2026.4
    computes some wrongly (an INT8 convolution, to which the mean of its own output is added).
    """

    def __init__(self, ov: ModuleType, graph: Model, options: dict[str, Any]) -> None:
        self._compile = partial(_core(ov).compile_model, device_name="CPU", config=options)
        self.inputs = [_name(end) for end in graph.inputs]
        self.names = [_name(end) for end in graph.outputs]
        self._lock = threading.Lock()
        self._requests: dict[tuple[Any, ...], InferRequest] = {}
        quantized = any(node.get_type_name() == "FakeQuantize" for node in graph.get_ops())
        self._graph = graph if quantized and graph.is_dynamic() else None
        if self._graph is None:
            self._requests[()] = self._compile(graph).create_infer_request()

    def get_outputs(self) -> list[_Output]:
        """Name what the graph computes."""
        return [_Output(name) for name in self.names]

    def run(self, output_names: Sequence[str], feeds: dict[str, Tiles]) -> list[Tiles]:
        """Compute these outputs, in memory of their own; an `EngineError` where it fails."""
        # OpenVINO reads whatever it is given as float32, without gaps; it must be so.
        given = {n: np.ascontiguousarray(feeds[n], np.float32) for n in self.inputs}
        try:
            with self._lock:
                found = self._request_for(given).infer(given, share_inputs=True)
                return [found[self.names.index(name)] for name in output_names]
        except Exception as error:
            raise EngineError(_reason(error)) from error

    def _request_for(self, given: dict[str, Tiles]) -> InferRequest:
        if self._graph is None:
            return self._requests[()]
        shapes = tuple(values.shape for values in given.values())
        # Taken out and put in last: the first is then the one that was not used for longest.
        request = self._requests.pop(shapes, None)
        if request is None:
            graph = self._graph.clone()
            graph.reshape({name: list(values.shape) for name, values in given.items()})
            request = self._compile(graph).create_infer_request()
        self._requests[shapes] = request
        while len(self._requests) > SHAPES_KEPT:
            del self._requests[next(iter(self._requests))]
        return request


def _open_content(ov: ModuleType, options: dict[str, Any], content: bytes) -> _OpenModel:
    return _OpenModel(ov, _core(ov).read_model(content), options)


class _Output:
    def __init__(self, name: str) -> None:
        self.name = name


def _library() -> ModuleType:
    return require("openvino", "the OpenVINO engine")


@cache
def _core(ov: ModuleType) -> Any:
    """One for all: it holds plugins and no models."""
    return ov.Core()


def _options(threads: int, precision: str) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        # All threads on one tile.
        "NUM_STREAMS": 1,
        # Bound to cores, threads would wait for whatever else runs on theirs.
        "ENABLE_CPU_PINNING": False,
    }


def _read(ov: ModuleType, path: Path) -> Model:
    """By the frontend of ONNX alone: `Core.read_model` lets what a file holds choose among seven,
    whatever its name."""
    frontend = ov.frontend.FrontEndManager().load_by_framework("onnx")
    graph: Model = frontend.convert(frontend.load(os.fspath(path)))
    return graph


def _metadata(graph: Model) -> dict[str, str]:
    """What the file says of itself."""
    info = graph.get_rt_info()
    found = info["framework"] if "framework" in info.keys() else {}  # noqa: SIM118  # no dict
    return {name: value.astype(str) for name, value in found.items()}


def _ends(ends: Any) -> list[End]:
    """With names of ours for what is open; a graph of open rank has no shape that we take."""
    found = []
    for end in ends:
        shape = end.partial_shape
        sides = () if shape.rank.is_dynamic else tuple(shape)
        names = OPEN_SIDES if len(sides) == 4 else ["?"] * len(sides)
        told = (name if s.is_dynamic else s.get_length() for s, name in zip(sides, names))
        kind = end.element_type.get_type_name()
        found.append(End(_name(end), tuple(told), "float32" if kind == "f32" else kind))
    return found


def _name(end: Any) -> str:
    return min(end.names) if end.names else "unnamed"


def _reason(error: Exception) -> str:
    """The line of OpenVINO's that says most: the first ones name its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "FrontEnd API"))]
    return told[-1] if told else first_line(error)
