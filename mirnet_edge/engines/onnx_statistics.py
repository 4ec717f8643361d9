"""The portable engine given a frame's statistics: gather and apply graphs on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import EngineError, first_line
from mirnet_edge.graph.file import load_graph
from mirnet_edge.graph.pooling import apply_graph, gather_graph, pools_of
from mirnet_edge.pooling.tensors import COLUMNS, OWN, ROWS, STATISTIC, gathered_partial
from mirnet_edge.pooling.vectors import Partial, Statistics, Vector, Weights

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession

Maker = Callable[["onnx.ModelProto"], "onnx.ModelProto"]


class OnnxStatistics:
    """Runs the gather and the apply graph of an exported file; a `StatisticsEngine`.

    Args:
        path: the plain graph.
        open_session: makes an ``onnxruntime.InferenceSession`` of a serialized graph.

    Attributes:
        pools: of the graph.

    Raises:
        GraphError: the file is no graph whose pools are known.
        MissingDependencyError: onnx or onnx_ir is not installed.
    """

    def __init__(self, path: Path, open_session: Callable[[bytes], InferenceSession]) -> None:
        self._path = path
        self._proto = load_graph(path)
        graph = self._proto.graph
        self._image, self._restored = graph.input[0].name, graph.output[0].name
        self.pools = pools_of(self._proto)
        self._open_session = open_session
        self._sessions: dict[Maker, InferenceSession] = {}

    def gather(
        self, tiles: Tiles, region: Weights, statistics: Statistics | None
    ) -> tuple[Tiles, Partial]:
        """Do as `engines.protocol.StatisticsEngine.gather`.

        Raises:
            EngineError: ONNX Runtime fails.
        """
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
                f"{self._path.name}: ONNX Runtime failed with frame statistics on tiles of shape "
                f"{tiles.shape}: {first_line(error)}"
            ) from error
        return dict(zip(names, outputs))
