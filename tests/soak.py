"""The campaign: damaged files, odd arguments, kills, frames without end, for as long as asked.

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
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
ARGUMENTS = "arguments"
REQUESTS, SERVICE_S = "requests", 60.0
"""Of the service: requests at random, and 64 clients for so many seconds."""
BATCH, BATCH_S, INPUT_S, INPUT_BYTES = 100, 300.0, 10.0, 1 << 30
CHILD = (sys.executable, str(Path(__file__).resolve()), "--child")
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
PACKAGES = ("numpy", "onnxruntime", "pillow", "torch", "onnx", "safetensors")
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
    """`fuzz` in a process of its own, whose end in any way is found too."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*CHILD, kind, str(seed), str(inputs), folder]
        try:
            # In the folder: odd arguments may name files.
            done = subprocess.run(
                command,
                env=ENVIRONMENT,
                cwd=folder,
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
        # The last input is still there.
        for path in filter(Path.is_file, Path(folder).iterdir()):
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
            command, env=ENVIRONMENT, cwd=folder, capture_output=True, text=True, timeout=BATCH_S
        )
        if done.returncode:
            wrong = f"exit code {done.returncode}: {done.stderr[-1000:]}"
            return [{"violations": [{"kind": "all", "seed": seed, "wrong": wrong}]}]
        found: list[Record] = [json.loads(line) for line in done.stdout.splitlines()]
        return found


# Kills

PICTURES = 8
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def kill_restores(seed: int, kills: int) -> Record:
    """Restore a folder of all kinds in runs that are ended at random moments; the last one is let
    alone, and what is then there is what an undisturbed run makes."""
    import soak_inputs

    draw = random.Random(f"kills {seed}")
    done, wrong = 0, []
    with tempfile.TemporaryDirectory() as name:
        given, once, again = (Path(name) / part for part in ("given", "once", "again"))
        soak_inputs.make_album(given, seed, PICTURES)
        base = [sys.executable, "-m", "mirnet_edge", "restore", str(given), "-r", "--compare"]
        base += ["--threads", "1", "--skip-existing"]
        subprocess.run([*base, "-o", f"{once}/"], env=ENVIRONMENT, capture_output=True, check=True)
        while done < kills:
            process = subprocess.Popen(
                [*base, "-o", f"{again}/"],
                env=ENVIRONMENT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            time.sleep(draw.uniform(0.3, 2.5))
            process.send_signal(draw.choice(SIGNALS))
            _, said = process.communicate(timeout=60)
            done += 1
            if "Traceback" in said:
                wrong.append({"kind": "kills", "seed": seed, "wrong": said[-300:]})
            if draw.random() < 0.3:  # from the start again
                subprocess.run([*base, "-o", f"{again}/"], env=ENVIRONMENT, capture_output=True)
                wrong += _differences(once, again, seed)
                shutil.rmtree(again)
        subprocess.run([*base, "-o", f"{again}/"], env=ENVIRONMENT, capture_output=True)
        wrong += _differences(once, again, seed)
    return {"kills": done, "violations": wrong}


def _differences(once: Path, again: Path, seed: int) -> list[Record]:
    contents = [
        {str(path.relative_to(way)): path.read_bytes() for path in way.rglob("*") if path.is_file()}
        for way in (once, again)
    ]
    if contents[0] == contents[1]:
        return []
    differ = {
        name for name in contents[0] | contents[1] if contents[0].get(name) != contents[1].get(name)
    }
    return [{"kind": "kills", "seed": seed, "wrong": f"differ: {sorted(differ)}"}]


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
    others = (ARGUMENTS, REQUESTS, "kills", "frames", "service", *soak_frames.KINDS)
    for kind in cycle([*soak_inputs.KINDS, *others]):
        seed = record["next_seed"].get(kind, 0)
        if kind == "kills":
            found, step = kill_restores(seed, 10), PICTURES
        elif kind == "frames":
            found, step = stream_frames(50_000), 1
        elif kind in soak_frames.KINDS:
            found, step = soak_frames.in_campaign(kind), 1
        elif kind == "service":
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
