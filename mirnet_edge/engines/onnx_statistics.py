"""The portable engine given a frame's statistics: gather and apply graphs on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import EngineError, first_line
from mirnet_edge.graph.file import load_graph
from mirnet_edge.graph.pooling import apply_graph, gather_graph, pools_of
from mirnet_edge.pooling.tensors import COLUMNS, OWN, ROWS, STATISTIC, gathered_partial
from mirnet_edge.pooling.vectors import Partial, Statistics, Weights

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession

Maker = Callable[["onnx.ModelProto"], "onnx.ModelProto"]


class OnnxStatistics:
    """Runs the gather and the apply graph of an exported file (see
    `engines.protocol.StatisticsEngine`).

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
        self._image: str = self._proto.graph.input[0].name
        self.pools = pools_of(self._proto)
        self._open_session = open_session
        self._sessions: dict[Maker, InferenceSession] = {}

    def gather(
        self, tiles: Tiles, region: Weights, statistics: Statistics | None
    ) -> tuple[Tiles, Partial]:
        """As `engines.protocol.StatisticsEngine.gather`.

        Raises:
            EngineError: ONNX Runtime fails.
        """
        own = np.full((1, 1, 1, 1), statistics is None, np.float32)
        feeds = {self._image: tiles, ROWS: region.rows, COLUMNS: region.columns, OWN: own}
        session = self._session(gather_graph)
        names = [output.name for output in session.get_outputs()]
        outputs = self._run(session, names, feeds, statistics or self._zeros())
        found = dict(zip(names, outputs))
        return outputs[0], gathered_partial(found, self.pools, region.area)

    def apply(self, tiles: Tiles, statistics: Statistics) -> Tiles:
        """As `engines.protocol.StatisticsEngine.apply`.

        Raises:
            EngineError: ONNX Runtime fails.
        """
        session = self._session(apply_graph)
        return self._run(session, None, {self._image: tiles}, statistics)[0]

    def _zeros(self) -> Statistics:
        return Statistics(
            tuple(np.zeros((1, pool.channels, 1, 1), np.float32) for pool in self.pools)
        )

    def _session(self, graph: Maker) -> InferenceSession:
        # Made when first asked for: a frame of one pass never needs the other graph's memory.
        if graph not in self._sessions:
            self._sessions[graph] = self._open_session(graph(self._proto).SerializeToString())
        return self._sessions[graph]

    def _run(
        self,
        session: InferenceSession,
        names: list[str] | None,
        feeds: dict[str, Tiles],
        statistics: Statistics,
    ) -> list[Tiles]:
        given = {f"{STATISTIC}.{index}": value for index, value in enumerate(statistics.vectors)}
        tiles = feeds[self._image]
        try:
            outputs: list[Tiles] = session.run(names, feeds | given)
        except Exception as error:
            raise EngineError(
                f"{self._path.name}: ONNX Runtime failed with frame statistics on tiles of shape "
                f"{tiles.shape}: {first_line(error)}"
            ) from error
        return outputs
