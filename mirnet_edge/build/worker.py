"""The build process, which `build.process` starts."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import TextIO

import numpy as np

from mirnet_edge._imports import require
from mirnet_edge.build import process
from mirnet_edge.build.process import BuildAnswer, BuildRequest
from mirnet_edge.errors import (
    BuildError,
    EngineError,
    MirnetEdgeError,
    MissingDependencyError,
    RefusedPairsError,
)
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.trt.engine import TensorRTEngine
from mirnet_edge.trt.network import (
    BuildLimits,
    NetworkSource,
    Plan,
    build_plan,
    has_precision_flags,
    has_strong_types,
    inspect_plan,
)
from mirnet_edge.trt.plugins import load_library

RUNS = 200  # timed, for medians
# In the errors of TensorRT 8.6.
WITHOUT_KERNEL = re.compile(r"implementation for node (.+?)(?:\.\)|\. | due to |; |\.?$)")
REFUSED_INT8 = re.compile(r"candidateRequirements|incorrectly marked as an int8 node")


class Events:
    """What the parent process reads: a JSON object a line, on what was standard output, which from
    now on is standard error: libraries may print there."""

    def __init__(self) -> None:
        self._stream: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # of the process, not of Python: libraries in C++ write there too

    def send(self, **event: object) -> None:
        """Write one event."""
        with suppress(OSError):  # the parent is gone, and this process about to end
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()


def main(folder: Path) -> int:
    """Build what the request in ``folder`` asks for, and answer with events."""
    events = Events()

    def progress(phase: str, done: int, total: int) -> None:
        events.send(progress=[phase, done, total])

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    request = BuildRequest.load(folder)  # before anything is removed: without one, nothing is ours
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    try:
        answer = build(request, folder, progress)
    except MirnetEdgeError as error:
        events.send(error=type(error).__name__, message=str(error))
        return 1
    events.send(answer=dataclasses.asdict(answer))
    return 0


def build(request: BuildRequest, folder: Path, progress: StageProgress) -> BuildAnswer:
    """Build, write the plan, read it back, run it.

    Raises:
        MirnetEdgeError: of any of these steps.
    """
    trt = require("tensorrt", "building engines")
    progress("building", 0, 0)
    start = time.perf_counter()
    plan, plugins = _build(trt, request, folder, progress)
    seconds = time.perf_counter() - start
    with (folder / process.PLAN).open("wb") as file:
        file.write(plan.serialized)
    facts, layers = inspect_plan(trt, plan.serialized)
    built = BuildAnswer(
        strongly_typed=plan.strongly_typed,
        layers=layers,
        build_seconds=seconds,
        notes=list(plan.notes),
        plugins=plugins,
        **facts._asdict(),
    )
    progress("measuring", 0, 0)
    try:
        return measured(built, folder)
    except MissingDependencyError as error:  # no pycuda: it can be built without
        built.notes.append(f"not measured: {error}")
        return built


def _build(
    trt: ModuleType, request: BuildRequest, folder: Path, progress: StageProgress
) -> tuple[Plan, bool]:
    """Build with our plugins by flags, or without them where that fails; whether with them."""
    cache = Path(request.timing_cache)
    limits = BuildLimits(request.workspace, request.optimization_level, cache, request.aux_streams)
    weak = NetworkSource(
        folder / process.WEAK,
        strongly_typed=False,
        precision=request.precision,
        islands=frozenset(request.islands),
        halves=frozenset(request.halves),
        half_io=request.half_io,
    )
    if request.plugins is None:
        return _build_plain(trt, weak, limits, progress), False
    halves = {*request.halves, *request.own_halves}
    own = dataclasses.replace(weak, onnx=folder / process.OWN, halves=halves)
    try:
        load_library(trt, Path(request.plugins))
        return _build_by_flags(trt, own, limits, progress), True
    except (BuildError, EngineError) as error:
        plan = _build_plain(trt, weak, limits, progress)
        plan.notes.append(f"built without plugins, which costs time: {error}")
        return plan, False


def _build_plain(
    trt: ModuleType, weak: NetworkSource, limits: BuildLimits, progress: StageProgress
) -> Plan:
    """Build strongly typed where TensorRT can; by flags where it cannot, or fails and has them."""
    strong = dataclasses.replace(
        weak, onnx=weak.onnx.with_name(process.STRONG), strongly_typed=True
    )
    if not has_strong_types(trt):
        return _build_by_flags(trt, weak, limits, progress)
    try:
        return build_plan(trt, strong, limits, progress)
    except BuildError as error:  # in 10.3, strong types are not complete
        if not has_precision_flags(trt):
            raise
        plan = _build_by_flags(trt, weak, limits, progress)
        plan.notes.append(f"built by precision flags, because strongly typed it failed: {error}")
        return plan


def _build_by_flags(
    trt: ModuleType, source: NetworkSource, limits: BuildLimits, progress: StageProgress
) -> Plan:
    """Build it; once more without holding layers to FP16, where it fails with that.

    Raises:
        RefusedPairsError: it fails for the graph's Q/DQ pairs.
    """
    try:
        return build_plan(trt, source, limits, progress)
    except BuildError as error:
        if source.precision == "int8" and REFUSED_INT8.search(str(error)):
            raise RefusedPairsError(
                f"{error}. TensorRT 8.6 refuses some quantized convolutions without naming them; "
                "leave some in FP16 with a smaller --budget, or use TensorRT 10 or newer"
            ) from error
        if not source.halves:
            raise
        freed = dataclasses.replace(source, halves=())
        plan = _build_by_flags(trt, freed, limits, progress)
        found = WITHOUT_KERNEL.search(str(error))
        reason = f"found no FP16 kernel for {found[1]}" if found else f"failed with FP16 ({error})"
        plan.notes.append(
            f"TensorRT {reason}; built without holding layers to FP16: the layer table tells what "
            "runs in FP32"
        )
        return plan


def measured(built: BuildAnswer, folder: Path) -> BuildAnswer:
    """Time the plan, and where there are tiles, write its outputs for them."""
    tiles, outputs = folder / process.TILES, folder / process.OUTPUTS
    with TensorRTEngine(folder / process.PLAN, trust=True) as engine:
        if (folder / process.VECTORS).is_file():
            with np.load(folder / process.VECTORS) as vectors:
                np.save(outputs, engine.run_given(np.load(tiles), dict(vectors)))
        elif tiles.is_file():
            np.save(outputs, engine.run(np.load(tiles)))
        enqueue_ms, graph_ms = engine.measure(RUNS)
        if not graph_ms:
            built.notes.append(f"timed without a CUDA graph, which failed: {engine.graph_note}")
    return dataclasses.replace(
        built, enqueue_ms=median(enqueue_ms), graph_ms=median(graph_ms or enqueue_ms)
    )


def _end_with_parent(folder: Path) -> None:
    # Standard input ends when the parent does, however it ended; a signal would not always come.
    while os.read(0, 1):
        pass
    for name in process.FILES:
        with suppress(OSError):
            (folder / name).unlink()
    with suppress(OSError):  # where anything else lies in it, it stays
        folder.rmdir()
    os._exit(1)  # the main thread is inside TensorRT and would end it only when it has built


def run(folder: str) -> None:
    """Be the build process for what lies in a folder."""
    sys.exit(main(Path(folder)))
