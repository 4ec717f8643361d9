"""A live view through a model that is too slow for its source: 30 s of 720p at 30 frames a second.

python benchmarks/live.py benchmarks/results/live.json

The source is like a camera: a frame is there when its time has come, and carries its number.
Latency is from that moment to the restored frame in the hands of who looks at the view, so it holds
all queues. Beside it is what the same frame took alone in its `Restorer`, and how much is between
them. Needs the extra live.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cpuinfo
import numpy as np
import psutil

from mirnet_edge._files import atomic_path
from mirnet_edge.host.path import HostPath
from mirnet_edge.live.feed import LiveSource, wandering_photo
from mirnet_edge.live.settings import Settings
from mirnet_edge.live.view import LiveView
from mirnet_edge.system import usable_cores

MODEL, SIZE, RATE, SECONDS, SETTLED_S = "edge-s-denoise", (720, 1280), 30.0, 30.0, 10.0
PICTURES, PERCENTILES = 16, (50, 90, 100)


class LikeACamera:
    """Gives a frame when its time has come, its number in its first pixels."""

    def __init__(self) -> None:
        wandering = wandering_photo(SIZE)
        self._pictures = [next(wandering) for _ in range(PICTURES)]
        self.began_s = 0.0

    def frames(self) -> Iterator[np.ndarray]:
        self.began_s = time.monotonic()
        for number in range(round(RATE * SECONDS)):
            time.sleep(max(0.0, self.due_s(number) - time.monotonic()))
            frame = self._pictures[number % PICTURES].copy()
            frame[0, :2, 0] = divmod(number, 256)
            yield frame
        time.sleep(3600)  # whoever looks ends it

    def due_s(self, number: int) -> float:
        return self.began_s + number / RATE


def number_of(frame: np.ndarray) -> int:
    high, low = frame[0, :2, 0].tolist()
    return int(256 * high + low)


class Timed:
    """Notes how long each frame is in the way of a `Restorer`, by its number."""

    def __init__(self) -> None:
        self.took_ms: dict[int, float] = {}
        submit = HostPath.submit

        def timed(path: HostPath, frame: Any, *arguments: Any, **options: Any) -> Any:
            began_s = time.monotonic()
            restored = submit(path, frame, *arguments, **options)
            self.took_ms[number_of(frame)] = 1000 * (time.monotonic() - began_s)
            return restored

        HostPath.submit = timed  # type: ignore[method-assign]


def measure() -> dict[str, Any]:
    camera, process, timed = LikeACamera(), psutil.Process(), Timed()
    source = LiveSource("like a camera", camera.frames, RATE, is_paced=False)
    latency_ms, model_ms, memory = [], [], {}  # type: ignore[var-annotated]
    with (
        tempfile.TemporaryDirectory() as folder,
        LiveView(source, Settings(MODEL), {MODEL: MODEL}, Path(folder), timeout_s=3600) as view,
    ):
        shown = -1
        while not camera.began_s or time.monotonic() < camera.began_s + SECONDS:
            pair = view.newest(shown, timeout_s=1.0)
            now_s = time.monotonic()
            if pair is None or not pair.is_restored:
                continue
            shown = pair.number
            number = number_of(pair.before)
            latency_ms.append(1000 * (now_s - camera.due_s(number)))
            model_ms.append(timed.took_ms[number])
            memory.setdefault(int((now_s - camera.began_s) // SETTLED_S), process.memory_info().rss)
        frames = view.state()["frames"]
    between_ms = np.subtract(latency_ms, model_ms)
    return {
        "frames": frames,
        "shown": len(latency_ms),
        "percentiles": PERCENTILES,
        "latency_ms": np.percentile(latency_ms, PERCENTILES).round(1).tolist(),
        "model_ms": np.percentile(model_ms, PERCENTILES).round(1).tolist(),
        "between_ms": np.percentile(between_ms, PERCENTILES).round(1).tolist(),
        "grown_bytes": memory[max(memory)] - memory[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("record", type=Path)
    record = parser.parse_args().record
    found = {
        "cpu": cpuinfo.get_cpu_info()["brand_raw"],
        "usable_cores": usable_cores(),
        "busy_cores_before": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("mirnet-edge", "onnxruntime")},
        "model": MODEL,
        "size": SIZE,
        "rate": RATE,
        "seconds": SECONDS,
        **measure(),
    }
    print(found, file=sys.stderr)
    with atomic_path(record) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
