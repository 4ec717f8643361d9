"""The compiled engine beside the TensorRT one: time of the engine, of a frame one by one from host
memory to host memory, and of streams.

python benchmarks/compiled.py RECORD.json [--engine torch|FILE.engine ...] [--modes MODE ...]

Each engine may live in a Python of its own: a second run with the same RECORD adds to it. Rows are
printed as they are there; what fails is a row that says why.

    python3 benchmarks/compiled.py build/compiled.json --engine torch
    lab/python benchmarks/compiled.py build/compiled.json --engine build/edge-s-frame.engine
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gpu_state
import numpy as np

import mirnet_edge as me

MODEL = "edge-s-denoise"
FRAME = (1080, 1920)
WARM_UP, RUNS = 20, 100
NOISE = 15.0


def percentiles(series_ms: list[float]) -> dict[str, float]:
    """Of milliseconds."""
    return {f"p{q}": round(float(np.percentile(series_ms, q)), 4) for q in (50, 90, 99)}


def timed(step: Callable[[], object]) -> dict[str, float]:
    """Wall clock of a step that waits for its end."""
    series = []
    for run in range(-WARM_UP, RUNS):
        began = time.perf_counter()
        step()
        if run >= 0:
            series.append(1e3 * (time.perf_counter() - began))
    return percentiles(series)


def opened(name: str, mode: str, stack: ExitStack) -> Any:
    """An engine that is to restore whole frames."""
    if name == "torch":
        return stack.enter_context(me.CompiledEngine(MODEL, mode=mode))  # type: ignore[arg-type]
    return stack.enter_context(me.TensorRTEngine(name))


def row_of(name: str, mode: str) -> dict[str, Any]:
    """Everything of one engine."""
    frame = np.random.default_rng(0).integers(0, 256, (*FRAME, 3), np.uint8)
    with ExitStack() as stack:
        began = time.perf_counter()
        engine = opened(name, mode, stack)
        fixed = getattr(engine, "fixed_size", None)
        tile = {} if fixed else {"tile": None}
        restore = stack.enter_context(me.Restorer(engine, noise=NOISE, frame_size=FRAME, **tile))
        row: dict[str, Any] = {"engine": name, "mode": mode, "ready_s": time.perf_counter() - began}
        restored = restore(frame)
        row["tiles"], row["tile"] = restore.timings.tiles, list(restore.tiling(*FRAME).tile)
        enqueue_ms, graph_ms = engine.measure(RUNS)
        row["enqueue_ms"], row["graph_ms"] = percentiles(enqueue_ms), percentiles(graph_ms)
        if name == "torch":
            row["proof"], row["notes"] = asdict(engine.proof), engine.notes
            row["compiled"], row["precision"] = engine.compiled, engine.precision
            row["device_bytes"] = asdict(engine.device_bytes)
        row["one_by_one_ms"] = timed(lambda: restore(frame))
        out = np.empty_like(frame)
        row["one_by_one_out_ms"] = timed(lambda: restore(frame, out=out))
        buffers = restore.buffers(frame.shape)
        np.copyto(buffers.frame, frame)
        row["one_by_one_buffers_ms"] = timed(lambda: restore(buffers.frame, out=buffers.restored))
        row["agrees"] = bool(np.array_equal(buffers.restored, restored))
        row["latency_buffers"] = latency = asdict(restore.latency(RUNS))
        copies_ms = latency["upload"]["p50"] + latency["download"]["p50"]
        engine_ms = row["graph_ms"]["p50"] * row["tiles"]
        row["beyond_engine_and_copies_ms"] = latency["total"]["p50"] - engine_ms - copies_ms
        row["streams"] = {kind: streamed(restore, frame, kind) for kind in ("throughput", "low")}
        row["gpu"] = gpu_state.facts() | gpu_state.under_load(lambda: restore(frame))
    return row


def streamed(restore: me.Restorer, frame: np.ndarray, latency: Any) -> dict[str, Any]:
    """Rate and latency of a camera that is as fast as it is asked."""
    count = 300

    def camera() -> Any:
        for _ in range(count):
            yield frame
            if latency == "low":
                time.sleep(1 / 240)  # of a camera that waits for nobody

    with restore.stream(camera(), latency=latency) as stream:
        for _ in stream:
            pass
        return asdict(stream.statistics())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("record", type=Path)
    parser.add_argument("--engine", nargs="+", default=["torch"], dest="engines")
    parser.add_argument("--modes", nargs="+", default=["off", "default", "max-autotune"])
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if given.record.exists():
        rows = json.loads(given.record.read_text(encoding="utf-8"))["rows"]
    for name in given.engines:
        for mode in given.modes if name == "torch" else ["plan"]:
            try:
                row = row_of(name, mode)
            except Exception as error:
                traceback.print_exc()
                row = {"engine": name, "mode": mode, "error": f"{type(error).__name__}: {error}"}
            rows.append(row)
            print(json.dumps(row, indent=1), flush=True)
            given.record.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"frame": FRAME, "rows": rows}, indent=1)
            given.record.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
