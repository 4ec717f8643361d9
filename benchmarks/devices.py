"""How many frames a second a stream has on one GPU, and on several.

python benchmarks/devices.py devices.json --model edge-s-denoise --devices 0,1

Frames of the host, 1920x1080 RGB in uint8, go through `Restorer.stream` and are thrown away: as
many GPUs as there are, one after another, then all together. Each stream warms up until its engines
are compiled and captured, then runs for some seconds; in turn, `ROUNDS` times, as clocks move. The
gain is of the medians. Beside it, what each GPU did, and the time that the host takes to copy a
frame, which all GPUs share.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import gpu_state
import numpy as np

import mirnet_edge as me
from mirnet_edge._files import atomic_path
from mirnet_edge.engines.gpu_there import asked_devices
from mirnet_edge.system import usable_cores

WANTED = 1.9
ROUNDS = 3
WARM_UP_FRAMES = 30
"""Of each GPU."""
FRAMES = 16
"""Different ones, which come round: more than are in flight."""


def random_frames(height: int, width: int) -> list[np.ndarray]:
    """A ramp with noise, so that no two tiles are alike."""
    random = np.random.default_rng(0)
    ramp = np.linspace(16, 176, width, dtype=np.float32)[None, :, None]
    shape = (FRAMES, height, width, 3)
    return list((64 * random.random(shape, np.float32) + ramp).astype(np.uint8))


def rate_of(restore: me.Restorer, frames: list[np.ndarray], seconds: float) -> dict[str, Any]:
    """Frames a second of one stream, and of each GPU in it."""
    warm_up = WARM_UP_FRAMES * len(restore.engines)
    with restore.stream(cycle(frames), queue=8) as stream:
        for _ in range(warm_up):
            next(stream)
        before = [work.frames for work in restore.devices]
        began_s, count, spent_s = time.perf_counter(), 0, 0.0
        while spent_s < seconds:
            next(stream)
            count, spent_s = count + 1, time.perf_counter() - began_s
        each = {work.index: work.frames - was for work, was in zip(restore.devices, before)}
    return {"frames_per_second": count / spent_s, "frames": count, "of_each": each}


def copies_ms(frame: np.ndarray) -> float:
    """Median time of a copy of a frame on the host."""
    target, taken = np.empty_like(frame), []
    for _ in range(50):
        began_s = time.perf_counter()
        np.copyto(target, frame)
        taken.append(1000 * (time.perf_counter() - began_s))
    return statistics.median(taken)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    numbers = asked_devices(arguments.devices)
    if len(numbers) < 2:
        sys.exit(f"GPUs {list(numbers)}: need two; mirnet-edge doctor lists them")
    width, height = arguments.frame
    frames = random_frames(height, width)
    options: dict[str, Any] = {
        "frame_size": (height, width),
        "statistics": arguments.statistics,
        "halo": arguments.halo,
    }
    if arguments.noise is not None:
        options["noise"] = arguments.noise if arguments.noise == "auto" else float(arguments.noise)
    ways = [[number] for number in numbers] + [list(numbers)]
    found: dict[str, list[dict[str, Any]]] = {str(way): [] for way in ways}
    with ExitStack() as ends:
        # All at once, as compiling takes a minute; those that wait do nothing.
        opened = [
            ends.enter_context(me.Restorer(arguments.model, devices=way, **options)) for way in ways
        ]
        for number in range(ROUNDS):
            for way, restore in zip(ways, opened):
                runs = rate_of(restore, frames, arguments.seconds)
                found[str(way)].append(runs)
                rate = runs["frames_per_second"]
                print(f"round {number + 1}, GPUs {way}: {rate:.2f} frames/s {runs['of_each']}")
        timings = opened[-1].timings
        names = {work.index: work.name for work in opened[-1].devices}
    rates = {
        way: statistics.median(run["frames_per_second"] for run in runs)
        for way, runs in found.items()
    }
    together, alone = rates[str(list(numbers))], [rates[str([number])] for number in numbers]
    return {
        "model": str(arguments.model),
        "frame": [width, height],
        "options": {name: str(value) for name, value in options.items()},
        "tiles": timings.tiles,
        "precision": timings.precision,
        "noise": timings.noise,
        "gpus": names,
        "state": gpu_state.facts(),
        "cores": usable_cores(),
        "versions": {
            name: str(sys.modules[name].__version__)
            for name in ("mirnet_edge", "numpy", "torch", "tensorrt")
            if name in sys.modules
        },
        "copy_ms": copies_ms(frames[0]),
        "runs": found,
        "frames_per_second": rates,
        "gain": together / statistics.mean(alone),
        "wanted": WANTED * len(numbers) / 2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--model", default="edge-s-denoise", help="or an .engine, or a checkpoint")
    parser.add_argument("--devices", type=read_devices, default="all", help="0,1; all by default")
    parser.add_argument("--frame", type=read_size, default=(1920, 1080), help="1920x1080")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each stream")
    parser.add_argument("--statistics", default="tile")
    parser.add_argument("--halo", type=int, default=16)
    parser.add_argument("--noise", help="a level, or auto, for a model that is told one")
    arguments = parser.parse_args()
    measured = measure(arguments)
    with atomic_path(arguments.record) as file:
        file.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(f"{measured['gain']:.3f} times the mean of one; wanted {measured['wanted']:.2f}")


def read_devices(text: str) -> Any:
    return text if text == "all" else [int(number) for number in text.split(",")]


def read_size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


if __name__ == "__main__":
    main()
