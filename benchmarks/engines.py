"""TensorRT engines of every preset, beside their peers, on the GPU at hand.

python benchmarks/engines.py prepare FOLDER PHOTO...      where PyTorch is: graphs, references
python benchmarks/engines.py torch FOLDER                 PyTorch with CUDA: the peer's times
python benchmarks/engines.py build FOLDER [CASE...]       TensorRT: one engine after another
python benchmarks/engines.py measure FOLDER [CASE...]     the same, alone on the GPU
python benchmarks/engines.py task FOLDER IMAGES CASE...   PSNR of whole noisy images, in tiles
python benchmarks/engines.py record FOLDER RESULT         everything measured, as one record

The steps meet in files, so that each runs where its libraries are. What the cases are:
`engine_cases.py`.
"""

from __future__ import annotations

import json
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from engine_cases import (
    BUNDLED,
    CASES,
    PRESETS,
    SIGMA,
    TILE,
    graph_of,
    prepare,
    with_every_candidate_in_int8,
)

from mirnet_edge.engines.card import EngineCard
from mirnet_edge.errors import MirnetEdgeError


def measure_torch(folder: Path) -> None:
    """Milliseconds of PyTorch FP16 for one run, eager and as a CUDA graph, for every preset."""
    import torch

    import mirnet_edge as me

    torch.backends.cudnn.benchmark = True
    times = {}
    for preset, batch in (("edge-s", 1), ("edge-s", 4), *((preset, 1) for preset in PRESETS)):
        network = me.create_model(preset, seed=0).cuda().half()
        tile = torch.rand(batch, 3, TILE, TILE, device="cuda", dtype=torch.half)
        with torch.inference_mode():
            eager = _timed(lambda network=network, tile=tile: network(tile))
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                network(tile)
        found = {"eager_fp16_ms": eager, "graph_fp16_ms": _timed(graph.replay)}
        times[preset if batch == 1 else f"{preset}-b{batch}"] = found
        print(preset, batch, found, flush=True)
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
    found = {"times": times, "versions": versions, "device": torch.cuda.get_device_name()}
    (folder / "torch.json").write_text(json.dumps(found, indent=1))


def _timed(run: Callable[[], object], runs: int = 50) -> float:
    """Median milliseconds by events, after warm-up."""
    import torch

    for _ in range(10):
        run()
    spent = []
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        spent.append(start.elapsed_time(end))
    return median(spent)


def build(folder: Path, name: str) -> None:
    """One engine and its card."""
    from mirnet_edge.build import build_engine

    case = CASES[name]
    onnx = graph_of(folder, case.network)
    if case.precision == "int8" and case.network != BUNDLED:
        onnx = with_every_candidate_in_int8(folder, case.network, onnx)
    started = time.monotonic()
    card = build_engine(
        onnx,
        folder / f"{name}.engine",
        precision=case.precision,  # type: ignore[arg-type]
        tile=case.tile,
        batch=case.batch,
        optimization_level=case.level,
        rewrite=case.rewrite,
        statistics=case.statistics,
        force=True,
    )
    seconds = time.monotonic() - started
    print(
        f"{name}: built in {card.build_seconds:.0f} of {seconds:.0f} s, {card.measured}, "
        f"{card.layers_by_precision()}, {card.notes}",
        flush=True,
    )


def engine_of(folder: Path, name: str) -> Path:
    """The engine of a case, or the twin in FP16 of that in INT8."""
    path = folder / f"{name}.engine"
    if path.exists() or not name.endswith("-fp16"):
        return path
    return folder / f"{name.removesuffix('-fp16')}-int8.fp16.engine"


def measure(folder: Path, name: str) -> None:
    """Times of an engine that has the GPU to itself, and its PSNR on the five crops."""
    from mirnet_edge.trt.engine import TensorRTEngine

    case = CASES[name]
    engine = TensorRTEngine(engine_of(folder, name))
    card = engine.card
    assert card is not None
    with np.load(folder / "photos.npz") as stored:
        tiles, clean = stored["tiles"], stored["clean"]
    outputs = engine.run(tiles)
    enqueue_ms, graph_ms = engine.measure(200)
    by_layer = engine.layer_times()
    engine.close()
    reference = np.load(folder / f"{case.network}.reference.npy")
    found = {
        "case": name,
        "enqueue_ms": median(enqueue_ms),
        "graph_ms": median(graph_ms) if graph_ms else None,
        "card": asdict(replace(card, layers=())),
        "layers_by_precision": card.layers_by_precision(),
        "bytes_moved": card.bytes_moved,
        "layers": len(card.layers),
        "psnr_vs_fp32_db": [_psnr(a, b) for a, b in zip(outputs, reference)],
        "ms_by_kind": _by_kind(card, by_layer),
        "convolution_ms": _by_convolution(card, by_layer),
    }
    if case.network == BUNDLED:
        found["task_psnr_db"] = {
            "engine": [_psnr(a.clip(0, 1), b, peak=1.0) for a, b in zip(outputs, clean)],
            "fp32": [_psnr(a.clip(0, 1), b, peak=1.0) for a, b in zip(reference, clean)],
        }
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1))
    print(
        f"{name}: graph {found['graph_ms']} ms, enqueue {found['enqueue_ms']} ms, "
        f"{card.bytes_moved / 1e9:.2f} GB, {len(card.layers)} layers, at least "
        f"{min(found['psnr_vs_fp32_db']):.1f} dB; {json.dumps(found['ms_by_kind'])}",
        flush=True,
    )


def task(folder: Path, images: Path, case: str) -> None:
    """Mean PSNR of the restored images of a folder, noise of `SIGMA` added, in tiles with a halo of
    16 pixels; ``case`` is an engine, or the bundled network on the portable engine in FP32."""
    from mirnet_edge.frames.images import read_image
    from mirnet_edge.frames.noise import add_gaussian_noise, unit_range
    from mirnet_edge.metrics import psnr
    from mirnet_edge.restore import Restorer

    scores = []
    with Restorer(BUNDLED if case == BUNDLED else engine_of(folder, case), tile=TILE) as restore:
        for seed, path in enumerate(sorted(images.iterdir())):
            pixels = read_image(path).pixels
            restored = restore(add_gaussian_noise(pixels, SIGMA, seed))
            scores.append(psnr(restored, unit_range(pixels)))
    found = {"images": len(scores), "sigma": SIGMA, "psnr_db": float(np.mean(scores))}
    (folder / f"{case}.task.json").write_text(json.dumps(found))
    print(case, found, flush=True)


def _psnr(found: np.ndarray, expected: np.ndarray, peak: float | None = None) -> float:
    """In dB; of the expected values' range where no peak is given."""
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    return float(10 * np.log10((peak or np.ptp(expected)) ** 2 / error))


def _by_kind(card: EngineCard, by_layer: dict[str, float]) -> dict[str, list[float]]:
    """Number, milliseconds and gigabytes of the layers of each kind, slowest first."""
    kinds: dict[str, list[float]] = {}
    for layer in card.layers:
        entry = kinds.setdefault(f"{layer.kind} {layer.precision}", [0, 0.0, 0.0])
        entry[0] += 1
        entry[1] += by_layer.get(layer.name, 0.0)
        entry[2] += layer.bytes_moved / 1e9
    return dict(sorted(kinds.items(), key=lambda item: -item[1][1]))


def _by_convolution(card: EngineCard, by_layer: dict[str, float]) -> dict[str, list[Any]]:
    """Precision and milliseconds of each convolution, by the name of its node in the graph."""
    from mirnet_edge.trt.layer_info import convolutions

    return {
        _node_of(layer.name): [layer.precision, by_layer.get(layer.name, 0.0)]
        for layer in convolutions(card.layers)
    }


def _node_of(layer: str) -> str:
    """The convolution's node in a layer of several nodes: the first, but for its weights and their
    QuantizeLinear."""
    # TensorRT joins the names of the nodes that it fuses by " + ".
    parts = layer.strip().split(" + ")
    quantized = [i for i, part in enumerate(parts) if part.endswith("_QuantizeLinear")]
    node = parts[quantized[-1] + 1] if quantized else parts[0]
    return re.split(r"[^\w./:-]+", node)[0]


def int8_against_fp16(int8: dict[str, Any], fp16: dict[str, Any]) -> dict[str, Any]:
    """Where INT8 wins and loses: its convolutions beside the same in FP16, and everything else by
    kind; milliseconds of layers timed one by one, whose sum exceeds that of the CUDA graph."""
    pairs = [
        (node, fp16["convolution_ms"][node][1], ms)
        for node, (precision, ms) in int8["convolution_ms"].items()
        if precision == "INT8" and node in fp16["convolution_ms"]
    ]
    pairs.sort(key=lambda pair: pair[2] - pair[1])
    kinds = {
        kind: {
            name: engine["ms_by_kind"].get(kind, [0, 0.0, 0.0])
            for name, engine in (("fp16", fp16), ("int8", int8))
        }
        for kind in sorted({*int8["ms_by_kind"], *fp16["ms_by_kind"]})
    }
    return {
        "graph_ms": {"fp16": fp16["graph_ms"], "int8": int8["graph_ms"]},
        "times_faster": fp16["graph_ms"] / int8["graph_ms"],
        "bytes_moved": {"fp16": fp16["bytes_moved"], "int8": int8["bytes_moved"]},
        "layers": {"fp16": fp16["layers"], "int8": int8["layers"]},
        "int8_convolutions": sum(each[0] == "INT8" for each in int8["convolution_ms"].values()),
        "int8_convolutions_paired": len(pairs),
        "int8_convolutions_faster": sum(ms < before for _, before, ms in pairs),
        "convolutions_ms": {
            "fp16": sum(pair[1] for pair in pairs),
            "int8": sum(pair[2] for pair in pairs),
        },
        "most_gained_and_lost": [*pairs[:5], *pairs[-5:]],
        "kinds": kinds,
    }


def record(folder: Path, result: Path) -> None:
    """One file of all that was measured in ``folder``."""
    engines = {path.stem: json.loads(path.read_text())
               for path in sorted(folder.glob("*.json")) if path.stem in CASES}  # fmt: skip
    tasks = {path.name.partition(".")[0]: json.loads(path.read_text())
             for path in sorted(folder.glob("*.task.json"))}  # fmt: skip
    versus = {}
    for name in engines:
        twin = name.replace("-int8", "-fp16")
        if twin != name and twin in engines:
            versus[name] = int8_against_fp16(engines[name], engines[twin])
    for engine in engines.values():  # hundreds of rows, of which the comparison keeps the ends
        del engine["convolution_ms"]
    found = {
        "python": platform.python_version(),
        "torch": json.loads((folder / "torch.json").read_text()),
        "engines": list(engines.values()),
        "int8_against_fp16": versus,
        "tasks": tasks,
    }
    result.write_text(json.dumps(found, indent=1) + "\n")


def each(step: Callable[[str], None], cases: Iterable[str]) -> None:
    """All cases, whatever fails; ends with what did."""
    failed = []
    for case in cases:
        try:
            step(case)
        except MirnetEdgeError as error:
            failed.append(f"{case}: {error}")
    if failed:
        raise SystemExit("\n".join(failed))


def main(step: str, folder: Path, *rest: str) -> None:
    if step == "prepare":
        prepare(folder, list(rest))
    elif step == "torch":
        measure_torch(folder)
    elif step == "build":
        each(lambda case: build(folder, case), rest or CASES)
    elif step == "measure":
        each(lambda case: measure(folder, case), rest or [name for name in CASES if name != "tiny"])
    elif step == "task":
        each(lambda case: task(folder, Path(rest[0]), case), rest[1:])
    elif step == "record":
        record(folder, Path(rest[0]))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
