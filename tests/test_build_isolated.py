"""What runs beside the package: only what it means, for no longer than allowed, removing only what
it made."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from build_sandbox import Sandbox
from command_line import ENVIRONMENT

from mirnet_edge._files import PACKAGE
from mirnet_edge.build import process
from mirnet_edge.cuda import compiler
from mirnet_edge.errors import BuildError, DeviceError

PLANTED = "open({0!r}, 'w').close(); raise SystemExit('planted code ran')"


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    found = Sandbox(tmp_path, monkeypatch, own_process=True)
    found.release("10.3.0")
    return found


def plant(folder: Path) -> Path:
    """Modules that a build imports, and what says that one of them ran."""
    ran = folder / "ran"
    for name in ("json", "re", "numpy", "mirnet_edge", "tensorrt"):
        (folder / f"{name}.py").write_text(PLANTED.format(str(ran)))
    return ran


@pytest.mark.parametrize("how", ["folder", "empty entry", "relative entry", "variable"])
def test_a_build_imports_nothing_from_where_it_happens_to_be(
    how: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "downloads"
    here.mkdir()
    ran = plant(here)
    monkeypatch.chdir(here)
    if how == "variable":
        monkeypatch.setenv("PYTHONPATH", str(here))
    elif how != "folder":
        monkeypatch.setattr(sys, "path", ["" if how == "empty entry" else ".", *sys.path])
    sandbox.build()
    assert not ran.exists()
    assert sandbox.is_whole()


def started(folder: Path) -> subprocess.CompletedProcess[str]:
    """A build process without a parent."""
    return subprocess.run(
        [sys.executable, "-I", "-c", process._START, str(folder), str(PACKAGE.parent)],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_folder_without_a_request_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("photo.png", "below/photo.png", process.PLAN):
        (tmp_path / name).write_bytes(b"mine")
    assert started(tmp_path).returncode != 0
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3


WITHOUT_A_PARENT = """
import sys
from pathlib import Path
from mirnet_edge.build import worker
worker._end_with_parent(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("others", [["photo.png"], []], ids=["mine is there", "nothing else"])
def test_a_process_without_a_parent_removes_what_it_made_and_no_more(
    others: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in (*others, *process.FILES):
        (folder / name).write_bytes(b"mine")
    subprocess.run(
        [sys.executable, "-c", WITHOUT_A_PARENT, str(folder)],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert folder.exists() == bool(others)
    assert [path.name for path in folder.glob("*")] == others


def test_a_build_that_hangs_is_ended(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.fault("slow")
    monkeypatch.setenv("MIRNET_EDGE_MAX_BUILD_SECONDS", "3")
    before = time.monotonic()
    with pytest.raises(BuildError, match=r"ended after 3 s; .* MIRNET_EDGE_MAX_BUILD_SECONDS"):
        sandbox.build()
    assert time.monotonic() - before < 60


def test_a_compiler_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\nexec sleep 60\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("MIRNET_EDGE_MAX_COMPILE_SECONDS", "1")
    made = compiler.Compiler("nvcc", partial(compiler._run_nvcc, str(nvcc)))
    with pytest.raises(DeviceError, match=r"ended after 1 s; .* MIRNET_EDGE_MAX_COMPILE_SECONDS"):
        made.compile(tmp_path / "a.cu", "sm_87")
