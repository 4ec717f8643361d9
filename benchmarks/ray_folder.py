"""A folder of photos on a Ray cluster of this machine, beside one process: how fast, and what
becomes of it where workers are killed and a node is added. Some minutes; `docs/cluster.md` has what
came of it.

    python benchmarks/ray_folder.py --photos 200 --kills 10

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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

from mirnet_edge.bundled import PHOTO
from mirnet_edge.frames.images import read_image, write_image

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--side", type=int, default=128, help="of the photos, in pixels")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2, help="of the runs that are timed")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        photos = folder / "photos"
        make_photos(photos, arguments.photos, arguments.side)
        here = ["--threads", "2"]
        there = ["--ray", "local", "--workers", "2"]
        best: dict[str, dict[str, Any]] = {}
        # By turns, so that what else this machine does weighs on both.
        for number in range(arguments.repeats):
            for kind, more in (("one process", here), ("two workers", there)):
                found = run([str(photos), "-o", f"{folder / kind}{number}/", *more])
                print(kind, json.dumps(found), flush=True)
                best[kind] = max(best.get(kind, found), found, key=lambda one: one["files_per_s"])
        expected = hashes(folder / "one process0")
        rates = [best[kind]["files_per_s"] for kind in ("two workers", "one process")]
        print("rate of two workers to one process:", round(rates[0] / rates[1], 3))
        print("same files:", hashes(folder / "two workers0") == expected, flush=True)
        found = killed(photos, folder / "killed", arguments.kills, arguments.photos)
        print("killed", json.dumps(found), "same files:", hashes(folder / "killed") == expected)
        found = node_added(photos, folder / "added", arguments.photos)
        print("added", json.dumps(found), "same files:", hashes(folder / "added") == expected)


if __name__ == "__main__":
    main()
