"""What every engine is, how a file becomes one, and a fake one for tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge.bundled import bundled_model
from mirnet_edge.errors import EngineError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.pooled import Partial, Pool, Statistics, Weights

Tiles = NDArray[np.float32]
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
PLAN_SUFFIXES = (".engine", ".plan")


@runtime_checkable
class Engine(Protocol):
    """Anything that restores tiles.

    Only ``run`` is required. Where present, ``facts`` (`ModelFacts`) tells size and channels,
    ``fixed_size`` ((height, width) or None) the only tile it takes, ``statistics``
    (`StatisticsEngine`) restores tiles with the statistics of their frame, and ``close()`` frees
    it.
    """

    def run(self, tiles: Tiles) -> Tiles:
        """(N, C, H, W) float32 in [0, 1] to the same shape, not clamped. The result may be a buffer
        that the next call overwrites; the caller may change it."""
        ...


class StatisticsEngine(Protocol):
    """What an engine can do whose pools are open: restore tiles with given statistics, and tell
    what a tile contributes to those of its frame."""

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Where the network takes means over the frame."""
        ...

    def gather(
        self, tiles: Tiles, region: Weights, statistics: Statistics | None
    ) -> tuple[Tiles, Partial]:
        """Restore one tile (1, C, H, W) with ``statistics``, or with its own over ``region``
        where they are None; and the means over ``region``."""
        ...

    def apply(self, tiles: Tiles, statistics: Statistics) -> Tiles:
        """Restore tiles with ``statistics``. Results as of `Engine.run`."""
        ...


class FakeEngine:
    """An engine made of a function: the seam for tests of code that uses `Restorer`.

    Args:
        function: (N, C, H, W) float32 to the same shape; None returns the tiles as they are.
        facts: what it says of itself.
        fixed_size: (height, width) of the only tile it takes, or None.
        statistics: what restores tiles with given statistics, or None.

    Attributes:
        shapes: of all tiles it was run on, in order.
    """

    def __init__(
        self,
        function: Callable[[Tiles], Tiles] | None = None,
        facts: ModelFacts | None = None,
        fixed_size: tuple[int, int] | None = None,
        statistics: StatisticsEngine | None = None,
    ) -> None:
        self.statistics = statistics
        self.function = function
        self.facts = facts or ModelFacts(task="fake", size_multiple=4, min_size_px=4)
        self.fixed_size = fixed_size
        self.shapes: list[tuple[int, ...]] = []
        self.closed = False

    def run(self, tiles: Tiles) -> Tiles:
        """Record the shape and apply the function.

        Raises:
            EngineError: closed.
        """
        if self.closed:
            raise EngineError("this engine is closed")
        self.shapes.append(tiles.shape)
        return tiles if self.function is None else self.function(tiles)

    def close(self) -> None:
        """From now on, `run` raises."""
        self.closed = True


def open_engine(
    model: str | os.PathLike[str], threads: int | None = None, provider: str | None = None
) -> Engine:
    """The engine for a model file or a bundled model's name.

    ``.onnx`` runs on ONNX Runtime, a checkpoint (``.pth``, ``.pt``, ``.safetensors``) on PyTorch, a
    plan (``.engine``, ``.plan``) with its card on TensorRT.

    Args:
        threads: CPU threads; None takes all this process may use.
        provider: ONNX Runtime execution provider, e.g. "CPUExecutionProvider"; None takes the
            best there is.

    Raises:
        EngineError: no such file or model, or one that cannot be loaded.
        DeviceError: a plan, and no GPU that can run it.
        CheckpointError: a checkpoint that is no MIRNet.
    """
    name = os.fspath(model)
    bundled = bundled_model(name)
    path = bundled.onnx if bundled else Path(name)
    if not path.is_file():
        raise EngineError(
            f"{name}: no such file, and no bundled model of that name (mirnet-edge models lists "
            "them)"
        )
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        from mirnet_edge.onnx_engine import OnnxEngine

        return OnnxEngine(path, threads=threads, provider=provider)
    if suffix in CHECKPOINT_SUFFIXES:
        require("torch", f"running {path.name}")
        from mirnet_edge.torch_engine import TorchEngine
        from mirnet_edge.weights import load_model

        return TorchEngine(load_model(path), threads=threads)
    if suffix in PLAN_SUFFIXES:
        from mirnet_edge.trt.engine import TensorRTEngine

        return TensorRTEngine(path)
    suffixes = ", ".join((".onnx", *CHECKPOINT_SUFFIXES, *PLAN_SUFFIXES))
    raise EngineError(f"{path}: an engine is made from one of {suffixes}")


def statistics_of_engine(engine: Any) -> StatisticsEngine:
    """What restores tiles with given statistics.

    Raises:
        EngineError: the engine has no such thing.
        GraphError, MissingDependencyError: it cannot be made of the engine's graph, or here.
    """
    found: StatisticsEngine | None = getattr(engine, "statistics", None)
    if found is None:
        raise EngineError(
            f"{type(engine).__name__} computes the statistics of each tile itself and cannot be "
            'given those of the frame; export the network to .onnx, or take statistics="tile"'
        )
    return found


def facts_of_engine(engine: Any) -> ModelFacts:
    """What the engine says of itself, or the defaults."""
    facts = getattr(engine, "facts", None)
    return facts if isinstance(facts, ModelFacts) else ModelFacts()
