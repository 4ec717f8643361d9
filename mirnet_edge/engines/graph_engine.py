"""What the engines that run an ``.onnx`` file on the host share: what they ask of its signature,
and tiles with the statistics of their frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import EngineError, first_line
from mirnet_edge.graph.file import load_graph
from mirnet_edge.graph.pooling import apply_graph, gather_graph, pools_of
from mirnet_edge.pooling.tensors import COLUMNS, OWN, ROWS, STATISTIC, gathered_partial
from mirnet_edge.pooling.vectors import Partial, Statistics, Vector, Weights

if TYPE_CHECKING:
    from onnx import ModelProto

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


class End(NamedTuple):
    """An input or output of a graph; an open side is a name, and float32 is spelt as in numpy."""

    name: str
    shape: tuple[Any, ...]
    dtype: str


class GraphEngine:
    """Base of the engines of an ``.onnx`` file.

    Attributes:
        path: of the file.
        fixed_size: (height, width) where the graph's input is of fixed size, else None.
    """

    runtime: str
    path: Path
    fixed_size: tuple[int, int] | None
    _input: End
    _open: Callable[[bytes], GraphSession]  # another graph, as the file was
    _opened: Any = None  # what runs the file's own graph; None where it is closed
    _statistics: OnnxStatistics | None = None

    def _check_signature(self, inputs: Sequence[End], outputs: Sequence[End]) -> None:
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4:
            names = ", ".join(f"{end.name}{list(end.shape)}" for end in (*inputs, *outputs))
            raise EngineError(
                f"{self.path}: needs one (N, C, H, W) input and one output, but has {names}"
            )
        self._input = inputs[0]
        batch, _, height, width = self._input.shape
        if self._input.dtype != "float32":
            raise EngineError(f"{self.path}: input is {self._input.dtype}; need float32")
        if isinstance(batch, int) and batch != 1:
            raise EngineError(
                f"{self.path}: takes batches of {batch}; tiles are run one by one, so export it "
                "with batch 1"
            )
        fixed = isinstance(height, int) and isinstance(width, int)
        self.fixed_size = (height, width) if fixed else None

    def _failed(self, tiles: Tiles, reason: str) -> EngineError:
        return EngineError(
            f"{self.path.name}: {self.runtime} failed on tiles of shape {tiles.shape} (the graph "
            f"takes {self._input.shape}): {reason}"
        )

    @property
    def statistics(self) -> OnnxStatistics:
        """What restores tiles with the statistics of their frame; made of the file when first
        asked for.

        Raises:
            EngineError: closed.
            GraphError: the graph's pools are not known.
            MissingDependencyError: onnx or onnx_ir is not installed.
        """
        self._require_open()
        if self._statistics is None:
            self._statistics = OnnxStatistics(self.path, self._open, self.runtime)
        return self._statistics

    def _require_open(self) -> Any:
        if self._opened is None:
            raise EngineError("this engine is closed; open it again")
        return self._opened

    def close(self) -> None:
        """Free what runs the graphs. A second call does nothing."""
        self._opened = self._statistics = None


class OnnxStatistics:
    """Runs the gather and the apply graph of an exported file, on ONNX Runtime or what else
    ``runtime`` names; a `StatisticsEngine`."""

    def __init__(
        self,
        path: Path,
        open_session: Callable[[bytes], GraphSession],
        runtime: str,
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
