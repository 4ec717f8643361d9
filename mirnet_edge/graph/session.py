"""How every graph runs on ONNX Runtime here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge.errors import GraphError, first_line
from mirnet_edge.system import checked_threads

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import SessionOptions


def session_options(threads: int | None = None) -> SessionOptions:
    """The options of a session on so many CPU threads; None takes all that this process may use."""
    options: SessionOptions = require("onnxruntime", "running graphs").SessionOptions()
    options.intra_op_num_threads = checked_threads(threads)
    # What fails is raised and translated where the session runs; the log would say it twice.
    options.log_severity_level = 4
    # edge-s at 512x512, onnxruntime 1.32, two cores: 244 MB without memory patterns, 467 with, at
    # the same speed.
    options.enable_mem_pattern = False
    return options


class TileSession:
    """A graph of one input on the CPU, for tiles one by one."""

    def __init__(self, proto: ModelProto) -> None:
        self._ort = require("onnxruntime", "running graphs")
        self._input = proto.graph.input[0].name
        try:
            # On the CPU everywhere, so that what is measured is the same on every machine.
            self._session = self._ort.InferenceSession(
                proto.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise self._refused("the graph", error) from error

    def run(self, tile: NDArray[np.float32]) -> list[NDArray[Any]]:
        """The graph's outputs for a (C, H, W) tile."""
        try:
            outputs: list[NDArray[Any]] = self._session.run(None, {self._input: tile[None]})
        except Exception as error:
            raise self._refused(f"the graph on tiles of shape {tile.shape}", error) from error
        return outputs

    def _refused(self, what: str, error: Exception) -> GraphError:
        version = self._ort.__version__
        return GraphError(f"ONNX Runtime {version} cannot run {what}: {first_line(error)}")
