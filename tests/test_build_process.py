"""The build process: what it answers, how it ends, and what is left when anything is killed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from build_sandbox import Sandbox
from command_line import ENVIRONMENT
from fake_tensorrt import make_plan, write_plan

from mirnet_edge._files import file_sha256
from mirnet_edge.build.process import SAID, BuildRequest
from mirnet_edge.engines.card import EngineCard, card_path
from mirnet_edge.errors import BuildError, DeviceError, DeviceMemoryError

TESTS = Path(__file__).parent
SOON_S = 10.0


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    return Sandbox(tmp_path, monkeypatch, own_process=True)


def engines(sandbox: Sandbox) -> set[str]:
    """What a build has left, but for timings."""
    return {name for name in sandbox.left() if not name.endswith(".timing_cache")}


def wait_until(condition: object) -> bool:
    """Whether a function is soon true."""
    deadline = time.monotonic() + SOON_S
    assert callable(condition)
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def test_a_build_in_its_own_process(sandbox: Sandbox) -> None:
    sandbox.release("10.3.0")
    card = sandbox.build()
    assert engines(sandbox) == {"net.engine", "net.engine.json"}
    assert sandbox.is_whole()
    assert card.strongly_typed
    assert ("Building engine", 3, 3) in sandbox.events
    assert psutil.Process().children() == []


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("driver", DeviceError, "driver is too old"),
        ("memory", DeviceMemoryError, "memory does not suffice"),
    ],
)
def test_errors_keep_their_kind_and_text(
    fault: str, kind: type[Exception], said: str, sandbox: Sandbox
) -> None:
    sandbox.fault(fault)
    with pytest.raises(kind, match=said) as caught:
        sandbox.build()
    assert type(caught.value) is kind
    assert engines(sandbox) == set()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("crash", r"ended with SIGSEGV"),
        ("killed", r"SIGKILL.*memory is short"),
        ("exit", r"exit code 7.*out of ideas"),
    ],
)
def test_a_process_that_dies_is_an_error(fault: str, said: str, sandbox: Sandbox) -> None:
    sandbox.fault(fault)
    with pytest.raises(BuildError, match=said):
        sandbox.build()
    assert engines(sandbox) == set()


def test_ctrl_c_ends_the_build_at_once(sandbox: Sandbox) -> None:
    sandbox.fault("slow")
    before = time.monotonic()

    def interrupt(phase: str) -> None:
        if phase == "building":
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    sandbox.on_event = interrupt
    with pytest.raises(KeyboardInterrupt):
        sandbox.build()
    assert time.monotonic() - before < SOON_S
    assert psutil.Process().children() == []
    assert engines(sandbox) == set()


def test_a_killed_build_process_leaves_nothing(sandbox: Sandbox) -> None:
    sandbox.fault("slow")

    def kill(phase: str) -> None:
        if phase == "building":
            for child in psutil.Process().children():
                child.kill()

    sandbox.on_event = kill
    with pytest.raises(BuildError, match="SIGKILL"):
        sandbox.build()
    assert engines(sandbox) == set()


KILLED_IN_PHASE = """
import os, signal, sys
from pathlib import Path
import pytest
from build_sandbox import Sandbox
def run(folder, until):
    sandbox = Sandbox(folder, pytest.MonkeyPatch(), own_process=True)
    sandbox.release("10.3.0")
    sandbox.on_event = lambda phase: phase == until and os.kill(os.getpid(), signal.SIGKILL)
    sandbox.build()
"""
KILLED_IN_PLACE = """
import os, signal, sys
from pathlib import Path
from mirnet_edge.build.job import place
from mirnet_edge.engines.card import EngineCard
def run(folder, most):
    card, steps = EngineCard.load(folder / "new.json"), 0
    def watched(function):
        def step(*arguments, **options):
            nonlocal steps
            steps += 1
            if steps > int(most):
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return step
    for name in ("unlink", "replace", "write_text"):
        setattr(Path, name, watched(getattr(Path, name)))
    place(folder / "new.plan", folder / "net.engine", card)
"""
# One process loads all they need, and each of its children is killed once.
EACH = """
for name in sys.argv[2:]:
    if not (child := os.fork()):
        run(Path(sys.argv[1]) / name, name)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def killed(code: str, folder: Path, names: Sequence[str]) -> dict[str, int]:
    """How processes end that run code in the folders of these names there, each told its name."""
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{TESTS}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
    done = subprocess.run(
        [sys.executable, "-u", "-c", code + EACH, str(folder), *names],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return dict(zip(names, map(int, done.stdout.split()), strict=True))


def survivors(folder: Path) -> list[psutil.Process]:
    """Build processes that work in the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if "build.worker" in line and str(folder) in line:
            found.append(process)
    return found


@pytest.mark.parametrize(
    "phases",
    [
        ("building", "FP32 reference"),
        pytest.param(("Building engine", "measuring"), marks=pytest.mark.slow),
    ],
)
def test_killed_while_building(phases: tuple[str, ...], tmp_path: Path) -> None:
    for phase in phases:
        (tmp_path / phase).mkdir()
    assert killed(KILLED_IN_PHASE, tmp_path, phases) == dict.fromkeys(phases, -signal.SIGKILL)
    assert wait_until(lambda: not survivors(tmp_path)), "the build went on without its parent"
    for phase in phases:
        folder = tmp_path / phase
        assert not (folder / "net.engine").exists()
        assert not (folder / "net.engine.json").exists()
        if phase == "FP32 reference":  # the build process has ended, and nobody is left to clean
            continue
        hidden = [path for path in folder.iterdir() if path.name.startswith(".net")]
        assert wait_until(lambda left=hidden: not any(path.exists() for path in left))


@pytest.fixture(scope="module")
def two_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine with its card, and another plan with the card it will have."""
    folder = tmp_path_factory.mktemp("two")
    old = write_plan(folder)
    (folder / "new.plan").write_bytes(plan := make_plan(activation_bytes=1))
    changes = {"engine_sha256": hashlib.sha256(plan).hexdigest(), "precision": "int8"}
    dataclasses.replace(EngineCard.load(card_path(old)), **changes).save(folder / "new.json")
    old.rename(folder / "net.engine")
    card_path(old).rename(folder / "net.engine.json")
    return folder


def test_killed_while_replacing_an_engine(two_engines: Path, tmp_path: Path) -> None:
    """After each step of moving engine and card into place."""
    names = [str(steps) for steps in range(6)]
    for name in names:
        shutil.copytree(two_engines, tmp_path / name)
    ended = killed(KILLED_IN_PLACE, tmp_path, names)
    assert list(ended.values()) == [-signal.SIGKILL] * 5 + [0], "each step was tried"
    for name, code in ended.items():
        engine = tmp_path / name / "net.engine"
        if engine.exists():
            card = EngineCard.load(card_path(engine))
            assert card.engine_sha256 == file_sha256(engine), "an engine beside the card of another"
            assert card.precision == ("int8" if code == 0 else "fp32")
        assert engine.exists() == (name == "0" or code == 0), name


def test_requests_survive_the_way(tmp_path: Path) -> None:
    request = BuildRequest("int8", ["a/b"], ["c"], ["input"], 2**30, 3, "x.timing_cache")
    request.save(tmp_path)
    assert BuildRequest.load(tmp_path) == request


def test_what_libraries_print_is_no_event(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.fault("exit")
    with pytest.raises(BuildError, match="out of ideas"):
        sandbox.build()
    assert not list(tmp_path.rglob(SAID))
