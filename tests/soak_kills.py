"""Kills and faults of the campaign: every command that writes is ended at random moments, or runs
where disk, descriptors, memory, permissions, clock, locale or home fail it. What it leaves under a
final name is whole, and the next run ends with what an undisturbed one makes."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soak_jobs import JOB, Job

HERE = Path(__file__).parent
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDS_WITHIN_S, SLOWER = 120.0, 6
"""Seconds after which a run hangs, or so many times what an undisturbed one takes."""
LEAST_S = 0.2
Violation = dict[str, Any]


def environment_of(job: Job, **changes: str | None) -> dict[str, str]:
    """Of a process that runs a job; what is None is unset."""
    found = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"}
    found |= job.environment
    for name, value in changes.items():
        found.pop(name, None)
        if value is not None:
            found[name] = value
    return found


def contents(job: Job, folder: Path) -> dict[str, object]:
    """What a run has left under final names, by what each is compared by."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not any(part.startswith(".") for part in Path(name).parts):
            found[name] = job.weigh(path)
    return {name: weight for name, weight in found.items() if weight is not None}


def hidden(folder: Path) -> list[str]:
    """Temporary files that are there."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*") if path.is_file())


class Arena:
    """One job, what it reads, and what an undisturbed run of it makes."""

    def __init__(self, job: Job, folder: Path, seed: int) -> None:
        self.job, self.seed, self.violations = job, seed, []  # type: ignore[var-annotated]
        self.limit_s = 5 * ENDS_WITHIN_S
        self.given = folder / "given"
        self.given.mkdir()
        for make in job.reads:
            make(self.given, seed)
        self.again = folder / "again"
        once = folder / "once"
        once.mkdir()
        began = time.monotonic()
        done = self.run(once)
        self.takes_s = time.monotonic() - began
        if done.returncode:
            raise RuntimeError(f"{job.name} fails undisturbed: {done.stderr[-2000:]}")
        self.limit_s = max(ENDS_WITHIN_S, SLOWER * self.takes_s)
        self.once = contents(job, once)
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        shutil.rmtree(self.again, ignore_errors=True)
        self.again.mkdir()

    def start(self, to: Path, first: str = "", **environment: str | None) -> subprocess.Popen[str]:
        """Start the job, after Python code that fails it, or not."""
        launcher = f"import os, sys\n{first}\nos.execv(sys.argv[1], sys.argv[1:])"
        return subprocess.Popen(
            [sys.executable, "-c", launcher, *self.job.command(self.given, to)],
            env=environment_of(self.job, **environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, to: Path, first: str = "", **environment: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Run the job to its end."""
        process = self.start(to, first, **environment)
        try:
            _, said = process.communicate(timeout=self.limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
            self.tell(f"hung: {said[-300:]}")
        return subprocess.CompletedProcess(process.args, process.returncode, "", said)

    def tell(self, wrong: str) -> None:
        """Note a violation."""
        found = {"kind": f"kills of {self.job.name}", "seed": self.seed, "wrong": wrong}
        self.violations.append(found)

    def check_whole(self, when: str) -> None:
        """What is there under a final name is what an undisturbed run makes."""
        try:
            found = contents(self.job, self.again)
        except Exception as error:
            self.tell(f"{when}, {type(error).__name__}: {error}")
            return
        if self.job.grows:
            return
        for name, weight in found.items():
            if name in self.once and weight != self.once[name]:
                self.tell(f"{when}, {name} is there and differs")

    def check_restart(self, when: str) -> None:
        """The next run ends, with all that an undisturbed one makes and nothing beside."""
        done = self.run(self.again)
        if done.returncode:
            self.tell(f"{when}, the next run fails: {done.stderr[-500:]}")
            return
        found = contents(self.job, self.again)
        if found != self.once:
            names = {name for name in found | self.once if found.get(name) != self.once.get(name)}
            self.tell(f"{when}, the next run differs in {sorted(names)}")
        if left := hidden(self.again):
            self.tell(f"{when}, the next run leaves {left}")


def kill(job: Job, seed: int, kills: int) -> dict[str, Any]:
    """End a job at random moments, some of them one after another before it may finish."""
    draw = random.Random(f"kills {job.name} {seed}")
    with tempfile.TemporaryDirectory() as folder:
        arena = Arena(job, Path(folder), seed)
        for number in range(kills):
            process = arena.start(arena.again)
            time.sleep(draw.uniform(LEAST_S, 1.1 * arena.takes_s))
            process.send_signal(signal_sent := draw.choice(SIGNALS))
            when = f"after {signal_sent.name} number {number}"
            try:
                _, said = process.communicate(timeout=arena.limit_s)
            except subprocess.TimeoutExpired:
                process.kill()
                _, said = process.communicate()
                arena.tell(f"{when}, it went on")
            # Before any code of ours is asked, Python tells of Ctrl-C in its own way.
            if "Traceback" in said and "mirnet_edge" in said:
                arena.tell(f"{when}: {said[-500:]}")
            arena.check_whole(when)
            if draw.random() < 0.3 or number == kills - 1:
                arena.check_restart(when)
                arena.clear()
    return {"kills": kills, "violations": arena.violations}


# Faults

CLOCK = """
import random, time
_real, _draw = time.time, random.Random(0)
time.time = lambda: _real() + _draw.choice((-1e9, -3600, 0, 3600, 1e9))
"""
OBEY_PERMISSIONS = """
import ctypes
drop_from_bounding_set, dac_override = 24, 1
if os.geteuid() == 0:
    ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0)
"""


def _limit(name: str, value: int) -> str:
    return f"import resource; resource.setrlimit(resource.{name}, ({value}, {value}))"


@contextmanager
def fault(name: str, draw: random.Random, arena: Arena) -> Iterator[dict[str, Any]]:
    """What a fault makes of the arguments of `Arena.run`."""
    if name == "disk":
        sizes = [path.stat().st_size for path in arena.given.rglob("*") if path.is_file()]
        yield {"first": _limit("RLIMIT_FSIZE", draw.randrange(1, max(sizes, default=1 << 16)))}
    elif name == "descriptors":
        yield {"first": _limit("RLIMIT_NOFILE", draw.randrange(6, 50))}
    elif name == "memory":
        yield {"first": _limit("RLIMIT_AS", draw.randrange(200, 3000) << 20)}
    elif name == "read-only":
        arena.again.chmod(0o555)
        try:
            yield {"first": OBEY_PERMISSIONS}
        finally:
            arena.again.chmod(0o755)
    elif name == "clock":
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "sitecustomize.py").write_text(CLOCK, "utf-8")
            path = f"{folder}{os.pathsep}{environment_of(arena.job)['PYTHONPATH']}"
            yield {"PYTHONPATH": path}
    elif name == "locale":
        yield {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    else:
        yield {"HOME": None, "XDG_CACHE_HOME": None}


FAULTS = ("disk", "descriptors", "memory", "read-only", "clock", "locale", "home")
HARMLESS = ("clock", "locale", "home")
BEFORE_US = ("memory", "descriptors")
"""Faults that may end Python itself, or a library in C++, before any code of ours is asked."""


def fail(job: Job, seed: int, faults: tuple[str, ...] = FAULTS) -> dict[str, Any]:
    """Run a job under each fault: it is done, or says in one line why it is not; the next run ends
    as an undisturbed one does."""
    draw = random.Random(f"faults {job.name} {seed}")
    counts = {"done": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as folder:
        arena = Arena(job, Path(folder), seed)
        for kind in faults:
            with fault(kind, draw, arena) as given:
                done = arena.run(arena.again, **given)
            when = f"with the fault of {kind} ({given.get('first', '')[-40:]})"
            counts["done" if done.returncode == 0 else "refused"] += 1
            if done.returncode and kind in HARMLESS:
                arena.tell(f"{when}, it fails: {done.stderr[-500:]}")
            if done.returncode and kind not in BEFORE_US and "Traceback" in done.stderr:
                arena.tell(f"{when}: {done.stderr[-500:]}")
            arena.check_whole(when)
            arena.check_restart(when)
            arena.clear()
    return {**counts, "violations": arena.violations}


def main() -> int:
    """``python tests/soak_kills.py kill|fail JOB SEED [KILLS]``, for one alone."""
    what, name, seed, *rest = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    job = JOB[name]
    found = kill(job, int(seed), int(*rest)) if what == "kill" else fail(job, int(seed))
    print(json.dumps(found, indent=1))
    return 1 if found["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
