"""The campaign: damaged files, odd arguments, kills, faults, frames without end, for as long as
asked.

``python tests/soak.py --minutes 5`` goes on where the last run ended, by the record that it writes:
seeds, counts, versions, and what went wrong. Inputs that did are kept in ``tests/corpus``, whence
the tests read them again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

import soak_kills
from soak_jobs import JOB

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
ARGUMENTS, FRAMES = "arguments", "frames"
KILLED = {f"kills of {name}": job for name, job in JOB.items()}
FAILED = {f"faults of {name}": job for name, job in JOB.items()}
REQUESTS, SERVICE, SERVICE_S = "requests", "service", 60.0
"""Of the service: requests at random, and 64 clients for so many seconds."""
BATCH, BATCH_S, INPUT_S, INPUT_BYTES = 100, 300.0, 10.0, 1 << 30
CHILD = (sys.executable, str(Path(__file__).resolve()), "--child")
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
PACKAGES = ("numpy", "onnxruntime", "pillow", "av", "torch", "onnx", "safetensors")
Record = dict[str, Any]


def fuzz(kind: str, seed: int, inputs: int, folder: Path) -> Record:
    """Feed one kind, in this process: how many were read and refused, and what went wrong."""
    if kind == REQUESTS:
        return fuzz_service(seed, inputs)
    import soak_inputs

    from mirnet_edge.errors import MirnetEdgeError

    found: Record = {"read": 0, "refused": 0, "violations": []}
    sample = soak_inputs.KINDS[kind].make() if kind != ARGUMENTS else b""
    for number in range(seed, seed + inputs):
        draw = random.Random(f"{kind} {number}")
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        wrong = ""
        try:
            if kind == ARGUMENTS:
                soak_inputs.call_oddly(draw, folder)
            else:
                path = folder / soak_inputs.KINDS[kind].name
                damaged = soak_inputs.mutated(sample, draw)
                path.write_bytes(soak_inputs.KINDS[kind].repair(damaged))
                soak_inputs.KINDS[kind].read(path)
            found["read"] += 1
        except MirnetEdgeError:
            found["refused"] += 1
        except Exception as error:
            wrong = f"{type(error).__name__}: {str(error)[:300]}"
        seconds = time.monotonic() - began
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        if seconds > INPUT_S or grown > INPUT_BYTES:
            wrong = wrong or f"took {seconds:.1f} s and {grown:,} bytes"
        if wrong:
            found["violations"].append({"kind": kind, "seed": number, "wrong": wrong})
            if kind != ARGUMENTS:
                keep(kind, (folder / soak_inputs.KINDS[kind].name).read_bytes())
    return found


def fuzz_service(seed: int, inputs: int) -> Record:
    """Send requests to the service."""
    import soak_requests

    try:
        return {**soak_requests.fuzz_requests(seed, inputs), "violations": []}
    except Exception as error:  # with the request, in Hypothesis's notes
        notes = "\n".join(getattr(error, "__notes__", ()))
        wrong = f"{type(error).__name__}: {str(error)[:300]}\n{notes[:1000]}"
        found = {"kind": REQUESTS, "seed": seed, "wrong": wrong}
        return {"read": 0, "refused": 0, "violations": [found]}


def keep(kind: str, content: bytes) -> None:
    """Let the corpus have an input, for the tests."""
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{kind}-{hashlib.sha256(content).hexdigest()[:16]}").write_bytes(content)


def fuzz_apart(kind: str, seed: int, inputs: int) -> Record:
    """`fuzz` in a process of its own, whose end in any way is found too; in a folder of its own, as
    a name among the arguments may become a file."""
    import soak_inputs

    with tempfile.TemporaryDirectory() as folder:
        command = [*CHILD, kind, str(seed), str(inputs), folder]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                timeout=BATCH_S,
            )
            if done.returncode == 0:
                found: Record = json.loads(done.stdout.splitlines()[-1])
                return found
            wrong = f"exit code {done.returncode}: {done.stderr[-300:]}"
        except subprocess.TimeoutExpired:
            wrong = f"more than {BATCH_S:g} s"
        if kind in soak_inputs.KINDS:
            for path in Path(folder).glob(soak_inputs.KINDS[kind].name):  # the last is still there
                keep(kind, path.read_bytes())
        return {
            "read": 0,
            "refused": 0,
            "violations": [{"kind": kind, "seed": seed, "wrong": wrong}],
        }


def fuzz_all(seed: int, inputs: int) -> list[Record]:
    """Feed every kind, in one process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*CHILD, "all", str(seed), str(inputs), folder]
        done = subprocess.run(
            command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=BATCH_S
        )
        if done.returncode:
            wrong = f"exit code {done.returncode}: {done.stderr[-1000:]}"
            return [{"violations": [{"kind": "all", "seed": seed, "wrong": wrong}]}]
        found: list[Record] = [json.loads(line) for line in done.stdout.splitlines()]
        return found


# Frames without end


def stream_frames(frames: int) -> Record:
    """Stream through an engine of no arithmetic: memory, descriptors, threads stay as they are."""
    import numpy as np
    import psutil

    import mirnet_edge as me

    process, frame = psutil.Process(), np.zeros((16, 16, 3), np.uint8)

    def held() -> tuple[int, int, int]:
        return process.memory_info().rss, process.num_fds(), process.num_threads()

    class Engine:
        def run(self, tiles: Any) -> Any:
            return tiles

    wrong: list[Record] = []
    with me.Restorer(Engine()) as restorer:
        source = (frame for _ in range(frames))
        for number, _ in enumerate(restorer.stream(source)):
            if number == frames // 5:
                before = held()
            if number == frames - 10:
                after = held()
    if after[0] > before[0] + (2 << 20) or after[1:] != before[1:]:
        wrong.append({"kind": "frames", "seed": 0, "wrong": f"held {before}, then {after}"})
    return {"frames": frames, "violations": wrong}


def load_service(seconds: float) -> Record:
    """Let 64 clients ask the service without a pause: nothing but answers and "come again", and
    memory as it was."""
    import serving
    import soak_service

    with serving.served_apart() as (address, process):
        found = soak_service.load(address, process.pid, seconds)
    wrong = [f"statuses {found.statuses}"] * (not {200, 503} >= found.statuses.keys())
    wrong += [f"grown by {found.grown_bytes:,}"] * (found.grown_bytes > 8 << 20)
    wrong += found.odd[:3]
    counts = {"answered": found.statuses[200], "come again": found.statuses[503]}
    return {**counts, "violations": [{"kind": "service", "seed": 0, "wrong": w} for w in wrong]}


def main() -> int:
    """Run for some minutes; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--record", type=Path, default=HERE.parent / "build" / "soak.json")
    parser.add_argument("--only", nargs="+", metavar="KIND", help="as the record calls them")
    parser.add_argument("--frames", type=int, default=50_000, help="of one turn without end")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, seed, inputs, folder = options.child
        import soak_inputs

        kinds = [*soak_inputs.KINDS, ARGUMENTS] if kind == "all" else [kind]
        for kind in kinds:
            print(json.dumps(fuzz(kind, int(seed), int(inputs), Path(folder))), flush=True)
        return 0
    sys.path.insert(0, str(HERE.parent))
    import soak_frames
    import soak_inputs

    from mirnet_edge._files import atomic_path

    record: Record = {"next_seed": {}, "counts": {}, "violations": []}
    if options.record.exists():
        record = json.loads(options.record.read_text("utf-8"))
    record["versions"] = {name: version(name) for name in PACKAGES}
    record["versions"]["python"] = platform.python_version()
    options.record.parent.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * options.minutes
    others = (ARGUMENTS, REQUESTS, *KILLED, *FAILED, FRAMES, SERVICE, *soak_frames.KINDS)
    kinds = [*soak_inputs.KINDS, *others]
    for kind in cycle(options.only or kinds):
        seed = record["next_seed"].get(kind, 0)
        if kind in KILLED:
            found, step = soak_kills.kill(job := KILLED[kind], seed, job.kills), 1
        elif kind in FAILED:
            found, step = soak_kills.fail(FAILED[kind], seed), 1
        elif kind == FRAMES:
            found, step = stream_frames(options.frames), 1
        elif kind in soak_frames.KINDS:
            found, step = soak_frames.in_campaign(kind), 1
        elif kind == SERVICE:
            found, step = load_service(SERVICE_S), 1
        else:
            found, step = fuzz_apart(kind, seed, BATCH), BATCH
        record["next_seed"][kind] = seed + step
        record["violations"] += found.pop("violations")
        counts = record["counts"].setdefault(kind, {})
        for name, count in found.items():
            counts[name] = counts.get(name, 0) + count
        with atomic_path(options.record) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        print(f"{kind}: {counts}, {len(record['violations'])} violations in all", flush=True)
        if time.monotonic() > ends:
            break
    return 1 if record["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
