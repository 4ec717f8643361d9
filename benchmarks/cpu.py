"""The engines of a CPU beside the portable one: time, memory, and what they lose of the task.

python benchmarks/cpu.py RECORD [--int8 MODEL=FILE ...] [--sets FOLDER] [--rounds N] [--tile PX]
python benchmarks/cpu.py RECORD --table      prints the record as a table

Each engine lives in a process of its own, on as many threads as this one may use, and they take
turns: one tile each, again and again, so that what else the machine does slows all alike.
``wall_ms`` is of a tile. ``of_portable`` is the median over the turns of an engine's time divided
by that of the portable engine in the same turn. ``cpu_ms`` is the time that all its threads were
computing: where others use the machine too, it says more than the wall; ``cpu_of_portable`` the
ratio of its medians. FILE is made by ``mirnet-edge quantize MODEL FILE --device cpu``. The PSNR is
of `mirnet-edge evaluate` on the sets of --sets (cbsd68, set14, lol_train4).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mirnet_edge._files import atomic_path
from mirnet_edge.engine_choice import open_engine
from mirnet_edge.engines.cpu_trial import CPU_PROVIDER, photo_tile
from mirnet_edge.engines.openvino_engine import cpu_precisions
from mirnet_edge.system import cpu_name, usable_cores

MODELS = ("edge-s-denoise", "edge-m-enhance", "edge-m-x2")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16",
         "amx_int8", "asimddp", "bf16", "i8mm")  # fmt: skip
QUICK = ["--no-ssim", "--json"]
TASKS = {
    "edge-s-denoise": ["--data", "cbsd68", "--sigma", "25", "--noise", "told", "--every", "9"],
    "edge-m-enhance": ["--input", "lol_train4/imgs", "--target", "lol_train4/targets"],
    "edge-m-x2": ["--data", "set14", "--every", "2"],
}
"""How each model's task is measured; folders lie below --sets."""


@dataclass
class Form:
    """An engine of a model, in a process that runs a tile whenever it is told to."""

    name: str
    model: str
    provider: str
    process: subprocess.Popen[str]
    turns: list[dict[str, float]]

    @classmethod
    def start(cls, name: str, model: str, provider: str, tile: int) -> Form:
        """Open it."""
        command = [sys.executable, __file__, "--serve", model, provider, str(tile)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        form = cls(name, model, provider, process, [])
        form.ask()
        return form

    def ask(self) -> dict[str, Any]:
        """Run a tile."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def end(self) -> None:
        """End the process."""
        self.process.communicate()


def serve(model: str, provider: str, tile: int) -> None:
    """Run tiles as lines come in."""
    import psutil

    engine = open_engine(model, provider=provider)
    tiles = photo_tile(engine.facts, (tile, tile))  # type: ignore[attr-defined]
    engine.run(tiles)
    for _ in sys.stdin:
        cpu_s, began = time.process_time(), time.perf_counter()
        engine.run(tiles)
        wall_ms = 1e3 * (time.perf_counter() - began)
        told = {"wall_ms": wall_ms, "cpu_ms": 1e3 * (time.process_time() - cpu_s)}
        told["memory_mb"] = psutil.Process().memory_info().rss / 2**20
        print(json.dumps(told), flush=True)


def forms_of(model: str, int8: str | None, tile: int) -> list[Form]:
    """All engines of a model, the portable one first."""
    names = [("portable", model, CPU_PROVIDER)]
    for file, kind in ((model, ""), (int8, "INT8, else ")):
        if file is not None:
            names += [
                (f"OpenVINO {kind}{found}", file, f"OpenVINO-{found}") for found in cpu_precisions()
            ]
    if int8 is not None:
        names.append(("portable INT8", int8, CPU_PROVIDER))
    return [Form.start(*named, tile) for named in names]


def race(model: str, given: argparse.Namespace, int8: str | None) -> list[dict[str, Any]]:
    """Rows of a model's engines."""
    forms = forms_of(model, int8, given.tile)
    try:
        for _ in range(given.rounds):
            for form in forms:
                form.turns.append(form.ask())
    finally:
        for form in forms:
            form.end()
    return [row_of(form, forms[0]) for form in forms]


def row_of(form: Form, portable: Form) -> dict[str, Any]:
    """Of one engine."""
    row: dict[str, Any] = {"engine": form.name, "provider": form.provider}
    for kind in ("wall_ms", "cpu_ms"):
        series = [turn[kind] for turn in form.turns]
        row[kind] = {f"p{q}": round(float(np.percentile(series, q)), 1) for q in (10, 50, 90)}
    pairs = zip(form.turns, portable.turns)
    row["of_portable"] = round(median(a["wall_ms"] / b["wall_ms"] for a, b in pairs), 3)
    ours, theirs = (median(turn["cpu_ms"] for turn in one.turns) for one in (form, portable))
    row["cpu_of_portable"] = round(ours / theirs, 3)
    row["memory_mb"] = round(form.turns[-1]["memory_mb"])
    return row


def quality(file: str, provider: str, model: str, sets: Path) -> float:
    """PSNR of the task, by ``mirnet-edge evaluate``."""
    asked = [str(sets / part) if (sets / part).exists() else part for part in TASKS[model]]
    command = [sys.executable, "-m", "mirnet_edge", "evaluate", file, *asked, *QUICK]
    command += ["--provider", provider]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(float(json.loads(done.stdout)["mean"]["restored"]["psnr"]), 4)


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("record", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--int8", nargs="*", default=[], metavar="MODEL=FILE")
    parser.add_argument("--sets", type=Path)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        print(table(json.loads(given.record.read_text("utf-8"))))
        return
    int8 = dict(pair.split("=", 1) for pair in given.int8)
    record = described(given)
    for model in given.models:
        record["models"][model] = race(model, given, int8.get(model))
        save(record, given.record)
    record["load"].append(round(os.getloadavg()[0], 1))
    save(record, given.record)
    for model in given.models if given.sets else ():
        for row in record["models"][model]:
            file = int8[model] if "INT8" in row["engine"] else model
            row["psnr_db"] = quality(file, row["provider"], model, given.sets)
            save(record, given.record)


def described(given: argparse.Namespace) -> dict[str, Any]:
    """A record of nothing yet."""
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text("utf-8").split() if cpu.exists() else []
    packages = ("mirnet-edge", "onnxruntime", "openvino", "numpy")
    return {
        "cpu": cpu_name(),
        "instructions": [flag for flag in FLAGS if flag in flags],
        "cores": usable_cores(),
        "tile": given.tile,
        "rounds": dict.fromkeys(given.models, given.rounds),
        "load": [round(os.getloadavg()[0], 1)],
        "versions": {name: version(name) for name in packages},
        "models": {},
    }


def save(record: dict[str, Any], path: Path) -> None:
    """Write it, as far as it is."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def table(record: dict[str, Any]) -> str:
    """The record in Markdown."""
    lines = [
        "| model | engine | ms | of portable's time | of its CPU time | PSNR lost | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, rows in record["models"].items():
        for row in rows:
            lost = ""
            if "psnr_db" in row:
                lost = f"{rows[0]['psnr_db'] - row['psnr_db']:.3f} dB"
            lines.append(
                f"| `{model}` | {row['engine']} | {row['wall_ms']['p50']:.0f} | "
                f"{row['of_portable']:.2f} | {row['cpu_of_portable']:.2f} | {lost} | "
                f"{row['memory_mb']} |"
            )
    versions, tile = record["versions"], record["tile"]
    load, rounds = (sorted(set(found)) for found in (record["load"], record["rounds"].values()))
    lines.append(
        f"\nOne {tile}x{tile} tile, {record['cores']} cores of {record['cpu']} "
        f"({', '.join(record['instructions'])}), medians of {rounds[0]} to {rounds[-1]} "
        f"turns, load of the machine {load[0]} to {load[-1]}; OpenVINO {versions['openvino']}, "
        f"ONNX Runtime {versions['onnxruntime']}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
