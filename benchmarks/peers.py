"""One peer on one network and one shape, through its public API, in a process of its own.

python benchmarks/peers.py PEER NETWORK SHAPE FOLDER [--device cpu|cuda] [--forms N] [--seconds N]

SHAPE is batch x height x width. FOLDER has the graphs of `networks.py`; engines, and the kernels
that torch compiles, are kept there. The record goes to FOLDER/rows: a row for each form of the
peer, written when it is there, so that whatever ends the process early leaves the others. What
fails is a row that says why.

Runs wait for each other: when one begins, nothing is in flight. ``device_ms`` is the time between
two events around a run, ``wall_ms`` the host's until the device is done. Neither counts copies
between the two; ``frame_ms`` does: a 1080p frame of uint8, from host memory to host memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import gpu_state
import numpy as np
from peer_case import Case, Form, Open, Step, clock

from mirnet_edge._files import atomic_path
from mirnet_edge.system import usable_cores

WARM_UP_S, MEASURE_S = 0.3, 1.5
LEAST_RUNS, MOST_RUNS = 20, 300


def percentiles(series: list[float]) -> dict[str, float]:
    """Of milliseconds."""
    return {f"p{q}": round(float(np.percentile(series, q)), 4) for q in (50, 90, 99)}


def series_of(step: Step) -> list[tuple[float | None, float]]:
    """Warm up, then run for `MEASURE_S`."""
    began, warm = time.perf_counter(), 0
    while warm < 3 or time.perf_counter() - began < WARM_UP_S:
        step()
        warm += 1
    began, found = time.perf_counter(), []
    while len(found) < MOST_RUNS and (
        len(found) < LEAST_RUNS or time.perf_counter() - began < MEASURE_S
    ):
        found.append(step())
    return found


def row_of(form: Form, case: Case) -> dict[str, Any]:
    """Measure an open form."""
    series = series_of(form.step)
    row = {"runs": len(series), "wall_ms": percentiles([wall for _, wall in series])}
    on_device = [device for device, _ in series if device is not None]
    if on_device:
        row["device_ms"] = percentiles(on_device)
    if case.device == "cuda":
        row["gpu"] = gpu_state.under_load(form.step)
    if form.frame is not None:
        row["frame_ms"] = percentiles([wall for _, wall in series_of(clock(form.frame))])
    return row | form.said


def forms_of(peer: str) -> dict[str, Open]:
    """The forms of a peer by their names, the one that is likely the fastest first."""
    kind = "peer_torch" if peer.startswith("torch") else "peer_graphs"
    found: dict[str, Open] = import_module(kind).forms(peer)
    return found


def rows(peer: str, case: Case, most: int, limit_s: float) -> Iterator[dict[str, Any]]:
    """A row for each of the first forms."""
    began = time.monotonic()
    for name, opened in islice(forms_of(peer).items(), most):
        started = time.monotonic()
        row: dict[str, Any] = {"form": name}
        if started - began > limit_s:
            yield row | {"error": f"not measured: the {limit_s:.0f} s of this peer were over"}
            continue
        try:
            with ExitStack() as stack:
                form = opened(case, stack)
                row["ready_s"] = round(time.monotonic() - started, 1)
                row |= row_of(form, case)
                del form
        except Exception as error:  # a peer that fails is a row that says why
            row["error"] = f"{type(error).__name__}: {error}"[:500]
        gc.collect()
        yield row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer")
    parser.add_argument("network")
    parser.add_argument("shape")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--forms", type=int, default=99)
    parser.add_argument("--seconds", type=float, default=600)
    given = parser.parse_args()
    batch, height, width = map(int, given.shape.split("x"))
    case = Case(given.network, (batch, height, width), given.folder.resolve(), given.device)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(case.folder / "inductor"))
    record: dict[str, Any] = {
        "peer": given.peer,
        "network": given.network,
        "shape": case.shape,
        "device": case.device,
        "cores": usable_cores(),
        "python": platform.python_version(),
        "rows": [],
    }
    if case.device == "cuda":
        record |= gpu_state.facts()
    path = case.folder / "rows" / f"{given.network}.{given.peer}.{given.shape}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in rows(given.peer, case, given.forms, given.seconds):
        record["rows"].append(row)
        record["versions"] = {
            name: str(getattr(sys.modules[name], "__version__", ""))
            for name in ("torch", "triton", "tensorrt", "onnxruntime", "openvino", "mirnet_edge")
            if name in sys.modules
        }
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
