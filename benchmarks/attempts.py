"""What makes an engine of a whole frame faster: each attempt built, timed in turns, and compared.

python benchmarks/attempts.py FOLDER [--include DIR] [--minutes N] [--only NAME ...]
                              [--model MODEL] [--shape BATCHxHEIGHTxWIDTH] [--gpus N ...]

Builds our plugins (against TensorRT's headers in DIR), then one engine an attempt, each in a
process of its own, on each of the GPUs, in the order of `ATTEMPTS` until the time is over.
Then all engines run in turns on the first GPU, some runs of each in a round, so that clocks and
temperature are the same for all; each is compared with ONNX Runtime in FP32 on the CPU. FOLDER gets
`attempts.json`, and of each engine its layers with their times. An attempt that fails is a row that
says why.

The peer in PyTorch: benchmarks/peers.py torch-max-autotune edge-s 1x1088x1920 FOLDER --forms 1
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gpu_state
import numpy as np

from mirnet_edge.build.graphs import open_source, typed_for_tensorrt
from mirnet_edge.build.plugins import build_plugins
from mirnet_edge.bundled import bundled_model
from mirnet_edge.graph.operators import (
    BLOCKS,
    FUSIONS,
    INPUT,
    OUTPUT,
    with_plugins,
)
from mirnet_edge.graph.pooling import apply_graph
from mirnet_edge.trt.layer_info import read_layers
from mirnet_edge.trt.network import BuildLimits, NetworkSource, build_plan, inspect_plan
from mirnet_edge.trt.plugins import load_library

FRAME = "1x1088x1920"
ROUNDS, RUNS, WARM_UP = 24, 10, 20
LEAST_BUILD_S = 20
LIBRARY, REFERENCE, TILE = "plugins.so", "reference.npy", "tile.npy"


@dataclass(frozen=True)
class Attempt:
    """An engine: which of our operators are put into its graph (`GROUPS`), TensorRT's optimization
    level, whether pooled vectors are given (apply) instead of computed, and streams beside the
    main one."""

    groups: tuple[str, ...] = ()
    level: int = 1
    apply: bool = False
    streams: int | None = None


Shape = tuple[int, int, int]
PLAIN, ALL = Attempt(), Attempt((FUSIONS, INPUT, OUTPUT))
BLOCKED = Attempt((FUSIONS, INPUT, OUTPUT, BLOCKS))
ATTEMPTS = {
    "plain": PLAIN,
    "blocks": BLOCKED,
    "all": ALL,
    "blocks-3": replace(BLOCKED, level=3),
    "blocks-streams": replace(BLOCKED, streams=2),
    "all-streams": replace(ALL, streams=2),
    "fusions": Attempt((FUSIONS,)),
    "apply-all": replace(ALL, apply=True),
    "plain-3": replace(PLAIN, level=3),
    "input": Attempt((INPUT,)),
    "output": Attempt((OUTPUT,)),
    "apply": replace(PLAIN, apply=True),
    "all-3": replace(ALL, level=3),
    "blocks-5": replace(BLOCKED, level=5),
    "plain-5": replace(PLAIN, level=5),
}


def prepare(folder: Path, model: str, shape: Shape) -> None:
    """Write a noisy tile of a photo, and what FP32 makes of it."""
    from PIL import Image

    from mirnet_edge.graph.session import TileSession

    photo = Path(sys.modules["mirnet_edge"].__file__ or "").parent / "data" / "photo.webp"
    with Image.open(photo) as image:
        size = shape[:0:-1]
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    random = np.random.default_rng(0)
    noisy = pixels / np.float32(255) + random.normal(0, 25 / 255, pixels.shape)
    tile = noisy.clip(0, 1).astype(np.float16).astype(np.float32).transpose(2, 0, 1)[None]
    source = open_source(path_of(model), shape[1:], shape[0], True)
    if source.facts.noise_level:
        tile = np.concatenate([tile, np.full_like(tile[:, :1], 0.5)], 1)
    np.save(folder / TILE, np.repeat(tile, shape[0], 0))
    np.save(folder / REFERENCE, TileSession(source.reference).run(tile[0])[0])


def path_of(model: str) -> Path:
    """Of a bundled model's graph, or of a file."""
    bundled = bundled_model(model)
    return bundled.onnx if bundled else Path(model)


def build(folder: Path, model: str, shape: Shape, name: str) -> None:
    """Build one attempt, and run it, as one that fails would fail all that are measured with it;
    its facts go to a file."""
    import tensorrt as trt

    from mirnet_edge.trt.engine import TensorRTEngine

    attempt = ATTEMPTS[name]
    if attempt.groups:
        load_library(trt, folder / LIBRARY)
    source = open_source(path_of(model), shape[1:], shape[0], True)
    made = apply_graph(source.sized) if attempt.apply else source.proto
    proto = source.fitted(made, shape[0])
    typed = typed_for_tensorrt(proto, "fp16", "float16")
    graph, counts = with_plugins(proto, attempt.groups)
    convolutions = {node.name for node in graph.graph.node if node.op_type == "Conv"}
    there = {node.name for node in proto.graph.node}
    weak = folder / f"{name}.onnx"
    weak.write_bytes(graph.SerializeToString())
    network = NetworkSource(
        weak,
        strongly_typed=False,
        precision="fp16",
        islands=typed.islands,
        halves=typed.halves | (convolutions - there),
        half_io=[proto.graph.input[0].name, proto.graph.output[0].name],
    )
    # Of one GPU, so that attempts which are built side by side do not wait for each other.
    cache = folder / f"timing-{os.environ.get('CUDA_VISIBLE_DEVICES', '0')}.cache"
    limits = BuildLimits(None, attempt.level, cache, aux_streams=attempt.streams)
    began = time.monotonic()
    try:
        plan = build_plan(trt, network, limits)
    except Exception as error:
        print(f"{name}: again without holding layers to FP16, as: {error}", file=sys.stderr)
        plan = build_plan(trt, replace(network, halves=()), limits)
    facts, layers = inspect_plan(trt, plan.serialized)
    (folder / f"{name}.engine").write_bytes(plan.serialized)
    (folder / f"{name}.layers.json").write_text(layers)
    said = {"build_s": round(time.monotonic() - began, 1), "operators": counts}
    with TensorRTEngine(folder / f"{name}.engine", trust=True) as engine:
        engine.measure(3)
    said |= {"activation_bytes": facts.activation_bytes}
    (folder / f"{name}.facts.json").write_text(json.dumps(said))


def measure(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    """Time the engines in turns, each as a CUDA graph, and compare them."""
    import tensorrt as trt

    from mirnet_edge.trt.engine import TensorRTEngine

    if (folder / LIBRARY).is_file():
        load_library(trt, folder / LIBRARY)
    tile, reference = np.load(folder / TILE), np.load(folder / REFERENCE)
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        engines = {}
        for name in names:
            rows[name] = {"name": name, **asdict(ATTEMPTS[name])}
            rows[name] |= json.loads((folder / f"{name}.facts.json").read_text())
            try:
                engine = TensorRTEngine(folder / f"{name}.engine", trust=True)
                engines[name] = stack.enter_context(engine)
                engine.measure(WARM_UP)
                if not ATTEMPTS[name].apply:
                    rows[name] |= compared(engine.run(tile), reference)
            except Exception as error:
                rows[name]["error"] = f"{type(error).__name__}: {error}"[:500]
                engines.pop(name, None)
        series: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(ROUNDS):
            for name, engine in engines.items():
                series[name] += engine.measure(RUNS)[1]
        for name, engine in engines.items():
            found = {f"p{q}": round(float(np.percentile(series[name], q)), 4) for q in (10, 50, 90)}
            rows[name] |= {"graph_ms": found, "runs": len(series[name])}
            # Layers that run side by side are not timed.
            times_ms = {} if ATTEMPTS[name].streams else engine.layer_times(20)
            rows[name] |= layers_of(folder, name, times_ms)
    return list(rows.values())


def compared(output: Any, reference: Any) -> dict[str, Any]:
    """How far an output is from that of FP32."""
    error = output.astype(np.float64) - reference
    mse = float(np.mean(error**2))
    psnr = 10 * np.log10(1 / mse) if mse > 0 else 999.0
    finite = bool(np.isfinite(output).all())
    return {
        "psnr_vs_fp32_db": round(float(psnr), 2),
        "max_error": round(float(np.abs(error).max()), 5),
        "finite": finite,
    }


def layers_of(folder: Path, name: str, times_ms: dict[str, float]) -> dict[str, Any]:
    """By kind of layer, how many and how long; each layer goes to a file."""
    layers = read_layers((folder / f"{name}.layers.json").read_text())
    listed = [
        {
            "ms": round(times_ms.get(layer.name, 0.0), 4),
            "kind": layer.kind,
            "mb": layer.bytes_moved / 1e6,
            "precision": layer.precision,
            "name": layer.name[:160],
            "tactic": layer.tactic[:90],
        }
        for layer in layers
    ]
    (folder / f"{name}.times.json").write_text(json.dumps(listed, indent=0))
    kinds: dict[str, list[float]] = {}
    for item in listed:
        kinds.setdefault(str(item["kind"]), []).append(float(item["ms"]))
    ranked = sorted(kinds.items(), key=lambda pair: -sum(pair[1]))
    return {"kinds": {kind: [len(ms), round(sum(ms), 3)] for kind, ms in ranked}}


def child(*arguments: str, limit_s: float, gpu: str) -> str:
    """Run this file in a process of its own; what went wrong, "" for nothing."""
    limits: dict[str, Any] = {"timeout": max(limit_s, 1), "capture_output": True, "text": True}
    environment = {**os.environ, **gpu_state.visible(gpu)}
    try:
        command = [sys.executable, __file__, *arguments]
        done = subprocess.run(command, env=environment, **limits)
    except subprocess.TimeoutExpired:
        return f"not done after {limit_s:.0f} s"
    return "" if done.returncode == 0 else (done.stderr.strip() or f"rc {done.returncode}")[-500:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--include", type=Path)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--model", default="edge-s-denoise")
    parser.add_argument("--shape", default=FRAME)
    parser.add_argument("--gpus", nargs="+", default=["0"], help="as CUDA_VISIBLE_DEVICES has them")
    parser.add_argument("--only", nargs="+", choices=[*ATTEMPTS], default=[*ATTEMPTS])
    parser.add_argument("--step", choices=["prepare", "build", "measure"])
    given = parser.parse_args()
    folder, model = given.folder.resolve(), given.model
    batch, height, width = map(int, given.shape.split("x"))
    shape = batch, height, width
    folder.mkdir(parents=True, exist_ok=True)
    if given.step == "prepare":
        prepare(folder, model, shape)
    elif given.step == "build":
        build(folder, model, shape, given.only[0])
    elif given.step == "measure":
        (folder / "rows.json").write_text(json.dumps(measure(folder, given.only)))
    else:
        asked = ("--model", model, "--shape", given.shape)
        run(folder, asked, given.include, given.only, 60 * given.minutes, given.gpus)


def run(
    folder: Path,
    asked: tuple[str, ...],
    include: Path | None,
    names: list[str],
    limit_s: float,
    gpus: list[str],
) -> None:
    """Prepare, build while there is time, measure, print."""
    import tensorrt as trt

    from mirnet_edge.build.target import find_target

    began = time.monotonic()
    os.environ.update(gpu_state.visible(gpus[0]))
    target = find_target()
    code = target.device["compute_capability"].replace(".", "")
    arguments = (str(folder), *asked, "--step")
    preparing = subprocess.Popen([sys.executable, __file__, *arguments, "prepare"])
    if any(ATTEMPTS[name].groups for name in names):
        build_plugins(folder / LIBRARY, trt.__version__, [code], include)
    print(f"plugins after {time.monotonic() - began:.0f} s", flush=True)
    waiting, errors = list(names), {}

    def build_in_turn(gpu: str) -> None:
        while waiting:
            name = waiting.pop(0)
            left = limit_s - (time.monotonic() - began)
            errors[name] = "the time was over"
            if left > LEAST_BUILD_S:
                step = (*arguments, "build", "--only", name)
                errors[name] = child(*step, limit_s=left, gpu=gpu)
            said = f"{name}: {errors[name] or 'built'} after {time.monotonic() - began:.0f} s"
            print(said, flush=True)

    with ThreadPoolExecutor(len(gpus)) as pool:
        list(pool.map(build_in_turn, gpus))
    built = [name for name in names if not errors[name]]
    rows = [{"name": name, "error": errors[name]} for name in names if errors[name]]
    preparing.wait()
    error = child(str(folder), "--step", "measure", "--only", *built, limit_s=240, gpu=gpus[0])
    if error:
        rows.append({"name": "measure", "error": error})
    else:
        rows = json.loads((folder / "rows.json").read_text()) + rows
    record = {"gpu": gpu_state.facts(), "versions": target.versions, "asked": asked, "rows": rows}
    (folder / "attempts.json").write_text(json.dumps(record, indent=1) + "\n")
    for row in rows:
        if "error" in row:
            print(f"{row['name']:10} {row['error']}")
            continue
        times = row["graph_ms"]
        spread = f"({times['p10']:.3f} to {times['p90']:.3f})"
        error = f"{row.get('psnr_vs_fp32_db', '-')} dB, max {row.get('max_error', '-')}"
        print(f"{row['name']:10} {times['p50']:.3f} ms {spread}  {error}  {row['kinds']}")


if __name__ == "__main__":
    main()
