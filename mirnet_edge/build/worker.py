"""The build process: ``python -m mirnet_edge.build.worker FOLDER``. See `build.process`."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TextIO

import numpy as np

from mirnet_edge._imports import require
from mirnet_edge.build.process import (
    OUTPUTS,
    PLAN,
    STRONG,
    TILES,
    VECTORS,
    WEAK,
    BuildAnswer,
    BuildRequest,
)
from mirnet_edge.errors import (
    BuildError,
    MirnetEdgeError,
    MissingDependencyError,
    RefusedPairsError,
)
from mirnet_edge.trt.network import (
    BuildLimits,
    NetworkSource,
    Plan,
    Progress,
    build_plan,
    has_precision_flags,
    has_strong_types,
    inspect_plan,
)

WITHOUT_KERNEL = re.compile(r"implementation for node (.+?)(?:\.\)|\. | due to |; |\.?$)")
REFUSED_INT8 = re.compile(r"candidateRequirements|incorrectly marked as an int8 node")
"""In the errors of TensorRT 8.6."""


class Times(NamedTuple):
    """Medians, and a note where there is no CUDA graph and ``graph_ms`` is ``enqueue_ms``."""

    enqueue_ms: float
    graph_ms: float
    note: str


class Events:
    """What the parent process reads: a JSON object a line, on what was standard output, which from
    now on is standard error: libraries may print there."""

    def __init__(self) -> None:
        self._stream: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def send(self, **event: Any) -> None:
        """Write one event."""
        try:
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()
        except OSError:  # the parent is gone, and this process about to end
            return

    def progress(self, phase: str, done: int, total: int) -> None:
        """A step of TensorRT."""
        self.send(progress=[phase, done, total])


def main(folder: Path) -> int:
    """Build what the request in ``folder`` asks for, and answer with events."""
    events = Events()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    try:
        answer = build(BuildRequest.load(folder), folder, events.progress)
    except MirnetEdgeError as error:
        events.send(error=type(error).__name__, message=str(error))
        return 1
    events.send(answer=dataclasses.asdict(answer))
    return 0


def build(request: BuildRequest, folder: Path, progress: Progress) -> BuildAnswer:
    """Build, write the plan, read it back, run it.

    Raises:
        MirnetEdgeError: of any of these steps.
    """
    trt = require("tensorrt", "building engines")
    progress("building", 0, 0)
    start = time.perf_counter()
    plan = _build(trt, request, folder, progress)
    seconds = time.perf_counter() - start
    with (folder / PLAN).open("wb") as file:
        file.write(plan.serialized)
    described = inspect_plan(trt, plan.serialized)
    notes = list(plan.notes)
    times: Times | None = None
    if request.runs:
        progress("measuring", 0, 0)
        try:
            times = measure(folder, request.runs)
        except MissingDependencyError as error:
            notes.append(f"not measured: {error}")
        else:
            notes.extend([times.note] if times.note else [])
    return BuildAnswer(
        strongly_typed=plan.strongly_typed,
        build_seconds=seconds,
        enqueue_ms=times.enqueue_ms if times else None,
        graph_ms=times.graph_ms if times else None,
        notes=notes,
        **described,
    )


def _build(trt: Any, request: BuildRequest, folder: Path, progress: Progress) -> Plan:
    """Strongly typed where TensorRT can; by flags where it cannot, or fails (10.3 is not complete)
    and has flags."""
    limits = BuildLimits(
        request.workspace,
        request.optimization_level,
        Path(request.timing_cache) if request.timing_cache else None,
    )
    strong = NetworkSource(folder / STRONG, True, request.precision)
    weak = NetworkSource(
        folder / WEAK,
        False,
        request.precision,
        frozenset(request.islands),
        frozenset(request.halves),
        request.half_io,
    )
    if not has_strong_types(trt):
        return _build_by_flags(trt, weak, limits, progress)
    try:
        return build_plan(trt, strong, limits, progress)
    except BuildError as error:
        if not has_precision_flags(trt):
            raise
        plan = _build_by_flags(trt, weak, limits, progress)
        plan.notes.append(f"built by precision flags, because strongly typed it failed: {error}")
        return plan


def _build_by_flags(
    trt: Any, source: NetworkSource, limits: BuildLimits, progress: Progress
) -> Plan:
    """Once more without holding layers to FP16, where it fails with that.

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
        if source.halves:
            freed = dataclasses.replace(source, halves=())
            plan = _build_by_flags(trt, freed, limits, progress)
            plan.notes.append(_why_not_held(str(error)))
            return plan
        raise


def _why_not_held(error: str) -> str:
    found = WITHOUT_KERNEL.search(error)
    reason = f"found no FP16 kernel for {found[1]}" if found else f"failed with FP16 ({error})"
    return (
        f"TensorRT {reason}; built without holding layers to FP16: the layer table tells what runs "
        "in FP32"
    )


def measure(folder: Path, runs: int) -> Times:
    """Time the plan, and write its outputs for the tiles, where there are any, to `OUTPUTS`."""
    from mirnet_edge.trt.engine import TensorRTEngine

    applies = (folder / VECTORS).is_file()
    if applies:
        from mirnet_edge.build.applied import run_applied

        with np.load(folder / VECTORS) as vectors:
            outputs = run_applied(folder / PLAN, np.load(folder / TILES), dict(vectors))
        np.save(folder / OUTPUTS, outputs)
    engine = TensorRTEngine(folder / PLAN, trust=True)
    try:
        if not applies and (folder / TILES).is_file():
            np.save(folder / OUTPUTS, engine.run(np.load(folder / TILES)))
        enqueue_ms, graph_ms = engine.measure(runs)
        note = engine.graph_note
    finally:
        engine.close()
    if graph_ms:
        return Times(median(enqueue_ms), median(graph_ms), "")
    return Times(
        median(enqueue_ms), median(enqueue_ms), f"timed without a CUDA graph, which failed: {note}"
    )


def _end_with_parent(folder: Path) -> None:
    """Standard input ends when the parent does, however it ended."""
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
