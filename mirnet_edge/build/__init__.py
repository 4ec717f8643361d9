"""Build a TensorRT engine from an exported network, with proof of what it is."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mirnet_edge.build.calibration import Calibration
from mirnet_edge.build.frame import available_bytes, build_for_frame
from mirnet_edge.build.graphs import open_source
from mirnet_edge.build.job import BuildJob
from mirnet_edge.build.plugins import Plugins, plugins_for
from mirnet_edge.build.settings import Settings
from mirnet_edge.build.target import Target, find_target
from mirnet_edge.bundled import bundled_model
from mirnet_edge.engines.card import EngineCard
from mirnet_edge.errors import ConfigError, OutputError
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.graph.file import load_graph, read_facts
from mirnet_edge.graph.precision import Precision
from mirnet_edge.graph.precision.typing_pass import IoType
from mirnet_edge.quantize import DEFAULT_TILE_PX
from mirnet_edge.quantize.calibration.sources import Source
from mirnet_edge.trt.timing_cache import timing_cache_name

ENGINE_SUFFIX = ".engine"


def build_engine(
    onnx: str | os.PathLike[str],
    engine: str | os.PathLike[str],
    *,
    precision: Precision = "fp16",
    calibration: Source = None,
    tile: int | tuple[int, int] | None = None,
    frame: tuple[int, int] | None = None,
    batch: int = 1,
    workspace: int | None = None,
    optimization_level: int | None = None,
    aux_streams: int | None = None,
    method: str = "auto",
    budget_db: float = 0.1,
    sigma: float | None = None,
    io: IoType = "float32",
    rewrite: bool = True,
    plugins: bool = True,
    statistics: bool = False,
    force: bool = False,
    timing_cache: str | os.PathLike[str] | None = None,
    progress: StageProgress | None = None,
    tell: Callable[[str], object] | None = None,
    overwrite: bool = True,
) -> EngineCard:
    """Build ``engine`` for this machine's GPU, and its card beside it.

    Where they are there already, built of the same graph with the same options by the same
    TensorRT for the same GPU, nothing is built. A build that is interrupted or killed leaves what
    was there, or nothing, or the whole new engine.

    Args:
        onnx: float32, as `export_onnx` writes it, or with Q/DQ pairs, as `quantize_onnx` does; or
            a bundled model's name.
        engine: file to write, ``NAME.engine``; its card is ``NAME.engine.json``.
        precision: "fp32", "fp16" or "int8"; layers that need more get more. "int8" builds
            ``NAME.fp16.engine`` as well, to compare with.
        calibration: frames that quantization calibrates with, and that every engine is compared on;
            None takes the bundled set. See `CalibrationSet.open`.
        tile: (height, width) in pixels, or both in one number; where neither this nor a frame is
            given, 256 or the next that the network takes.
        frame: (height, width) of the frames that will be restored: the tile is then the whole
            frame, or the largest part of it that fits into memory.
        batch: tiles of one run.
        workspace: bytes of device memory that layers may use beyond their inputs and outputs.
        optimization_level: 0 to 5, how long TensorRT searches; its own default where None.
        aux_streams: CUDA streams beside the main one, on which layers run side by side; None takes
            two where a batch is too small to fill the GPU. Layers can be timed where there is none.
        method: of calibration, see `quantize_onnx`.
        budget_db: PSNR that INT8 may cost on the calibration tiles.
        sigma: of noise added to calibration frames that are clean, in units of 1/255.
        io: type of the engine's input and output.
        rewrite: False builds the graph as it was exported, to compare with.
        plugins: use our TensorRT plugins in an FP16 engine. Their library is compiled where there
            is none yet; where nvcc or TensorRT's headers are missing, the card notes what the
            engine goes without. False leaves them out.
        statistics: build ``NAME.apply.engine`` and ``NAME.gather.engine`` as well, which restore
            tiles with the statistics of their whole frame (see `graph.pooling`).
        force: keep an INT8 engine that is not faster than FP16 or costs more than the budget.
        timing_cache: file; None takes one beside the engine, named after GPU and TensorRT.
        progress: called with a phase, the steps done, and the steps there are (0 if unknown).
        tell: called with sentences on the memory of a frame's tiles, before they are built.
        overwrite: whether another engine may be replaced.

    Raises:
        DeviceError: no GPU, or a driver too old for TensorRT.
        DeviceMemoryError: the GPU's memory does not suffice.
        MissingDependencyError: no TensorRT, or no onnx.
        GraphError: no valid ONNX, or one that does not fit the precision.
        TilingError: the network takes no such tile.
        CalibrationError: calibration frames that cannot be used.
        BuildError: an operator that TensorRT refuses, a failed build, an engine without the
            precision asked for, or an INT8 engine that is not worth keeping.
        OutputError: a folder that cannot be written, or an engine that must not be replaced.
        ConfigError: an option out of range, or both a tile and a frame.
    """
    if tile is not None and frame is not None:
        raise ConfigError(f"tile={tile} and frame={frame}: give one of them")
    wanted = DEFAULT_TILE_PX if tile is None else tile
    settings = Settings(
        precision=precision,
        tile=(wanted, wanted) if isinstance(wanted, int) else wanted,
        batch=batch,
        workspace=workspace,
        optimization_level=optimization_level,
        aux_streams=aux_streams,
        io=io,
        rewrite=rewrite,
        method=method,
        budget_db=budget_db,
        sigma=sigma,
        plugins=plugins,
    )
    path = Path(engine)
    if path.suffix != ENGINE_SUFFIX:
        raise OutputError(f"{path}: name it {path.stem}{ENGINE_SUFFIX}")
    target = find_target()
    cache = _writable_cache(timing_cache, path.parent, target)
    bundled = bundled_model(os.fspath(onnx))
    model = bundled.onnx if bundled else Path(onnx)

    @functools.cache  # compiled once, however many tiles are tried
    def used() -> Plugins:
        # An INT8 engine is compared with one in FP16, which takes them.
        may_have = plugins and rewrite and precision != "fp32"
        return plugins_for(target) if may_have else Plugins()

    def build(tile: tuple[int, int], notes: Sequence[str] = ()) -> EngineCard:
        of_tile = replace(settings, tile=tile)
        source = open_source(model, tile, batch, rewrite)
        tiles = Calibration(source, of_tile, calibration, statistics, progress, [*notes])
        job = BuildJob(source, target, tiles, cache, force, overwrite, progress, used())
        return job.engines(path, of_tile, statistics)

    if tile is not None:
        return build(settings.tile)
    facts = read_facts(load_graph(model))
    if frame is None:
        side = facts.size_rule.padded(DEFAULT_TILE_PX)
        return build((side, side))
    return build_for_frame(
        build,
        frame,
        facts,
        batch=batch,
        precision=precision,
        available=available_bytes(target),
        tell=tell or (lambda _: None),
    )


def _writable_cache(given: str | os.PathLike[str] | None, folder: Path, target: Target) -> Path:
    """The file of timings; both folders can be written, so that nothing is built for nothing."""
    name = timing_cache_name(target.device["name"], target.versions["tensorrt"])
    cache = Path(given) if given else folder / name
    for each in (folder, cache.parent):
        _require_writable(each)
    return cache


def _require_writable(folder: Path) -> None:
    # Before minutes are spent on what could not be kept; permission bits alone do not tell.
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write into {folder}: {reason}; choose another folder") from error
