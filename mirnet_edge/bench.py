"""How long an engine takes for its tiles, and a `Restorer` for frames: percentiles, and what they
hold for."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge._version import __version__
from mirnet_edge.engine_choice import open_engine
from mirnet_edge.engines.protocol import Engine, facts_of_engine
from mirnet_edge.errors import EngineError, FrameError
from mirnet_edge.frame_path import Latency
from mirnet_edge.frames.pixel_formats import CHANNELS
from mirnet_edge.pooling.passes import Mode, StatisticsSettings
from mirnet_edge.restore import Restorer

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


@dataclass(frozen=True)
class FrameRuns:
    """Of frames that were restored in one way.

    Attributes:
        frames_per_second: by the time of all of them.
        latency: of each part of a frame.
    """

    frames_per_second: float
    latency: Latency


@dataclass(frozen=True)
class FrameBench:
    """What was measured on whole frames.

    Attributes:
        model: as it was named.
        kind: class of the engine.
        frame_size: (height, width) in pixels.
        pixels: name of the frame's format, or "auto".
        frames: counted in each way.
        tile: (height, width) in pixels.
        tiles: of a frame.
        statistics: whose means the tiles took.
        passes: over all tiles of the last frame.
        samples: tiles run before that, for a first estimate of the last frame's statistics.
        one_by_one: each given when the one before was there.
        stream: by `Restorer.stream`.
        versions: of what ran it.
        device: it ran on.
    """

    model: str
    kind: str
    frame_size: tuple[int, int]
    pixels: str
    frames: int
    tile: tuple[int, int]
    tiles: int
    statistics: str
    passes: int
    samples: int
    one_by_one: FrameRuns
    stream: FrameRuns
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
        measured = (
            _on_device(engine, runs) if hasattr(engine, "measure") else _calls(engine, size, runs)
        )
        versions, device = _ran_by(engine)
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
        versions=versions,
        device=device,
    )


Progress = Callable[[str, int, int], None]
"""Called with (what is timed, frames done, frames)."""


def bench_frames(
    model: str | os.PathLike[str],
    size: tuple[int, int],
    *,
    frames: int = 100,
    pixels: str = "auto",
    statistics: Mode = "tile",
    progress: Progress | None = None,
    **options: Any,
) -> FrameBench:
    """Restore a seeded uint8 frame again and again, one by one and then as a stream; with the
    statistics of each "frame" in turn with its negative, so that each is a scene of its own.

    Args:
        model: as `open_engine` takes it.
        size: (height, width) of the frame in pixels.
        frames: counted in each way, at most `latency.FRAMES_KEPT`. A few more come before them,
            with the statistics of a "stream" until those have settled.
        pixels: name of a format, see `Restorer`.
        options: of `Restorer`.

    Raises:
        MirnetEdgeError: what `Restorer` raises; a format that has no frame of that size.
    """
    with Restorer(model, pixels=pixels, statistics=statistics, **options) as restorer:
        frame = _random_frame(size, pixels, restorer.facts.in_channels)
        source = cycle([frame, ~frame] if statistics == "frame" else [frame])

        def one_by_one(count: int) -> Restored:
            yield from map(restorer, islice(source, count))

        def stream(count: int) -> Restored:
            with restorer.stream(islice(source, count)) as restored:
                yield from restored

        def report(name: str, done: int) -> None:
            if progress:
                progress(name, done, frames)

        warm_up = StatisticsSettings.settling + 1 if statistics == "stream" else WARM_UP_RUNS
        runs = {
            name: _runs(restorer, restore, frames, warm_up, partial(report, name))
            for name, restore in (("one by one", one_by_one), ("stream", stream))
        }
        versions, device = _ran_by(restorer.engine)
        return FrameBench(
            model=os.fspath(model),
            kind=type(restorer.engine).__name__,
            frame_size=size,
            pixels=pixels,
            frames=frames,
            tile=restorer.tiling(*size).tile,
            tiles=restorer.timings.tiles,
            statistics=statistics,
            passes=restorer.timings.passes,
            samples=restorer.timings.samples,
            one_by_one=runs["one by one"],
            stream=runs["stream"],
            versions=versions,
            device=device,
        )


Restored = Generator[Any, None, None]
Measurement = dict[str, Sequence[float]]


def _size(engine: Engine, tile: tuple[int, int] | None) -> tuple[int, int]:
    fixed: tuple[int, int] | None = getattr(engine, "fixed_size", None)
    if fixed is not None and tile not in (None, fixed):
        raise EngineError(f"the engine takes tiles of {fixed[0]}x{fixed[1]} only; leave out --tile")
    return fixed or tile or DEFAULT_TILE


def _on_device(engine: Any, runs: int) -> Measurement:
    enqueue_ms, graph_ms = engine.measure(runs)
    return {"enqueue": enqueue_ms, "graph": graph_ms}


def _calls(engine: Engine, size: tuple[int, int], runs: int) -> Measurement:
    random = np.random.Generator(np.random.PCG64(0))
    tiles = random.random((1, facts_of_engine(engine).in_channels, *size), np.float32)
    series = []
    for index in range(-WARM_UP_RUNS, runs):
        start = time.perf_counter()
        engine.run(tiles)
        if index >= 0:
            series.append(1e3 * (time.perf_counter() - start))
    return {"run": series}


def _ran_by(engine: Any) -> tuple[dict[str, str], str]:
    """Versions, and the device."""
    versions = {"mirnet_edge": __version__}
    if hasattr(engine, "measure"):
        facts = engine.device.facts
        tensorrt = str(require("tensorrt", "running engines").__version__)
        return {**versions, "tensorrt": tensorrt, "cuda": facts.driver_version}, facts.name
    package = "torch" if type(engine).__name__ == "TorchEngine" else "onnxruntime"
    versions[package] = str(require(package, "running the model").__version__)
    return versions, str(getattr(engine, "provider", "CPU"))


def _random_frame(size: tuple[int, int], pixels: str, channels: int) -> NDArray[np.uint8]:
    """A ramp from left to right, so that tiles differ, and noise."""
    height, width = size
    shape: tuple[int, ...] = (height * 3 // 2, width)  # nv12 and i420
    if pixels == "auto" or pixels in CHANNELS:
        shape = (height, width, CHANNELS.get(pixels, channels))
    random = np.random.Generator(np.random.PCG64(0))
    ramp = np.linspace(16, 176, width, dtype=np.float32).reshape(-1, *[1] * (len(shape) - 2))
    try:
        return (64 * random.random(shape, np.float32) + ramp).astype(np.uint8)
    except MemoryError as error:
        raise FrameError(
            f"a frame of {height}x{width} pixels does not fit into memory; take a smaller one"
        ) from error


def _runs(
    restorer: Restorer,
    restore: Callable[[int], Restored],
    frames: int,
    warm_up: int,
    report: Callable[[int], None],
) -> FrameRuns:
    deque(restore(warm_up), maxlen=0)
    began_s = time.perf_counter()
    with closing(restore(frames)) as restored:
        for done, _ in enumerate(restored, 1):
            report(done)
    seconds = time.perf_counter() - began_s
    return FrameRuns(frames / seconds, restorer.latency(frames))


def _percentiles(series: Sequence[float]) -> Percentiles:
    median, p90, p99 = np.percentile(series, (50, 90, 99)).tolist()
    return Percentiles(median, p90, p99)
