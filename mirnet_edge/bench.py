"""How long an engine takes for its tiles, and a `Restorer` for frames, and what ran them."""

from __future__ import annotations

import os
import time
import timeit
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge._version import __version__
from mirnet_edge.engine_choice import open_engine
from mirnet_edge.engines.protocol import (
    Engine,
    MeasuredEngine,
    facts_of_engine,
    fit_engine,
    works_on_device,
)
from mirnet_edge.engines.shared import MODES_OF_TASK
from mirnet_edge.errors import EngineError, FrameError
from mirnet_edge.frame_path import Latency, Percentiles, StageProgress
from mirnet_edge.frames.pixel_formats import pixel_format
from mirnet_edge.pooling import Mode
from mirnet_edge.pooling.passes import StatisticsSettings
from mirnet_edge.restore import Restorer
from mirnet_edge.stream.frame_stream import FrameStream

DEFAULT_TILE = (256, 256)
WARM_UP_RUNS = 3
Frame = NDArray[np.uint8]
Restored = Generator[object, None, None] | FrameStream


@dataclass(frozen=True)
class Measured:
    """What was measured, on what; ``kind`` is the engine's class, ``tile`` (height, width)."""

    model: str
    kind: str
    tile: tuple[int, int]
    versions: dict[str, str]
    device: str


@dataclass(frozen=True)
class Bench(Measured):
    """Times of tiles.

    Attributes:
        times: "enqueue", launched layer by layer, and "graph", as a CUDA graph, both on the device
            and without copies; or "run", the whole call, of an engine without a device of its own.
        ms_per_megapixel: of the quickest median, in pixels of tiles.
    """

    batch: int
    runs: int
    times: dict[str, Percentiles]
    ms_per_megapixel: float


@dataclass(frozen=True)
class FrameRuns:
    """Times of frames that were restored in one way: all together, and parts of one."""

    frames_per_second: float
    latency: Latency


@dataclass(frozen=True)
class FrameBench(Measured):
    """Times of whole frames.

    Attributes:
        frame_size: (height, width) in pixels, of what is given.
        scale: how many times as high and wide the restored frames are.
        noise: the level that the last one was restored for, None where the network is told none.
        frames: counted in each way.
        passes, samples: of the last frame, see `Timings`.
        one_by_one: each given when the one before was there.
        stream: by `Restorer.stream`.
        devices: how many frames of the stream each GPU restored, those of the warm-up included.
    """

    frame_size: tuple[int, int]
    pixels: str
    frames: int
    tiles: int
    statistics: str
    passes: int
    samples: int
    scale: int
    noise: float | None
    one_by_one: FrameRuns
    stream: FrameRuns
    devices: dict[str, int]


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
    with closing(engine):  # type: ignore[type-var]  # only engines of a user's may have no close()
        fixed: tuple[int, int] | None = getattr(engine, "fixed_size", None)
        if fixed and tile not in (None, fixed):
            only = "{}x{}".format(*fixed)
            raise EngineError(f"the engine takes tiles of {only} only; leave out --tile")
        height, width = fixed or tile or DEFAULT_TILE
        if isinstance(engine, MeasuredEngine):
            fit_engine(engine, (height, width), steady=True)
            batch, measured = engine.batch, dict(zip(("enqueue", "graph"), engine.measure(runs)))
        else:
            batch, measured = 1, {"run": _calls(engine, (height, width), runs)}
        times = {
            name: Percentiles(*np.percentile(series, (50, 90, 99)).tolist())
            for name, series in measured.items()
            if series  # there is not always a graph
        }
        quickest = min(item.p50 for item in times.values())
        return Bench(
            **_measured(model, engine, (height, width)),
            batch=batch,
            runs=runs,
            times=times,
            ms_per_megapixel=quickest / (batch * height * width / 1e6),
        )


def bench_frames(
    model: str | os.PathLike[str],
    size: tuple[int, int],
    *,
    frames: int = 100,
    pixels: str = "auto",
    statistics: Mode | Literal["auto"] = "auto",
    progress: StageProgress | None = None,
    **options: Any,
) -> FrameBench:
    """Restore a seeded uint8 frame again and again, one by one and then as a stream; with the
    statistics of each "frame" in turn with its negative, so that each is a scene of its own.

    Args:
        model: as `open_engine` takes it.
        size: (height, width) of the frame in pixels.
        frames: counted in each way, at most `frame_path.FRAMES_KEPT`. A few more come before them,
            with the statistics of a "stream" until those have settled.
        pixels: name of a format, see `Restorer`.
        progress: called with (way, frames done, frames).
        options: of `Restorer`.

    Raises:
        MirnetEdgeError: what `Restorer` raises; a format that has no frame of that size.
    """
    with Restorer(model, pixels=pixels, statistics=statistics, **options) as restorer:
        mode: Mode = restorer.statistics.mode if restorer.statistics else "tile"
        by_task = statistics == "auto" and mode != "tile"
        in_streams = MODES_OF_TASK[restorer.facts.task][1] if by_task else mode
        frame = _random_frame(size, pixels, restorer.facts.in_channels)

        def timed(
            name: str, restore: Callable[[Iterator[Frame]], Restored], mode: Mode
        ) -> FrameRuns:
            source = cycle([frame, ~frame] if mode == "frame" else [frame])
            warm_up = StatisticsSettings.settling + 1 if mode == "stream" else WARM_UP_RUNS
            warm_up *= len(restorer.engines)
            # Closed when a caller's progress raises too, or the threads of a stream would go on.
            with closing(restore(islice(source, warm_up + frames))) as restored:
                # The same stream warms up, as another one begins without statistics. From the last
                # of these frames to the last of all there are as many as are counted.
                results = iter(restored)
                deque(islice(results, warm_up), maxlen=0)
                began_s = time.perf_counter()
                for done, _ in enumerate(results, 1):
                    if progress:
                        progress(name, done, frames)
            seconds = time.perf_counter() - began_s
            # Of the last frames: not of those that warmed up.
            return FrameRuns(frames / seconds, restorer.latency(frames))

        alone = timed("one by one", lambda frames: (restorer(frame) for frame in frames), mode)
        timings = restorer.timings
        before = [work.frames for work in restorer.devices]
        streamed = timed("stream", restorer.stream, in_streams)
        height, width = (restorer.scale * side for side in size)
        return FrameBench(
            **_measured(model, restorer.engine, restorer.tiling(height, width).tile),
            frame_size=size,
            pixels=pixels,
            frames=frames,
            tiles=timings.tiles,
            statistics=mode,
            passes=timings.passes,
            samples=timings.samples,
            scale=restorer.scale,
            noise=timings.noise,
            one_by_one=alone,
            stream=streamed,
            devices={
                f"GPU {work.index} ({work.name})": work.frames - count
                for work, count in zip(restorer.devices, before)
            },
        )


def _calls(engine: Engine, size: tuple[int, int], runs: int) -> list[float]:
    random = np.random.Generator(np.random.PCG64(0))
    tiles = random.random((1, facts_of_engine(engine).in_planes, *size), np.float32)
    # The first runs take memory and fill caches, for which no later one has to wait.
    series = timeit.repeat(lambda: engine.run(tiles), number=1, repeat=WARM_UP_RUNS + runs)
    return [1e3 * seconds for seconds in series[WARM_UP_RUNS:]]


def _measured(
    model: str | os.PathLike[str], engine: Engine, tile: tuple[int, int]
) -> dict[str, Any]:
    """What `Measured` has."""
    versions, device = {"mirnet_edge": __version__}, str(getattr(engine, "provider", "CPU"))
    if works_on_device(engine):
        facts = engine.stream.device.facts
        device, versions["cuda"] = facts.name, facts.driver_version
    # Not isinstance, for which torch would have to be there.
    packages = {
        "TensorRTEngine": "tensorrt",
        "TorchEngine": "torch",
        "CompiledEngine": "torch",
        "OpenVINOEngine": "openvino",
    }
    package = packages.get(type(engine).__name__, "onnxruntime")
    versions[package] = str(require(package, "running the model").__version__)
    return {
        "model": os.fspath(model),
        "kind": type(engine).__name__,
        "tile": tile,
        "versions": versions,
        "device": device,
    }


def _random_frame(size: tuple[int, int], pixels: str, channels: int) -> Frame:
    """A ramp from left to right, so that tiles differ, and noise."""
    shape = (*size, channels) if pixels == "auto" else pixel_format(pixels).shape_of(*size)
    random = np.random.Generator(np.random.PCG64(0))
    ramp = np.linspace(16, 176, size[1], dtype=np.float32).reshape(-1, *[1] * (len(shape) - 2))
    try:
        return (64 * random.random(shape, np.float32) + ramp).astype(np.uint8)
    except MemoryError as error:
        raise FrameError(
            f"a frame of {size[0]}x{size[1]} pixels does not fit into memory; take a smaller one"
        ) from error
