"""The fastest way to restore frames of a size on this device, found by measuring."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from mirnet_edge.build.target import find_target
from mirnet_edge.build.trials import Backend, Candidate, Portable, Scene, TensorRT, Trial, tried
from mirnet_edge.engines.tuned import Tuned, engine_of, source_of, this_device, tuned_path
from mirnet_edge.errors import DeviceError, EngineError, MissingDependencyError, OutputError
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.trt.timing_cache import timing_cache_name

DEFAULT_PSNR_DB = 50.0
"""Taken for noise, it costs a picture that was restored to 34 dB 0.1 dB."""
DEFAULT_MINUTES = 10.0


def tune_model(
    model: str | os.PathLike[str],
    frame: tuple[int, int],
    *,
    minutes: float = DEFAULT_MINUTES,
    psnr_db: float = DEFAULT_PSNR_DB,
    progress: StageProgress | None = None,
    on_trial: Callable[[Trial], object] | None = None,
) -> Tuned:
    """Try tiles, kinds of statistics and what else there is to choose, one thing after another: on
    TensorRT batches, precisions and optimization levels; where it is not there, on the portable
    engine, threads and providers. Keep the fastest that is accurate enough, and write the answer
    where `Restorer` finds it (see `engines.tuned`).

    Args:
        model: an ``.onnx`` file of open sizes, or a bundled model's name.
        frame: (height, width) of the frames to restore, as they are given.
        minutes: after which nothing new is tried; what was begun is finished.
        psnr_db: to be reached against whole frames in FP32.
        progress: called with what is being tried, and how many were.
        on_trial: called with each trial.

    Raises:
        EngineError: no such model, or nothing was accurate enough, with what there was.
        OutputError: the answer cannot be written.
    """
    source, _ = source_of(model)
    if source.suffix.lower() != ".onnx" or not source.is_file():
        raise EngineError(
            f"{model}: what is tuned is an .onnx file, or a bundled model by its name"
        )
    answer, ends = tuned_path(model), time.monotonic() + 60 * minutes
    tell = progress or (lambda *_: None)
    trials: list[Trial] = []
    try:
        answer.parent.mkdir(parents=True, exist_ok=True)
        # Beside the answer: what is kept is moved, which across file systems would be a copy.
        with tempfile.TemporaryDirectory(prefix=".tuning.", dir=answer.parent) as folder:
            tell("FP32 reference", 0, 0)
            backend = _backend(source, Scene.of(source, frame), Path(folder))
            for trial in _search(backend, psnr_db, ends, tell):
                trials.append(trial)
                if on_trial is not None:
                    on_trial(trial)
            best = _best(trials, psnr_db)
            if isinstance(backend, TensorRT):
                backend.keep(best.candidate, engine_of(answer))
    except OSError as error:
        raise OutputError(f"cannot write into {answer.parent}: {error}") from error
    tuned = Tuned(
        device=this_device(),
        frame=frame,
        psnr_db=psnr_db,
        has_engine=isinstance(backend, TensorRT),
        tile=best.candidate.tile,
        statistics=best.candidate.statistics,
        threads=best.candidate.threads,
        provider=best.candidate.provider,
        ms=best.ms or 0.0,
        tried=tuple(trial.told() for trial in trials),
    )
    tuned.save(answer)
    return tuned


def _backend(source: Path, scene: Scene, folder: Path) -> Backend:
    """TensorRT where it can build here."""
    try:
        target = find_target()
    except (DeviceError, MissingDependencyError):
        return Portable(source, scene)
    cache = timing_cache_name(target.device["name"], target.versions["tensorrt"])
    return TensorRT(source, scene, folder, folder.parent / cache)


def _search(backend: Backend, psnr_db: float, ends: float, tell: StageProgress) -> Iterator[Trial]:
    """Change one thing after another in the best candidate so far."""
    tell(named(backend.first), 0, 0)
    best = tried(backend, backend.first)
    yield best
    seen = {backend.first}
    for axis, values in backend.axes.items():
        for value in values:
            candidate = replace(best.candidate, **{axis: value})
            if candidate in seen or time.monotonic() > ends:
                continue
            if _is_idle(candidate, axis, backend.tiles[candidate.tile], best.rank(psnr_db)[0]):
                continue
            tell(named(candidate), len(seen), 0)
            seen.add(candidate)
            trial = tried(backend, candidate)
            yield trial
            best = max(best, trial, key=lambda one: one.rank(psnr_db))


def _is_idle(candidate: Candidate, axis: str, tiles: int, is_accurate: bool) -> bool:
    """Whether a change could not help a frame of so many tiles."""
    if axis == "statistics" and tiles == 1:  # which has the frame's means
        return True
    # On the portable engine other statistics than a tile's own cost time, and FP32 does everywhere.
    slower = candidate.precision == "fp32" or (axis == "statistics" and not candidate.precision)
    return candidate.batch > tiles or (slower and is_accurate)


def _best(trials: list[Trial], psnr_db: float) -> Trial:
    """Choose the fastest that is accurate enough."""
    best = max(trials, key=lambda trial: trial.rank(psnr_db))
    if best.rank(psnr_db)[0]:
        return best
    if best.psnr_db is None:
        raise EngineError(f"nothing could be measured: {best.error}")
    raise EngineError(
        f"nothing reached {psnr_db:g} dB against whole frames in FP32; the nearest, "
        f"{named(best.candidate)}, reached {best.psnr_db:.1f} dB. Ask for that, or allow more time"
    )


def named(candidate: Candidate) -> str:
    """Tell a candidate in words."""
    height, width = candidate.tile
    words = [
        f"tile {height}x{width}",
        f"batch {candidate.batch}" if candidate.precision else "",
        candidate.precision,
        "" if candidate.level is None else f"level {candidate.level}",
        f"statistics {candidate.statistics}",
        f"{candidate.threads} threads" if candidate.threads else "",
        candidate.provider or "",
    ]
    return ", ".join(filter(None, words))
