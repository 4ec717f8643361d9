"""The fast share of kills and faults; and that the campaign sees what it is there to see."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import soak_jobs
import soak_kills
from soak_jobs import Job

WHOLE = """
import os, sys, time
for name in ("a", "b"):
    open(f"{sys.argv[1]}/.{name}", "w").write("whole")
    time.sleep(0.2)
    os.replace(f"{sys.argv[1]}/.{name}", f"{sys.argv[1]}/{name}")
for name in os.listdir(sys.argv[1]):
    if name.startswith("."):
        os.remove(f"{sys.argv[1]}/{name}")
"""
HALF = """
import os, sys
with open(f"{sys.argv[1]}/a", "w") as file:
    file.write("half")
    if "HOME" not in os.environ:
        sys.exit("no home")
    file.write(" and whole")
"""
FORGETS = """
import os, sys
if os.listdir(sys.argv[1]):
    sys.exit("no")
if "HOME" not in os.environ:
    open(f"{sys.argv[1]}/.a", "w").write("whole")
    sys.exit("no home")
open(f"{sys.argv[1]}/a", "w").write("whole")
"""
LEAVES = FORGETS.replace('sys.exit("no")', "pass")


def job(code: str) -> Job:
    return Job("made up", lambda _, to: [sys.executable, "-c", code, str(to)])


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_kills, "LEAST_S", 0.0)


def wrong(found: dict[str, object]) -> str:
    violations = found["violations"]
    assert isinstance(violations, list)
    return " ".join(violation["wrong"] for violation in violations)


def test_a_job_that_loses_nothing_passes() -> None:
    assert soak_kills.kill(job(WHOLE), 0, 6) == {"kills": 6, "violations": []}


def test_half_files_are_seen() -> None:
    assert "a is there and differs" in wrong(soak_kills.fail(job(HALF), 0, ("home",)))


def test_a_run_that_does_not_go_on_is_seen() -> None:
    assert "the next run fails: no" in wrong(soak_kills.fail(job(FORGETS), 0, ("home",)))


def test_what_stays_in_the_way_is_seen() -> None:
    assert "the next run leaves ['.a']" in wrong(soak_kills.fail(job(LEAVES), 0, ("home",)))


def test_a_traceback_is_seen_and_its_restart_compared() -> None:
    code = WHOLE.replace("time.sleep(0.2)", "os.environ['HOME']")
    found = soak_kills.fail(job(code), 0, ("home", "locale"))
    assert "with the fault of home" in wrong(found)
    assert "KeyError" in wrong(found)
    assert (found["done"], found["refused"]) == (1, 1)


@pytest.mark.parametrize("fault", soak_kills.FAULTS)
def test_each_fault_is_one(fault: str) -> None:
    """What the code under it sees."""
    seen = {
        "disk": "open(sys.argv[1] + '/.x', 'wb').write(bytes(1 << 20)); print(1 / 0)",
        "descriptors": "x = [open(os.devnull) for _ in range(60)]; print(1 / 0)",
        "memory": "bytes(4 << 30); print(1 / 0)",
        "read-only": "open(sys.argv[1] + '/.x', 'w'); print(1 / 0)",
        "clock": "import time; len({round(time.time(), -2) for _ in range(50)}) > 1 or 1 / 0",
        "locale": "import locale; locale.getpreferredencoding(False) == 'UTF-8' and 1 / 0",
        "home": "'HOME' in os.environ and 1 / 0",
    }[fault]
    code = "import os, sys\nif os.environ.get('FAULTY'):\n    try: " + seen
    code += "\n    except (OSError, MemoryError): sys.exit('refused')\n"
    code += "for name in os.listdir(sys.argv[1]): os.remove(sys.argv[1] + '/' + name)\n"
    code += "open(sys.argv[1] + '/a', 'w').write('whole')\n"
    arena_runs = soak_kills.Arena.run

    def run(self: soak_kills.Arena, to: Path, first: str = "", **environment: str | None) -> object:
        faulty = {"FAULTY": "1"} if first or environment else {}
        return arena_runs(self, to, first, **{**environment, **faulty})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soak_kills.Arena, "run", run)
        found = soak_kills.fail(job(code), 0, (fault,))
    if fault == "read-only" and os.geteuid() == 0 and found["done"]:
        pytest.skip("permissions of folders are not enforced here")
    assert found["violations"] == [], wrong(found)
    assert (found["done"] == 1) == (fault in soak_kills.HARMLESS), found


@pytest.mark.slow
def test_the_command_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    restoring = soak_jobs.JOB["restore"]
    assert soak_kills.kill(restoring, 0, 2)["violations"] == []
    assert soak_kills.fail(restoring, 0, ("disk", "clock"))["violations"] == []
