"""One measurement in a process of its own, so that no peer's idle threads slow another.

python benchmarks/peers.py PEER SIZE RUNS        prints the seconds of each run as JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from mirnet_edge.bundled import bundled_model

MODEL = "edge-s-denoise"
WARM_UP = 2
PEERS = ("portable", "torch-eager", "torch-eager-channels-last")


def measure(peer: str, size: int, runs: int) -> list[float]:
    """Seconds of each of ``runs`` runs of ``peer`` on one ``size`` x ``size`` tile."""
    command = [sys.executable, __file__, peer, str(size), str(runs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds: list[float] = json.loads(done.stdout)
    return seconds


def _runner(peer: str, tiles: np.ndarray) -> Callable[[], object]:
    bundled = bundled_model(MODEL)
    assert bundled is not None
    if peer == "portable":
        from mirnet_edge.engines.onnx_engine import OnnxEngine

        engine = OnnxEngine(bundled.onnx, provider="CPUExecutionProvider")
        return lambda: engine.run(tiles)
    import torch

    from mirnet_edge.model.checkpoints import load_model
    from mirnet_edge.system import usable_cores

    torch.set_num_threads(usable_cores())
    network = load_model(bundled.weights)
    image = torch.from_numpy(tiles)
    if peer == "torch-eager-channels-last":
        network = network.to(memory_format=torch.channels_last)
        image = image.to(memory_format=torch.channels_last)

    def run() -> object:
        with torch.inference_mode():
            return network(image)

    return run


def main(peer: str, size: int, runs: int) -> None:
    tiles = np.random.default_rng(0).random((1, 3, size, size), np.float32)
    run = _runner(peer, tiles)
    for _ in range(WARM_UP):
        run()
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    json.dump(seconds, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
