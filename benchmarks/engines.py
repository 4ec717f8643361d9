"""TensorRT engines of every preset, beside their peers, on the GPU at hand.

python benchmarks/engines.py prepare FOLDER PHOTO...    where PyTorch is: graphs, references
python benchmarks/engines.py torch FOLDER               PyTorch with CUDA: the peer's times
python benchmarks/engines.py build FOLDER [LEVEL] CASE...    TensorRT: one engine after another
python benchmarks/engines.py measure FOLDER CASE...    the same, alone on the GPU
python benchmarks/engines.py task FOLDER IMAGES CASE...    PSNR of whole noisy images, in tiles
python benchmarks/engines.py record FOLDER RESULT       everything measured, as one record

The steps meet in files, so that each runs where its libraries are. Networks other than the bundled
one have seeded weights that keep every layer alive (`weights_of`): graphs travel without them.
"""

from __future__ import annotations

import json
import platform
import sys
import time
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

TILE = 256
PHOTOS = 5
PRESETS = ("edge-s", "edge-m", "mirnet-v2", "mirnet")
BUNDLED = "edge-s-denoise"
SIGMA = 25
CASES = {
    "edge-s-denoise-fp16": (BUNDLED, "fp16"),
    "edge-s-denoise-int8": (BUNDLED, "int8"),
    **{f"{name}-fp16": (name, "fp16") for name in PRESETS},
    **{f"{name}-int8": (name, "int8") for name in PRESETS},
    "mirnet-v2-plain-fp16": ("mirnet-v2", "fp16"),
}
"""Name of each engine: its network and precision. "plain" is the export without rewrites."""


def weights_of(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Seeded by the name; scaled so that a convolution halves what it is given. MIRNet-v2 then adds
    a residual of 0.11 to the image, as a denoiser does. With weights that keep the size it adds
    one of 32, and FP16 with FP32 sums (ONNX Runtime) is 53 dB from FP32 whatever the engine."""
    random = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    size = 2 * float(np.prod(shape[1:])) ** 0.5
    return (random.standard_normal(shape) / size).astype(np.float32)


def prepare(folder: Path, photos: list[str]) -> None:
    """Graphs without weights, five noisy crops, and what PyTorch makes of them in FP32."""
    import onnx
    import torch

    import mirnet_edge as me
    from mirnet_edge.bundled import bundled_model
    from mirnet_edge.images import read_image
    from mirnet_edge.tasks import add_gaussian_noise, unit_range

    folder.mkdir(parents=True, exist_ok=True)
    crops = [_middle(read_image(photo).pixels) for photo in photos[:PHOTOS]]
    clean = np.stack([unit_range(crop).transpose(2, 0, 1) for crop in crops])
    noisy = [add_gaussian_noise(crop, SIGMA, seed) for seed, crop in enumerate(crops)]
    tiles = np.stack([tile.transpose(2, 0, 1) for tile in noisy])
    np.savez(folder / "photos.npz", clean=clean, tiles=tiles)
    for preset in PRESETS:
        network = me.create_model(preset, seed=0)
        path = folder / f"{preset}.onnx"
        me.export_onnx(network, path, rewrite=False)
        proto = onnx.load(path)
        state = dict(network.named_parameters(remove_duplicate=False))
        for tensor in proto.graph.initializer:
            if tensor.name in state and state[tensor.name].numel() > 1:
                values = torch.from_numpy(weights_of(tensor.name, tuple(tensor.dims)))
                state[tensor.name].data.copy_(values)
                tensor.ClearField("raw_data")
        path.write_bytes(proto.SerializeToString())
        _save_reference(folder, preset, network, tiles)
    trained = bundled_model(BUNDLED)
    assert trained is not None
    _save_reference(folder, BUNDLED, me.load_model(trained.weights), tiles)


def _middle(pixels: np.ndarray) -> np.ndarray:
    top, left = ((side - TILE) // 2 for side in pixels.shape[:2])
    return pixels[top : top + TILE, left : left + TILE]


def _save_reference(folder: Path, name: str, network: Any, tiles: np.ndarray) -> None:
    import torch

    with torch.inference_mode():
        outputs = [network(torch.from_numpy(tile[None]))[0].numpy() for tile in tiles]
    np.save(folder / f"{name}.reference.npy", np.stack(outputs))


def graph_of(folder: Path, name: str) -> Path:
    """The ONNX file of a network, with its weights."""
    import onnx

    from mirnet_edge.bundled import bundled_model

    trained = bundled_model(name)
    if trained is not None:
        return trained.onnx
    whole = folder / f"{name}.whole.onnx"
    if not whole.exists():
        proto = onnx.load(folder / f"{name}.onnx", load_external_data=False)
        for tensor in proto.graph.initializer:
            if not tensor.raw_data and np.prod(tensor.dims) > 1:
                tensor.raw_data = weights_of(tensor.name, tuple(tensor.dims)).tobytes()
        whole.write_bytes(proto.SerializeToString())
    return whole


def measure_torch(folder: Path) -> None:
    """Milliseconds of PyTorch FP16 for one tile, eager and as a CUDA graph, for every preset."""
    import torch

    import mirnet_edge as me

    torch.backends.cudnn.benchmark = True
    times = {}
    for preset in PRESETS:
        network = me.create_model(preset, seed=0).cuda().half()
        tile = torch.rand(1, 3, TILE, TILE, device="cuda", dtype=torch.half)
        with torch.inference_mode():
            eager = _timed(lambda network=network, tile=tile: network(tile))
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                network(tile)
            times[preset] = {"eager_fp16_ms": eager, "graph_fp16_ms": _timed(graph.replay)}
        print(preset, times[preset], flush=True)
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
    found = {"times": times, "versions": versions, "device": torch.cuda.get_device_name()}
    (folder / "torch.json").write_text(json.dumps(found, indent=1))


def _timed(run: Any, runs: int = 50) -> float:
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


def build(folder: Path, case: str, level: int | None) -> None:
    """One engine and its card."""
    from mirnet_edge.build import build_engine

    name, precision = CASES[case]
    onnx = graph_of(folder, name)
    if precision == "int8":
        onnx = quantized(folder, name, onnx)
    started = time.monotonic()
    card = build_engine(
        onnx,
        folder / f"{case}.engine",
        precision=precision,  # type: ignore[arg-type]
        tile=TILE,
        optimization_level=level,
        rewrite="plain" not in case,
        force=True,
    )
    seconds = time.monotonic() - started
    print(
        f"{case}: built in {card.build_seconds:.0f} of {seconds:.0f} s, {card.measured}, "
        f"{card.layers_by_precision()}, {card.notes}",
        flush=True,
    )


def measure(folder: Path, case: str) -> None:
    """Times of an engine that has the GPU to itself, and its PSNR on the five crops."""
    from mirnet_edge.trt.engine import TensorRTEngine

    name, _ = CASES[case]
    engine = TensorRTEngine(folder / f"{case}.engine")
    card = engine.card
    assert card is not None
    with np.load(folder / "photos.npz") as stored:
        tiles, clean = stored["tiles"], stored["clean"]
    outputs = np.concatenate([engine.run(tile[None]).copy() for tile in tiles])
    enqueue_ms, graph_ms = engine.measure(200)
    by_layer = engine.layer_times()
    engine.close()
    reference = np.load(folder / f"{name}.reference.npy")
    found = {
        "case": case,
        "enqueue_ms": median(enqueue_ms),
        "graph_ms": median(graph_ms) if graph_ms else None,
        "card": asdict(replace(card, layers=())),
        "layers_by_precision": card.layers_by_precision(),
        "bytes_moved": card.bytes_moved,
        "layers": len(card.layers),
        "psnr_vs_fp32_db": [_psnr(a, b) for a, b in zip(outputs, reference)],
        "ms_by_kind": _by_kind(card, by_layer),
    }
    if name == BUNDLED:
        found["task_psnr_db"] = {
            "engine": [_psnr(a.clip(0, 1), b, 1.0) for a, b in zip(outputs, clean)],
            "fp32": [_psnr(a.clip(0, 1), b, 1.0) for a, b in zip(reference, clean)],
        }
    (folder / f"{case}.json").write_text(json.dumps(found, indent=1))
    print(
        f"{case}: graph {found['graph_ms']} ms, enqueue {found['enqueue_ms']} ms, "
        f"{card.bytes_moved / 1e9:.2f} GB, {len(card.layers)} layers, at least "
        f"{min(found['psnr_vs_fp32_db']):.1f} dB; {json.dumps(found['ms_by_kind'])}",
        flush=True,
    )


def task(folder: Path, images: Path, case: str) -> None:
    """Mean PSNR of the restored images of a folder, noise of `SIGMA` added, in tiles with a halo of
    16 pixels; ``case`` is an engine, or the bundled network on the portable engine in FP32."""
    from mirnet_edge.images import read_image
    from mirnet_edge.metrics import psnr
    from mirnet_edge.restore import Restorer
    from mirnet_edge.tasks import add_gaussian_noise, unit_range

    built = folder / f"{case}.engine"
    scores = []
    with Restorer(built if built.exists() else BUNDLED, tile=TILE) as restore:
        for seed, path in enumerate(sorted(images.iterdir())):
            pixels = read_image(path).pixels
            restored = restore(add_gaussian_noise(pixels, SIGMA, seed))
            scores.append(psnr(restored, unit_range(pixels)))
    found = {"images": len(scores), "sigma": SIGMA, "psnr_db": float(np.mean(scores))}
    (folder / f"{case}.task.json").write_text(json.dumps(found))
    print(case, found, flush=True)


def quantized(folder: Path, name: str, onnx: Path) -> Path:
    """The graph with Q/DQ pairs: by the plan for the trained network; for random weights, which
    have no accuracy to lose, with every candidate in INT8."""
    from mirnet_edge.graphs import load_graph, with_shape
    from mirnet_edge.quantize import quantize_onnx
    from mirnet_edge.quantize.qdq import candidates, insert_qdq
    from mirnet_edge.ranges import collect_ranges
    from mirnet_edge.rewrite import rewrite

    path = folder / f"{name}.int8.onnx"
    if path.exists():
        return path
    if name == BUNDLED:
        quantize_onnx(onnx, path, tile=(TILE, TILE))
        return path
    proto = rewrite(with_shape(load_graph(onnx), 1, TILE, TILE), "tensorrt")[0]
    proto = with_shape(proto, 1, TILE, TILE)
    tiles = np.load(folder / "photos.npz")["tiles"][:1]
    ranges = collect_ranges(proto, tiles, "minmax")
    path.write_bytes(insert_qdq(proto, ranges, candidates(proto)).SerializeToString())
    return path


def _psnr(found: np.ndarray, expected: np.ndarray, peak: float | None = None) -> float:
    """In dB; of the expected values' range where no peak is given."""
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    return float(10 * np.log10((peak or np.ptp(expected)) ** 2 / error))


def _by_kind(card: Any, by_layer: dict[str, float]) -> dict[str, list[float]]:
    """Number, milliseconds and gigabytes of the layers of each kind, slowest first."""
    kinds: dict[str, list[float]] = {}
    for layer in card.layers:
        entry = kinds.setdefault(f"{layer.kind} {layer.precision}", [0, 0.0, 0.0])
        entry[0] += 1
        entry[1] += by_layer.get(layer.name, 0.0)
        entry[2] += layer.bytes_moved / 1e9
    return dict(sorted(kinds.items(), key=lambda item: -item[1][1]))


def record(folder: Path, result: Path) -> None:
    """One file of all that was measured in ``folder``."""
    engines = [json.loads(path.read_text()) for path in sorted(folder.glob("*-*.json"))
               if path.stem in CASES]  # fmt: skip
    tasks = {path.name.partition(".")[0]: json.loads(path.read_text())
             for path in sorted(folder.glob("*.task.json"))}  # fmt: skip
    peer = json.loads((folder / "torch.json").read_text())
    python = platform.python_version()
    result.write_text(
        json.dumps({"python": python, "torch": peer, "engines": engines, "tasks": tasks}, indent=1)
    )


def main(step: str, folder: Path, *rest: str) -> None:
    if step == "prepare":
        prepare(folder, list(rest))
    elif step == "torch":
        measure_torch(folder)
    elif step == "build":
        level = int(rest[0]) if rest[0].isdigit() else None
        for case in rest[1:] if level is not None else rest:
            build(folder, case, level)
    elif step == "measure":
        for case in rest:
            measure(folder, case)
    elif step == "task":
        for case in rest[1:]:
            task(folder, Path(rest[0]), case)
    elif step == "record":
        record(folder, Path(rest[0]))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
