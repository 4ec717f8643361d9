"""The campaign's frames: through a real engine on the host or on a device, and in processes that
begin after a model was loaded. Memory, descriptors and threads stay as they are.

``python tests/soak_frames.py RECORD.json device --frames 100000`` (or ``portable``, ``processes``)
adds what it found to the record. On a device frames of 720p go through an engine as large as they
are, of a tiny network that is built beside the record, or ``--engine``; ``--minutes`` ends a run
earlier, and the next one adds to it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Record = dict[str, Any]

SIZE_720P = (720, 1280)
BLOCK = 1000  # frames from one look at what is held to the next
WARM_UP = 0.2  # of the frames, before what is held counts
GROWTH_BYTES = 2 << 20
PROCESS_S = 120.0
KINDS = ("portable", "processes")  # of the whole campaign; a device has hours of its own


def held() -> Record:
    """What this process has."""
    import psutil

    process = psutil.Process()
    return {
        "rss": process.memory_info().rss,
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
    }


def grown(looks: list[Record]) -> list[str]:
    """What is more at the last look than after the warm-up: bytes beyond `GROWTH_BYTES`."""
    if len(looks) < 3:
        return []
    first, last = looks[int(WARM_UP * (len(looks) - 1)) or 1], looks[-1]
    allowed = {"rss": GROWTH_BYTES}
    return [
        f"{name}: {first[name]:,}, then {last[name]:,}"
        for name in first
        if name != "frame" and last[name] > first[name] + allowed.get(name, 0)
    ]


def stream_through(
    restorer: Any,
    frames: list[Any],
    count: int,
    limit_s: float = float("inf"),
    look: Callable[[], Record] = held,
) -> Record:
    """Stream ``frames`` over and over, and compare every result of the first of them with the
    first result."""
    import numpy as np

    ends, looks, wrong = time.monotonic() + limit_s, [], []
    block = min(BLOCK, max(1, count // 20))
    expected: Any = None
    began = time.monotonic()
    done = nonfinite = 0

    def source() -> Iterator[Any]:
        for number in range(count):
            if time.monotonic() > ends:
                return
            yield frames[number % len(frames)]

    for number, restored in enumerate(restorer.stream(source())):
        done += 1
        nonfinite += restorer.timings.nonfinite
        if number % block == 0:
            looks.append({"frame": number, **look()})
        if number % len(frames) == 0 and number % block < len(frames):
            pixels = restored if isinstance(restored, np.ndarray) else restored.copy_to_host()
            expected = pixels.copy() if expected is None else expected
            if not np.array_equal(pixels, expected):
                wrong.append(f"frame {number} differs from the first, which is the same")
    looks.append({"frame": done, **look()})
    wrong += grown(looks[:-1])  # the last look is after the stream, whose threads have ended
    if nonfinite:
        wrong.append(f"{nonfinite:,} values were not finite")
    seconds = time.monotonic() - began
    return {
        "frames": done,
        "seconds": round(seconds, 1),
        "fps": round(done / seconds, 1),
        "held": [looks[0], looks[int(WARM_UP * (len(looks) - 2)) or 1], looks[-2], looks[-1]],
        "violations": wrong,
    }


def portable(frames: int = 20_000) -> Record:
    """Through ONNX Runtime, in tiles that fade into each other."""
    import numpy as np
    import onnx
    from edge_networks import edge_network

    import mirnet_edge as me

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "edge.onnx")
        onnx.save(edge_network(noise_level=True), path)
        options = {"tile": 48, "halo": 8, "blend": 4, "noise": 20, "threads": 1}
        with me.Restorer(path, provider="CPUExecutionProvider", **options) as restorer:
            given = [
                np.random.default_rng(seed).integers(0, 256, (54, 70, 3), np.uint8)
                for seed in range(7)
            ]
            return stream_through(restorer, given, frames)


def device(frames: int, limit_s: float, engine: Path | None, folder: Path, where: str) -> Record:
    """Through TensorRT: frames of the host, or of the device, where they then stay."""
    import numpy as np
    import onnx
    from edge_networks import edge_network

    import mirnet_edge as me
    from mirnet_edge.build import build_engine
    from mirnet_edge.cuda import open_device

    if engine is None:
        folder.mkdir(parents=True, exist_ok=True)
        engine = folder / "soak.engine"
        onnx.save(edge_network(), folder / "soak.onnx")
        quick = {"tile": SIZE_720P, "io": "float16", "optimization_level": 1}
        build_engine(folder / "soak.onnx", engine, precision="fp16", **quick)
    gpu = open_device()

    def look() -> Record:
        free, total = gpu.memory()
        return {**held(), "gpu_bytes": total - free}

    given: list[Any] = [
        np.random.default_rng(seed).integers(0, 256, (*SIZE_720P, 3), np.uint8) for seed in range(4)
    ]
    if where == "device":
        from device_frames import OnDevice

        given = [OnDevice(frame) for frame in given]
    options = {"nan": "zero", "timeout": 60.0, "frame_size": SIZE_720P}
    with me.Restorer(engine, **options) as restorer:
        found = stream_through(restorer, given, frames, limit_s, look)
        latency = restorer.latency()
    totals = latency.total
    found["total_ms"] = {"p50": totals.p50, "p90": totals.p90, "p99": totals.p99}
    return {**found, "engine": engine.name, "where": where, "gpu": gpu.facts.name}


STARTED = """
import multiprocessing, os, sys
import numpy as np
import mirnet_edge as me

MODEL, FRAME = sys.argv[1], np.random.default_rng(0).integers(0, 256, (54, 70, 3), np.uint8)

def restored(_=None):
    options = {"tile": 48, "halo": 8, "threads": 2, "provider": "CPUExecutionProvider"}
    with me.Restorer(MODEL, **options) as restorer:
        return restorer(FRAME).tobytes()

def told(_=None):
    try:
        loaded(FRAME)
    except me.EngineError as error:
        return "forked from it" in str(error)

if __name__ == "__main__":
    loaded = me.Restorer(MODEL, tile=48, halo=8, threads=2, provider="CPUExecutionProvider")
    expected = loaded(FRAME).tobytes()
    for number in range(int(sys.argv[2])):
        for method in ("fork", "spawn", "forkserver"):
            with multiprocessing.get_context(method).Pool(2) as pool:
                assert pool.map(restored, range(2), 1) == [expected] * 2, method
                if method == "fork":
                    assert pool.apply(told), "a loaded Restorer in a forked process"
        assert loaded(FRAME).tobytes() == expected, "after its children"
    loaded.close()
    print("as in one process", flush=True)
"""


def processes(rounds: int = 3) -> Record:
    """Processes that are forked, spawned, or forked from a server, after a model was loaded: each
    restores as this one does, with a Restorer of its own."""
    import onnx
    from edge_networks import edge_network

    with tempfile.TemporaryDirectory() as folder:
        path, script = Path(folder, "edge.onnx"), Path(folder, "started.py")
        onnx.save(edge_network(), path)
        script.write_text(STARTED, "utf-8")
        command = [sys.executable, "-W", "ignore", str(script), str(path), str(rounds)]
        places = os.pathsep.join([str(HERE.parent), str(HERE)])
        try:
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": places},
                capture_output=True,
                text=True,
                timeout=PROCESS_S,
            )
            said = "" if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr}"
        except subprocess.TimeoutExpired:
            said = f"a process hung for {PROCESS_S:g} s"
    return {"processes": 6 * rounds, "violations": [said[-600:]] if said else []}


def in_campaign(kind: str) -> Record:
    """One turn of a kind, as `soak` takes it."""
    found = portable(5000) if kind == "portable" else processes(1)
    wrong = [{"kind": kind, "seed": 0, "wrong": each} for each in found["violations"]]
    count = "frames" if kind == "portable" else "processes"
    return {count: found[count], "violations": wrong}


def main() -> int:
    """Run one kind and add it to the record; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("kind", choices=("portable", "device", "processes"))
    parser.add_argument("--frames", type=int, help="100000 on a device, else 20000")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--engine", type=Path, help="a plan of tiles of 720 x 1280")
    parser.add_argument("--where", choices=("host", "device"), default="host")
    options = parser.parse_args()
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    from mirnet_edge import __version__
    from mirnet_edge._files import atomic_path

    if options.kind == "device":
        count, limit_s = options.frames or 100_000, 60 * options.minutes
        folder = options.record.parent
        found = device(count, limit_s, options.engine, folder, options.where)
    else:
        found = portable(options.frames or 20_000) if options.kind == "portable" else processes()
    runs: list[Record] = []
    if options.record.exists():
        runs = json.loads(options.record.read_text("utf-8"))["runs"]
    versions = {"mirnet_edge": __version__, "python": platform.python_version()}
    runs.append({"kind": options.kind, **found, "versions": versions})
    options.record.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.record) as temporary:
        temporary.write_text(json.dumps({"runs": runs}, indent=1) + "\n", "utf-8")
    print(json.dumps(runs[-1], indent=1), flush=True)
    return 1 if found["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
