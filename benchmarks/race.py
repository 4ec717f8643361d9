"""All peers on all networks and shapes: one run, one record.

python benchmarks/race.py FOLDER RECORD [options]

FOLDER has the graphs of `networks.py`. Each peer runs in a process of its own, on one GPU that no
other process has meanwhile; of several GPUs each takes the next peer in line, those that matter
most first. What is not done after --minutes is ended, and is a row that says so. PyTorch and
TensorRT may live in two Pythons (--torch-python, --tensorrt-python). A second run with the same
FOLDER and --keep goes on with what the first did not measure.

    python benchmarks/race.py build/gpu record.json --networks edge-s edge-m --minutes 9 \\
        --gpus 0 1 2 3 --tensorrt-python /opt/tensorrt/bin/python
    python benchmarks/race.py build/cpu record.json --device cpu --shapes 1x512x512
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import gpu_state
from networks import NETWORKS

from mirnet_edge._files import atomic_path

HERE = Path(__file__).resolve().parent
SCHEMA = 1
SHAPES = {"cuda": ("1x1088x1920", "1x256x256", "4x256x256"), "cpu": ("1x512x512",)}
PEERS = {
    "cuda": ("ours", "torch-max-autotune", "torch-graph", "tensorrt", "torch-compile",
             "torch-eager", "onnxruntime-cuda", "onnxruntime-tensorrt"),
    "cpu": ("portable", "openvino", "torch-eager", "torch-compile"),
}  # fmt: skip
"""Those that matter most first."""
SLOW = ("ours", "tensorrt", "torch-compile", "torch-max-autotune")
"""Peers of which a form takes minutes to build or compile."""
LAST_WORDS = 3


@dataclass(frozen=True)
class Job:
    """A peer on a network and a shape."""

    peer: str
    network: str
    shape: str

    @property
    def name(self) -> str:
        """Of its record."""
        return f"{self.network}.{self.peer}.{self.shape}"


class Race:
    """Jobs in a line, and what runs them until the time is over."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.folder = given, given.folder.resolve()
        self.ends = time.monotonic() + 60 * given.minutes
        self.line: SimpleQueue[Job] = SimpleQueue()
        for peer in given.peers or PEERS[given.device]:
            for network in given.networks:
                for shape in given.shapes or SHAPES[given.device]:
                    job = Job(peer, network, shape)
                    if not any("wall_ms" in row for row in self._record(job)["rows"]):
                        self._path(job).unlink(missing_ok=True)
                        self.line.put(job)

    def run(self) -> None:
        """All jobs, one after another on each GPU."""
        threads = [threading.Thread(target=self._take, args=(gpu,)) for gpu in self.given.gpus]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _take(self, gpu: str) -> None:
        while True:
            try:
                job = self.line.get_nowait()
            except Empty:
                return
            began = time.monotonic()
            error = self._run(job, gpu)
            if error is not None:
                self._note(job, error)
            print(f"{job.name} on GPU {gpu}: {time.monotonic() - began:.0f} s", flush=True)
            print("".join(f"    {line}\n" for line in self._lines(job)), end="", flush=True)

    def _run(self, job: Job, gpu: str) -> str | None:
        """Run a job; why it did not end well, if it did not."""
        given, left = self.given, self.ends - time.monotonic()
        if left <= 0:
            return f"not run: the {given.minutes:g} minutes of the race were over"
        python = given.torch_python if job.peer.startswith("torch") else given.tensorrt_python
        forms = given.slow_forms if job.peer in SLOW else given.forms
        command = [python, str(HERE / "peers.py"), job.peer, job.network, job.shape,
                   str(self.folder), "--device", given.device, "--forms", str(forms)]  # fmt: skip
        paths = (str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", ""))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        if given.device == "cuda":
            environment |= gpu_state.visible(gpu)  # which is asked for clocks and power too
        try:
            done = subprocess.run(
                command, env=environment, timeout=left, stderr=subprocess.PIPE, text=True
            )
        except subprocess.TimeoutExpired:
            return f"ended after the {given.minutes:g} minutes of the race"
        except OSError as error:
            return f"{python} does not start: {error.strerror}"
        if done.returncode:
            words = " | ".join(done.stderr.strip().splitlines()[-LAST_WORDS:])
            return f"the process ended with {done.returncode}: {words}"[:500]
        return None

    def _path(self, job: Job) -> Path:
        return self.folder / "rows" / f"{job.name}.json"

    def _record(self, job: Job) -> dict[str, Any]:
        path, (batch, height, width) = self._path(job), map(int, job.shape.split("x"))
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        shape = [batch, height, width]
        return {"peer": job.peer, "network": job.network, "shape": shape, "rows": []}

    def _note(self, job: Job, error: str) -> None:
        """Add to the rows of a job, which it may have begun, how it ended."""
        record, path = self._record(job), self._path(job)
        record["rows"].append({"form": "", "error": error})
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def _lines(self, job: Job) -> list[str]:
        """What is there of a job, for whoever watches."""
        lines = []
        for row in self._record(job)["rows"]:
            times = {key: row[key]["p50"] for key in row if key.endswith("_ms") and row[key]}
            said = row.get("error") or ", ".join(f"{key} {ms:.3f}" for key, ms in times.items())
            lines.append(f"{row['form']}: {said}")
        return lines


def record_of(folder: Path) -> dict[str, Any]:
    """Everything that lies in FOLDER/rows, as one record."""
    found = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((folder / "rows").glob("*.json"))
    ]
    return {"schema": SCHEMA, "races": found}


def main(arguments: list[str] | None = None) -> None:
    """Run what the arguments say, or those of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("record", type=Path)
    parser.add_argument("--device", choices=list(PEERS), default="cuda")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--shapes", nargs="+", help="batch x height x width")
    parser.add_argument("--peers", nargs="+")
    parser.add_argument("--gpus", nargs="+", default=["0"], help="as CUDA_VISIBLE_DEVICES has them")
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--tensorrt-python", default=sys.executable)
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--forms", type=int, default=99, help="of each peer, at most")
    parser.add_argument("--slow-forms", type=int, default=1, help=f"of {', '.join(SLOW)}")
    parser.add_argument("--keep", action="store_true", help="what an earlier run measured")
    given = parser.parse_args(arguments)
    if not given.keep:
        shutil.rmtree(given.folder / "rows", ignore_errors=True)
    try:
        Race(given).run()
    finally:
        with atomic_path(given.record) as temporary:
            temporary.write_text(
                json.dumps(record_of(given.folder), indent=1) + "\n", encoding="utf-8"
            )


if __name__ == "__main__":
    main()
