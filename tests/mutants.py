"""Mutants: one thing wrong at a time in the modules that must not be wrong, and whether the tests
that are there for them see it.

``python tests/mutants.py --count 200`` draws so many by a seed, as many of each module, after
those that lived once (`mutants_known.NAMED`). A survivor wants a test, or a reason in
`mutants_known.REASONS`. What was tried is kept in a record; a run goes on where the last one ended.

All tests are collected once. Each mutant is tried in a fork of that process, where the code of the
live functions is exchanged, by those of its module's tests that reach the line, the cheapest
first: a tenth of a second where a new process takes ten. What runs at import is not drawn.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import psutil
from mutants_known import REASONS, TESTS
from mutants_made import ROOT, Mutant, drawn_mutants, exchange, named_mutants

LEAST_LIMIT_S, SLOWER = 5.0, 6
"""A run is given these seconds, and so many times what its tests took without a mutant."""
STUCK_S = 20.0
CAUGHT, LIVED, ENDLESS = "caught", "lived", "endless"
UNREACHED, BROKEN = "not reached", "could not be tried"

# Running tests


class Hunt:
    """A plugin of pytest that, in place of running the tests once, tries mutants by them."""

    def __init__(self, mutants: list[Mutant], told: Callable[[Mutant, str], bool], dear_s: float):
        self._mutants, self._told, self._dear_s = mutants, told, dear_s
        self._folder = Path(tempfile.mkdtemp())

    def pytest_runtestloop(self, session: Any) -> bool:
        """Try all mutants; what is told of each says whether to go on."""
        # Made before the forks, so that they share what tests export and compile once.
        session.config._tmp_path_factory.getbasetemp()
        for module in dict.fromkeys(mutant.module for mutant in self._mutants):
            names = TESTS[module].split()
            items = [item for item in session.items if item.path.name in names]
            watched = self._folder / "watched.json"
            watch = _Watch(ROOT / "mirnet_edge" / module, watched, self._dear_s)
            self._forked(lambda items=items, watch=watch: watch.run(items), 1e9)  # type: ignore[misc]
            known = json.loads(watched.read_text("utf-8"))
            for name in known["failed"]:
                print(f"{module}: fails, or is too dear, without any mutant: {name}", flush=True)
            for mutant in (mutant for mutant in self._mutants if mutant.module == module):
                if not self._told(mutant, self._verdict(mutant, items, known)):
                    return True
        return True

    def _verdict(self, mutant: Mutant, items: list[Any], known: Any) -> str:
        times: dict[str, float] = known["times"]
        near = {name for line in mutant.lines for name in known["lines"].get(str(line), ())}
        near = {name for name in near if times.get(name, math.inf) <= self._dear_s}
        chosen = [item for item in items if item.nodeid in near]
        if not chosen:
            return UNREACHED
        chosen.sort(key=lambda item: times[item.nodeid])
        limit_s = LEAST_LIMIT_S + SLOWER * sum(times[name] for name in near)
        return self._forked(lambda: _run_wrong(mutant, chosen), limit_s)

    def _forked(self, work: Callable[[], int], limit_s: float) -> str:
        process = os.fork()
        if process == 0:
            code = 70
            try:
                os.setsid()
                log = os.open(self._folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(log, 1)
                os.dup2(log, 2)
                # ONNX Runtime's threads wait by spinning, which a busy machine cannot afford.
                os.sched_setaffinity(0, {random.choice(sorted(os.sched_getaffinity(0)))})
                signal.setitimer(signal.ITIMER_PROF, min(limit_s, 1e6))  # of processors' time
                code = work()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        return _outcome(process)


def _outcome(process: int) -> str:
    """Wait for a forked process; end it where it waits for ever."""
    taken_s, moved = 0.0, time.monotonic()
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return {0: LIVED, -signal.SIGPROF: ENDLESS, 70: BROKEN}.get(code, CAUGHT)
        with suppress(psutil.Error):
            first = psutil.Process(process)
            now_s = sum(sum(each.cpu_times()[:4]) for each in (first, *first.children(True)))
            if now_s > taken_s:
                taken_s, moved = now_s, time.monotonic()
        if time.monotonic() - moved > STUCK_S:
            break
        time.sleep(0.1)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return ENDLESS


def _run_wrong(mutant: Mutant, items: list[Any]) -> int:
    """In a forked process: run tests with a mutant until one fails."""
    if not exchange(mutant):
        raise LookupError(f"no live function of {mutant.module} is that of {mutant.said}")
    for item, after in zip_longest(items, items[1:]):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        if item.session.testsfailed:
            return 1
    return 0


class _Dear(Exception):
    """A test takes too long to be of use."""


class _Watch:
    """How long each test takes, and which lines of a module it reaches."""

    def __init__(self, module: Path, told: Path, dear_s: float) -> None:
        self._module, self._told, self._dear_s = module, told, dear_s

    def run(self, items: list[Any]) -> int:
        """In a forked process: run tests, and write down what was seen."""
        import coverage

        def stop(*_: object) -> None:
            raise _Dear

        signal.signal(signal.SIGPROF, stop)
        watch = coverage.Coverage(data_file=None, include=[str(self._module)], config_file=False)
        watch.start()
        times, failed = {}, []
        for item, after in zip_longest(items, items[1:]):
            watch.switch_context(item.nodeid)
            began_s, failures = time.process_time(), item.session.testsfailed
            signal.setitimer(signal.ITIMER_PROF, self._dear_s)
            with suppress(_Dear):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if item.session.testsfailed > failures or time.process_time() - began_s > self._dear_s:
                failed.append(item.nodeid)
            else:
                times[item.nodeid] = time.process_time() - began_s
        watch.stop()
        lines = watch.get_data().contexts_by_lineno(str(self._module))
        found = {"times": times, "lines": lines, "failed": failed}
        self._told.write_text(json.dumps(found), "utf-8")
        return 0


# The command


def main() -> int:
    """List survivors without a reason; 1 where there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="drawn in all, beside the named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="after which to stop")
    parser.add_argument("--dear", type=float, default=5.0, help="leave out tests of more seconds")
    parser.add_argument("--record", type=Path, default=ROOT / "build" / "mutants.json")
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    options = parser.parse_args()
    if importlib.util.find_spec("coverage") is None:
        parser.error("coverage is not installed; make mutants installs it")
    os.environ |= {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    ends = time.monotonic() + 60 * options.minutes
    record = json.loads(options.record.read_text("utf-8")) if options.record.exists() else {}
    options.record.parent.mkdir(parents=True, exist_ok=True)
    # The draw of a module is the same whichever others are asked for.
    mutants = [*named_mutants(), *drawn_mutants(options.modules, options.count, options.seed)]
    mutants = [mutant for mutant in mutants if mutant.module in options.modules]
    left = [mutant for mutant in mutants if key_of(mutant) not in record]

    def told(mutant: Mutant, found: str) -> bool:
        record[key_of(mutant)] = found
        print(f"{found}: {mutant.module}:{mutant.lines[0]}: {mutant.said}", flush=True)
        options.record.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        return time.monotonic() < ends

    if left:
        import pytest

        sys.path.insert(0, str(ROOT))  # before an installed one
        names = {name for mutant in left for name in TESTS[mutant.module].split()}
        files = [str(ROOT / "tests" / name) for name in sorted(names)]
        arguments = ["-s", "-q", "--no-header", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
        pytest.main([*arguments, *files], plugins=[Hunt(left, told, options.dear)])
    return report(mutants, record)


def report(mutants: list[Mutant], record: dict[str, str]) -> int:
    """Print what became of mutants."""
    found = [(mutant, record.get(key_of(mutant), "not tried")) for mutant in mutants]
    lived = [mutant for mutant, verdict in found if verdict in (LIVED, UNREACHED, BROKEN)]
    without = [mutant for mutant in lived if (mutant.module, mutant.said) not in REASONS]
    print("\nlived without a reason:" if without else "")
    for mutant in without:
        print(f"  {mutant.module}:{mutant.lines[0]}: {mutant.said}")
    counts = dict(Counter(verdict for _, verdict in found))
    print(f"{len(mutants)} mutants: {counts}; {len(without)} lived without a reason")
    return 1 if without else 0


def key_of(mutant: Mutant) -> str:
    """By what the record knows it: a changed module's are tried anew."""
    digest = hashlib.sha256(mutant.source.encode()).hexdigest()[:16]
    return f"{mutant.module} {mutant.said} {digest}"


if __name__ == "__main__":
    sys.exit(main())
