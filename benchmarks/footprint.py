"""Peak memory of restoring one photo, beyond the interpreter and the input and output arrays.

python benchmarks/footprint.py HEIGHT WIDTH      prints megabytes and milliseconds as JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import mirnet_edge as me


def measure(height: int, width: int) -> dict[str, float]:
    """In a process of its own: ``megabytes`` at the peak, ``seconds`` of the call."""
    command = [sys.executable, __file__, str(height), str(width)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def main(height: int, width: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    out = np.zeros_like(frame)
    before = _status_mb("VmRSS:")
    with me.Restorer("edge-s-denoise") as restore:
        started = time.perf_counter()
        restore(frame, out=out)
        seconds = time.perf_counter() - started
        tiles = restore.timings.tiles
    megabytes = _status_mb("VmHWM:") - before
    json.dump({"megabytes": megabytes, "seconds": seconds, "tiles": tiles}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
