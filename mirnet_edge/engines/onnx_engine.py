"""The portable engine: ONNX Runtime, on whatever the machine has; and the same given a frame's
pooled vectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mirnet_edge._imports import require
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import EngineError, GraphError, first_line
from mirnet_edge.facts import ModelFacts
from mirnet_edge.graph.file import load_graph
from mirnet_edge.graph.pooling import apply_graph, gather_graph, pools_of
from mirnet_edge.graph.sealed import check_onnx
from mirnet_edge.graph.session import session_options
from mirnet_edge.pooling.tensors import COLUMNS, OWN, ROWS, STATISTIC, gathered_partial
from mirnet_edge.pooling.vectors import Partial, Statistics, Vector, Weights

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession, NodeArg, SessionOptions

Maker = Callable[["ModelProto"], "ModelProto"]


class Named(Protocol):
    """An output of a graph."""

    @property
    def name(self) -> str: ...


class GraphSession(Protocol):
    """What runs a graph, as ONNX Runtime's session does."""

    def get_outputs(self) -> Sequence[Named]:
        """Name what the graph computes."""

    def run(self, output_names: Sequence[str], feeds: dict[str, Tiles]) -> Sequence[Any]:
        """Compute these outputs."""


# Best first. TensorRT's provider is left out: it would build an engine for minutes at load, with
# none of the checks of our own.
PREFERRED_PROVIDERS = (
    "CUDAExecutionProvider",
    "ROCMExecutionProvider",
    "DmlExecutionProvider",
    "CPUExecutionProvider",
)


class OnnxEngine:
    """Runs an exported ``.onnx`` file.

    Args:
        path: a graph with one (N, C, H, W) float32 input and one such output.
        threads: CPU threads; None takes all this process may use.
        provider: execution provider; None takes the first of `PREFERRED_PROVIDERS` there is.

    Attributes:
        facts: what the file says of itself.
        fixed_size: (height, width) where the graph's input is of fixed size, else None.
        provider: the execution provider in use.

    Raises:
        EngineError: no such file, a corrupt one, another signature, an unknown provider.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        provider: str | None = None,
    ) -> None:
        ort = require("onnxruntime", "running .onnx files")
        self.path = path = Path(path)
        if not path.is_file():
            raise EngineError(f"{path}: no such file")
        there = ort.get_available_providers()
        preferred = next(name for name in PREFERRED_PROVIDERS if name in there)
        chosen = preferred if provider is None else provider
        if chosen not in there:
            raise EngineError(
                f"provider {chosen!r} is not in this ONNX Runtime, which has: {', '.join(there)}"
            )
        try:
            check_onnx(path)
        except GraphError as error:
            raise EngineError(str(error)) from error
        self._open = partial(_open_session, ort, session_options(threads), chosen)
        self._statistics: OnnxStatistics | None = None
        try:
            session = self._open(os.fspath(path))
        except Exception as error:
            raise EngineError(
                f"{path}: ONNX Runtime {ort.__version__} cannot load it ({first_line(error)}). "
                "If the file is damaged, export it again."
            ) from error
        self.provider: str = session.get_providers()[0]
        if provider is not None and self.provider != provider:
            raise EngineError(
                f"{provider} is in this ONNX Runtime but does not start here, so it would run on "
                f"{self.provider}; mirnet-edge doctor shows what is missing"
            )
        try:
            metadata = session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise EngineError(
                f"{path}: its metadata is no text ({error}); export it again"
            ) from error
        self.facts = ModelFacts.from_metadata(metadata)
        given = self._check_signature(session)
        # Not the NodeArg: it keeps the session, with its memory and threads, beyond close().
        self._input_name, self._input_shape = given.name, tuple(given.shape)
        self._session: InferenceSession | None = session
        height, width = self._input_shape[2:]
        fixed = isinstance(height, int) and isinstance(width, int)
        self.fixed_size: tuple[int, int] | None = (height, width) if fixed else None

    def _check_signature(self, session: InferenceSession) -> NodeArg:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4:
            names = ", ".join(f"{item.name}{item.shape}" for item in (*inputs, *outputs))
            raise EngineError(
                f"{self.path}: needs one (N, C, H, W) input and one output, but has {names}"
            )
        if inputs[0].type != "tensor(float)":
            raise EngineError(f"{self.path}: input is {inputs[0].type}; need tensor(float)")
        if isinstance(inputs[0].shape[0], int) and inputs[0].shape[0] != 1:
            raise EngineError(
                f"{self.path}: takes batches of {inputs[0].shape[0]}; tiles are run one by one, so "
                "export it with batch 1"
            )
        return inputs[0]

    def run(self, tiles: Tiles) -> Tiles:
        """Restore (N, in_planes, H, W) float32 in [0, 1] to (N, out_channels, H, W), not clamped.

        Raises:
            EngineError: closed, or ONNX Runtime refuses the shape or runs out of memory.
        """
        session = self._require_session()
        try:
            result: Tiles = session.run(None, {self._input_name: tiles})[0]
        except Exception as error:
            raise EngineError(
                f"{self.path.name}: ONNX Runtime failed on tiles of shape {tiles.shape} (the graph "
                f"takes {self._input_shape}): {first_line(error)}"
            ) from error
        return result

    @property
    def statistics(self) -> OnnxStatistics:
        """What restores tiles with the statistics of their frame; made of the file when first
        asked for.

        Raises:
            EngineError: closed.
            GraphError: the graph's pools are not known.
            MissingDependencyError: onnx or onnx_ir is not installed.
        """
        self._require_session()
        if self._statistics is None:
            self._statistics = OnnxStatistics(self.path, self._open)
        return self._statistics

    def _require_session(self) -> InferenceSession:
        if self._session is None:
            raise EngineError("this engine is closed; open it again")
        return self._session

    def close(self) -> None:
        """Free the sessions. A second call does nothing."""
        self._session = self._statistics = None


def starts_on_cpu() -> bool:
    """Whether this ONNX Runtime has no GPU to begin with."""
    there = require("onnxruntime", "running .onnx files").get_available_providers()
    preferred = next(name for name in PREFERRED_PROVIDERS if name in there)
    return preferred == "CPUExecutionProvider"


def _open_session(
    ort: ModuleType, options: SessionOptions, provider: str, model: str | bytes
) -> InferenceSession:
    """Open a model on a provider, and on the CPU what that lacks; on the CPU alone where the
    provider does not start, which ONNX Runtime would do too, with lines on standard output."""
    cpu = "CPUExecutionProvider"
    open_on = partial(ort.InferenceSession, model, options, enable_fallback=0)
    if provider != cpu:
        with suppress(ValueError, RuntimeError):
            return open_on([provider, cpu])
    return open_on([cpu])


class OnnxStatistics:
    """Runs the gather and the apply graph of an exported file, on ONNX Runtime or what else
    ``runtime`` names; a `StatisticsEngine`."""

    def __init__(
        self,
        path: Path,
        open_session: Callable[[bytes], GraphSession],
        runtime: str = "ONNX Runtime",
    ) -> None:
        self._path, self._runtime = path, runtime
        self._proto = load_graph(path)
        graph = self._proto.graph
        self._image, self._restored = graph.input[0].name, graph.output[0].name
        self.pools = pools_of(self._proto)
        self._open_session = open_session
        self._sessions: dict[Maker, GraphSession] = {}

    def gather(
        self, tiles: Tiles, region: Weights, statistics: Statistics | None
    ) -> tuple[Tiles, Partial]:
        """Do as `engines.protocol.StatisticsEngine.gather`; where the runtime fails, it is an
        `EngineError`."""
        # With ``own`` 1 the graph multiplies the given vectors by 0: anything finite will do.
        shapes = [(1, pool.channels, 1, 1) for pool in self.pools]
        vectors = statistics.vectors if statistics else [np.zeros(s, np.float32) for s in shapes]
        own = np.full((1, 1, 1, 1), statistics is None, np.float32)
        sides = {ROWS: region.rows, COLUMNS: region.columns, OWN: own}
        found = self._run(gather_graph, tiles, vectors, sides)
        return found[self._restored], gathered_partial(found, self.pools, region.area)

    def apply(self, tiles: Tiles, statistics: Statistics) -> Tiles:
        """Do as `engines.protocol.StatisticsEngine.apply`; see `gather`."""
        return self._run(apply_graph, tiles, statistics.vectors, {})[self._restored]

    def _run(
        self, graph: Maker, tiles: Tiles, vectors: Sequence[Vector], sides: dict[str, Tiles]
    ) -> dict[str, Tiles]:
        # Opened when first asked for: each session holds the weights once more.
        if graph not in self._sessions:
            self._sessions[graph] = self._open_session(graph(self._proto).SerializeToString())
        session = self._sessions[graph]
        names = [output.name for output in session.get_outputs()]
        given = {f"{STATISTIC}.{index}": vector for index, vector in enumerate(vectors)}
        try:
            outputs = session.run(names, {self._image: tiles, **sides, **given})
        except Exception as error:
            raise EngineError(
                f"{self._path.name}: {self._runtime} failed with frame statistics on tiles of "
                f"shape {tiles.shape}: {first_line(error)}"
            ) from error
        return dict(zip(names, outputs))
