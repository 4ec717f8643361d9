"""Frames through a TensorRT engine on the GPU at hand: what all but the engine costs, how much of
it overlaps, whether memory and latency stay flat, and how near tiles come to the frame.

python benchmarks/device.py FOLDER RESULT.json [STEP ...]

Engines of the bundled `edge-s-denoise` are built in FOLDER where they are not there yet.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import mirnet_edge as me
from mirnet_edge.bundled import PHOTO
from mirnet_edge.cuda import open_device
from mirnet_edge.frames.images import read_image
from mirnet_edge.metrics import psnr
from mirnet_edge.pooling.passes import MODES

SIZE_1080P, SIZE_720P = (1080, 1920), (720, 1280)
MANY = 10_000
BLOCK = 1000


MODEL = "edge-s-denoise"
ENGINES: dict[str, dict[str, Any]] = {
    "fp16": {"statistics": True},
    "fp32": {"statistics": True, "precision": "fp32"},
    "b4": {"batch": 4},
    "720p": {"tile": SIZE_720P},
}
"""Options of `build_engine`, by the name of the engine."""


def engine_of(folder: Path, name: str) -> Path:
    """An engine, built where it is not there."""
    path = folder / f"{MODEL}-{name}.engine"
    me.build_engine(MODEL, path, optimization_level=1, **ENGINES[name])
    return path


def noisy_frame(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: the bundled photo, mirrored to fill the frame."""
    photo = read_image(PHOTO).pixels
    pads = [(0, max(0, side - have)) for side, have in zip(size, photo.shape)]
    frame = np.pad(photo, (*pads, (0, 0)), mode="symmetric")[: size[0], : size[1]]
    noise = np.random.default_rng(seed).normal(0, 2, frame.shape)
    return np.asarray((frame + noise).clip(0, 255), np.uint8)


def overhead(engine: Path, frame: np.ndarray, frames: int) -> dict[str, Any]:
    """One frame at a time, then as a stream, beside the engine alone."""
    with me.Restorer(engine) as restore:
        out = np.empty_like(frame)
        for _ in range(3):
            restore(frame, out=out)
        for _ in range(frames):
            restore(frame, out=out)
        latency, tiles = restore.latency(), restore.timings.tiles
        began = time.perf_counter()
        count = sum(1 for _ in restore.stream(frame for _ in range(frames)))
        stream_ms = 1000 * (time.perf_counter() - began) / count
        _, graph_ms = restore.engine.measure(100)
    alone_ms = float(np.median(graph_ms)) * -(-tiles // restore.engine.batch)
    parts = ("upload", "pre", "post", "download")
    others_ms = sum(getattr(latency, part).p50 for part in parts)
    return {
        "frame": list(frame.shape),
        "tiles": tiles,
        "engine_alone_ms": alone_ms,
        "latency_ms": asdict(latency),
        "all_but_the_engine_ms": others_ms,
        "share_of_engine": others_ms / alone_ms,
        "stream_ms_per_frame": stream_ms,
        "stream_rate_of_engine": alone_ms / stream_ms,
    }


def modes(engine: Path, frame: np.ndarray, frames: int) -> dict[str, Any]:
    """Milliseconds a frame of a still stream, and passes, with each kind of statistics; and the
    batch of the apply and the gather engine beside the plain one."""
    found: dict[str, Any] = {}
    for mode in MODES:
        with me.Restorer(engine, halo=32, statistics=mode) as restore:
            out = np.empty_like(frame)
            for _ in range(9):
                restore(frame, out=out)
            began = time.perf_counter()
            for _ in range(frames):
                restore(frame, out=out)
            spent_ms = 1000 * (time.perf_counter() - began) / frames
            found[mode] = {
                "ms": spent_ms,
                "tiles": restore.timings.tiles,
                "passes": restore.timings.passes,
                "samples": restore.timings.samples,
            }
    for kind in ("", ".apply", ".gather"):
        path = engine.with_name(f"{engine.stem}{kind}.engine")
        with me.TensorRTEngine(path) as one:
            enqueue_ms, graph_ms = one.measure(200)
            card = one.card
        found[f"batch{kind}"] = {
            "enqueue_ms": float(np.median(enqueue_ms)),
            "graph_ms": float(np.median(graph_ms)),
            "layers": len(card.layers) if card else None,
            "bytes_moved": card.bytes_moved if card else None,
        }
    return found


def agreement(engine: Path, frame: np.ndarray) -> dict[str, Any]:
    """How far a float32 frame that the device restored is from the same of the portable engine in
    FP32, for each kind of statistics; and how far from that with exact statistics of the frame."""
    results: dict[str, dict[str, np.ndarray]] = {"device": {}, "portable": {}}
    for mode in MODES:
        with me.Restorer(engine, halo=32, statistics=mode) as restore:
            for _ in range(3):
                results["device"][mode] = np.array(restore(frame))
        with me.Restorer(MODEL, tile=256, halo=32, statistics=mode) as restore:
            for _ in range(3):
                results["portable"][mode] = np.array(restore(frame))
    exact = results["portable"]["frame"]
    return {
        "frame": list(frame.shape),
        "device_against_portable": {
            mode: distance(results["device"][mode], results["portable"][mode]) for mode in MODES
        },
        "against_exact": {
            name: {mode: distance(found, exact) for mode, found in restored.items()}
            for name, restored in results.items()
        },
    }


def distance(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Between frames of float32 in [0, 1]."""
    error = np.abs(found.astype(np.float64) - expected)
    return {
        "psnr_db": psnr(found, expected),
        "rms": float(np.sqrt(np.mean(error**2))),
        "p99.9": float(np.quantile(error, 0.999)),
        "largest": float(error.max()),
    }


def many(engine: Path) -> dict[str, Any]:
    """Latency and memory of `MANY` frames of 720p, in blocks."""
    frame = np.random.default_rng(0).integers(0, 256, (*SIZE_720P, 3), np.uint8)
    device, process = open_device(), psutil.Process()
    blocks: list[dict[str, float]] = []

    def frames() -> Iterator[np.ndarray]:
        for _ in range(MANY):
            yield frame

    with me.Restorer(engine, halo=0) as restore, restore.stream(frames()) as stream:
        began = time.perf_counter()
        for index, _ in enumerate(stream.frames()):
            if (index + 1) % BLOCK == 0:
                gc.collect()
                latency = restore.latency()
                blocks.append(
                    {
                        "frames": index + 1,
                        "seconds": time.perf_counter() - began,
                        "p50_ms": latency.total.p50,
                        "p99_ms": latency.total.p99,
                        "device_used_bytes": device.memory()[1] - device.memory()[0],
                        "host_bytes": process.memory_info().rss,
                    }
                )
    return {"frames": MANY, "blocks": blocks}


def main(folder: str, result: str, *only: str) -> None:
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    hd, small = noisy_frame(SIZE_1080P), np.float32(noisy_frame((481, 640))) / 255
    steps = {
        "overhead_1080p": lambda: overhead(engine_of(path, "fp16"), hd, 20),
        "overhead_1080p_batch_4": lambda: overhead(engine_of(path, "b4"), hd, 20),
        "modes_1080p": lambda: modes(engine_of(path, "fp16"), hd, 4),
        "agreement": lambda: agreement(engine_of(path, "fp16"), small),
        "agreement_fp32": lambda: agreement(engine_of(path, "fp32"), small),
        "many_720p": lambda: many(engine_of(path, "720p")),
    }
    card = me.EngineCard.load(f"{engine_of(path, 'fp16')}.json")
    found["versions"], found["device"] = card.versions, card.device
    for name in only or steps:
        began = time.perf_counter()
        try:
            found[name] = steps[name]()
        except me.MirnetEdgeError as error:
            found[name] = {"error": str(error)}
        print(
            name, f"{time.perf_counter() - began:.0f} s", json.dumps(found[name])[:1500], flush=True
        )
        Path(result).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
