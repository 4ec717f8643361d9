"""The portable engine: ONNX Runtime, on whatever the machine has; and the same given a frame's
pooled vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mirnet_edge._imports import require
from mirnet_edge.engines.graph_engine import End, GraphEngine
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import EngineError, GraphError, first_line
from mirnet_edge.facts import ModelFacts
from mirnet_edge.graph.sealed import check_onnx
from mirnet_edge.graph.session import session_options

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg, SessionOptions

# Best first. TensorRT's provider is left out: it would build an engine for minutes at load, with
# none of the checks of our own.
PREFERRED_PROVIDERS = (
    "CUDAExecutionProvider",
    "ROCMExecutionProvider",
    "DmlExecutionProvider",
    "CPUExecutionProvider",
)


class OnnxEngine(GraphEngine):
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

    runtime = "ONNX Runtime"

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
        self._open = open_on = partial(_open_session, ort, session_options(threads), chosen)
        try:
            session = open_on(os.fspath(path))
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
        self._check_signature(*map(_ends, (session.get_inputs(), session.get_outputs())))
        self._opened: InferenceSession | None = session

    def run(self, tiles: Tiles) -> Tiles:
        """Restore (N, in_planes, H, W) float32 in [0, 1] to (N, out_channels, H, W), not clamped.

        Raises:
            EngineError: closed, or ONNX Runtime refuses the shape or runs out of memory.
        """
        session = self._require_open()
        try:
            result: Tiles = session.run(None, {self._input.name: tiles})[0]
        except Exception as error:
            raise self._failed(tiles, first_line(error)) from error
        return result


def _ends(ends: Sequence[NodeArg]) -> list[End]:
    # Not the NodeArgs: they keep the session, with its memory and threads, beyond close().
    kinds = {"tensor(float)": "float32"}
    return [End(end.name, tuple(end.shape), kinds.get(end.type, end.type)) for end in ends]


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
