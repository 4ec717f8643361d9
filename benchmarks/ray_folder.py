"""A folder of photos on a Ray cluster of this machine, beside one process: how fast, and what
becomes of it where workers are killed and a node is added. Some minutes.

    python benchmarks/ray_folder.py benchmarks/results/ray.json

Two workers of one thread stand beside one process of two. The rate is between the first and the
last file, without what is done once: a cluster takes seconds to start.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

from mirnet_edge._files import atomic_path
from mirnet_edge.bundled import PHOTO
from mirnet_edge.frames.images import read_image, write_image
from mirnet_edge.system import cpu_name, usable_cores

COMMAND = [sys.executable, "-m", "mirnet_edge", "restore"]
SETTINGS = ["--tile", "128", "--json"]
# Ray gives its workers less of the processor than others get, which is no matter of how well they
# do; on a machine that does something else, too, it would be measured.
ENVIRONMENT = {**os.environ, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}


def make_photos(folder: Path, count: int, side: int) -> None:
    """Pieces of the bundled photo, each another, of about ``side`` pixels."""
    photo = read_image(PHOTO).pixels
    random = np.random.Generator(np.random.PCG64(0))
    folder.mkdir()
    for number in range(count):
        height, width = side - number % 7, side + number % 5
        top = random.integers(photo.shape[0] - height)
        left = random.integers(photo.shape[1] - width)
        write_image(folder / f"{number:04}.png", photo[top : top + height, left : left + width])


def run(arguments: list[str], after: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Run the command, and call ``after`` with how many files are done, at each."""
    began_s, times, names = time.monotonic(), [], []
    with subprocess.Popen(
        [*COMMAND, *arguments, *SETTINGS], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if "input" in told:
                times.append(time.monotonic())
                names.append(told["input"])
                after(len(names))
    return {
        "code": process.returncode,
        "summary": told["summary"],
        "twice": len(names) - len(set(names)),
        "all_s": round(time.monotonic() - began_s, 2),
        "files_per_s": round((len(times) - 1) / (times[-1] - times[0]), 3),
    }


def hashes(folder: Path) -> dict[str, str]:
    """Of all that is in a folder, what is hidden included."""
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def workers() -> list[psutil.Process]:
    """Processes of Ray's workers that are ours."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [""])[0].startswith("ray::Worker")
    ]


def killed(photos: Path, output: Path, kills: int, count: int) -> dict[str, Any]:
    """A run in which a worker is killed now and then."""
    pids: list[int] = []
    due = [round((number + 0.5) * count / kills) for number in range(kills)]

    def after(done: int) -> None:
        while due and done >= due[0] and (there := workers()):
            due.pop(0)
            pids.append(there[done % len(there)].pid)
            os.kill(pids[-1], signal.SIGKILL)

    found = run([str(photos), "-o", f"{output}/", "--ray", "local", "--workers", "2"], after)
    return {**found, "killed": len(pids), "processes": len(set(pids))}


def node_added(photos: Path, output: Path, count: int) -> dict[str, Any]:
    """A run on a cluster of one node, to which another is added after a quarter of the files."""
    from ray.cluster_utils import Cluster

    from mirnet_edge.ray import restore_files

    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    seen: dict[int, set[int]] = {1: set(), 2: set()}
    nodes, adding = [1], threading.Lock()

    def progress(done: float, _: int) -> None:
        seen[nodes[0]] |= {process.pid for process in workers()}
        if done >= count // 4 and nodes[0] == 1 and adding.acquire(blocking=False):
            cluster.add_node(**node)
            nodes[0] = 2

    try:
        report = restore_files(
            photos, f"{output}/", address=cluster.address, tile=128, progress=progress
        )
    finally:
        cluster.shutdown()
    return {
        "restored": len(report.restored),
        "failed": report.failed,
        "workers_before": len(seen[1]),
        "workers_after": len(seen[2]),
    }


def rates(folder: Path, side: int, photos: Path, repeats: int) -> dict[str, Any]:
    """Both ways by turns, so that what else this machine does weighs on both."""
    found: dict[str, list[dict[str, Any]]] = {}
    ways = {"one process": ["--threads", "2"], "two workers": ["--ray", "local", "--workers", "2"]}
    for number in range(repeats):
        for way, more in ways.items():
            output = folder / f"{way} {side} {number}"
            found.setdefault(way, []).append(run([str(photos), "-o", f"{output}/", *more]))
            print(side, way, json.dumps(found[way][-1]), flush=True)
    expected, *others = (
        hashes(folder / f"{way} {side} {number}") for way in ways for number in range(repeats)
    )
    return {
        "side": side,
        "ways": {
            way: {key: median(one[key] for one in runs) for key in ("files_per_s", "all_s")}
            for way, runs in found.items()
        },
        "same_files": all(other == expected for other in others),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256], help="in pixels")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3, help="of the runs that are timed")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder, timed = Path(name), []
        for side in arguments.sides:
            photos = folder / f"photos {side}"
            make_photos(photos, arguments.photos, side)
            timed.append(rates(folder, side, photos, arguments.repeats))
        expected = hashes(folder / f"one process {side} 0")
        lost = killed(photos, folder / "killed", arguments.kills, arguments.photos)
        lost["same_files"] = hashes(folder / "killed") == expected
        added = node_added(photos, folder / "added", arguments.photos)
        added["same_files"] = hashes(folder / "added") == expected
    written = {
        "cpu": cpu_name(),
        "usable_cores": usable_cores(),
        "versions": {package: version(package) for package in ("ray", "onnxruntime")},
        "photos": arguments.photos,
        "runs": arguments.repeats,
        "rates": timed,
        "killed": lost,
        "added": added,
    }
    print(json.dumps(written, indent=1))
    with atomic_path(arguments.record) as temporary:
        temporary.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
