"""How long an engine takes for its tiles: medians and percentiles, and what they hold for."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mirnet_edge._imports import require
from mirnet_edge._version import __version__
from mirnet_edge.engine import Engine, facts_of_engine, open_engine
from mirnet_edge.errors import EngineError

DEFAULT_TILE = (256, 256)
WARM_UP_RUNS = 3


@dataclass(frozen=True)
class Percentiles:
    """Of the milliseconds of many runs."""

    median_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        model: as it was named.
        kind: class of the engine.
        tile: (height, width) in pixels.
        batch: tiles of one run.
        runs: timed.
        times: "enqueue", launched layer by layer, and "graph", as a CUDA graph, both on the device
            and without copies; or "run", the whole call, of an engine without a device of its own.
        ms_per_megapixel: of the quickest median, in pixels of tiles.
        versions: of what ran it.
        device: it ran on.
    """

    model: str
    kind: str
    tile: tuple[int, int]
    batch: int
    runs: int
    times: dict[str, Percentiles]
    ms_per_megapixel: float
    versions: dict[str, str]
    device: str


def bench_engine(
    model: str | os.PathLike[str],
    *,
    runs: int = 100,
    tile: tuple[int, int] | None = None,
    threads: int | None = None,
    provider: str | None = None,
) -> Bench:
    """Run random tiles, and time each run.

    Args:
        model: as `open_engine` takes it.
        tile: (height, width), for an engine that takes any; 256x256 where None.

    Raises:
        EngineError: the model cannot be opened, or takes another tile.
        DeviceError: a plan, and no GPU that can run it.
    """
    engine = open_engine(model, threads=threads, provider=provider)
    try:
        size = _size(engine, tile)
        measured, versions, device = (
            _on_device(engine, runs) if hasattr(engine, "measure") else _calls(engine, size, runs)
        )
        batch = int(getattr(engine, "batch", 1))
    finally:
        close = getattr(engine, "close", None)
        if close is not None:
            close()
    times = {name: _percentiles(series) for name, series in measured.items() if series}
    quickest = min(item.median_ms for item in times.values())
    return Bench(
        model=os.fspath(model),
        kind=type(engine).__name__,
        tile=size,
        batch=batch,
        runs=runs,
        times=times,
        ms_per_megapixel=quickest / (batch * size[0] * size[1] / 1e6),
        versions={"mirnet_edge": __version__, **versions},
        device=device,
    )


Measurement = tuple[dict[str, Sequence[float]], dict[str, str], str]


def _size(engine: Engine, tile: tuple[int, int] | None) -> tuple[int, int]:
    fixed: tuple[int, int] | None = getattr(engine, "fixed_size", None)
    if fixed is not None and tile not in (None, fixed):
        raise EngineError(f"the engine takes tiles of {fixed[0]}x{fixed[1]} only; leave out --tile")
    return fixed or tile or DEFAULT_TILE


def _on_device(engine: Any, runs: int) -> Measurement:
    enqueue_ms, graph_ms = engine.measure(runs)
    facts = engine.device.facts
    tensorrt = str(require("tensorrt", "running engines").__version__)
    versions = {"tensorrt": tensorrt, "cuda": facts.driver_version}
    return {"enqueue": enqueue_ms, "graph": graph_ms}, versions, facts.name


def _calls(engine: Engine, size: tuple[int, int], runs: int) -> Measurement:
    random = np.random.Generator(np.random.PCG64(0))
    tiles = random.random((1, facts_of_engine(engine).in_channels, *size), np.float32)
    series = []
    for index in range(-WARM_UP_RUNS, runs):
        start = time.perf_counter()
        engine.run(tiles)
        if index >= 0:
            series.append(1e3 * (time.perf_counter() - start))
    package = "torch" if type(engine).__name__ == "TorchEngine" else "onnxruntime"
    versions = {package: str(require(package, "running the model").__version__)}
    return {"run": series}, versions, str(getattr(engine, "provider", "CPU"))


def _percentiles(series: Sequence[float]) -> Percentiles:
    median, p90, p99 = np.percentile(series, (50, 90, 99)).tolist()
    return Percentiles(median, p90, p99)
