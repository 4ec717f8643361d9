"""``mirnet-edge restore`` in a process of its own: permissions, full disks, Ctrl-C, terminals."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import COMMAND, ENVIRONMENT, finish, start
from restoring import Restored, load, names, noise, save

OBEY_PERMISSIONS = """
import ctypes
drop_from_bounding_set, dac_override = 24, 1
if os.geteuid() == 0 and ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0):
    sys.exit("root may write anywhere here, and may not give that up")
"""
SMALL_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))
"""
HEED_CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
"""


@pytest.fixture
def read_only(tmp_path: Path) -> Path:
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o555)
    touched = finish(start(["touch", folder / "x"], OBEY_PERMISSIONS))
    if touched.code == 0 or "root may" in touched.err:
        pytest.skip(touched.err or "permissions of folders are not enforced here")
    return folder


def test_read_only_folder_is_refused(read_only: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "a.png")
    command = [*COMMAND, "restore", source, "-m", tiny_onnx, "-o", read_only]
    assert str(read_only) in finish(start(command, OBEY_PERMISSIONS)).only_error
    assert names(tmp_path) == ["a.png"]


def test_full_disk_leaves_nothing_behind(tiny_onnx: Path, tmp_path: Path) -> None:
    sources = [f"a.{suffix}" for suffix in ("bmp", "jpg", "png", "tif", "webp")]
    for name in sources:
        save(tmp_path / name, noise(200, 300, 3))
    save(tmp_path / "small.png")
    command = [*COMMAND, "restore", tmp_path, "-m", tiny_onnx, "--json"]
    outcome = Restored(**vars(finish(start(command, SMALL_FILES))))
    assert outcome.code == 1
    assert names(tmp_path) == [*sources, "small.png", "small_restored.png"]
    for name, error in zip(sources, outcome.errors, strict=True):
        target = tmp_path / f"a_restored{Path(name).suffix}"
        assert error.startswith(f"cannot write {target}: no space left")
    assert [result.get("error") for result in outcome.json] == [*outcome.errors, None]


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_interruption_leaves_whole_files_only(
    options: list[str], tiny_onnx: Path, tmp_path: Path
) -> None:
    size, count = (256, 256), 30
    source = save(tmp_path / "00.png", noise(*size, 3))
    for index in range(1, count):
        shutil.copy(source, tmp_path / f"{index:02}.png")
    command = [*COMMAND, "restore", tmp_path, "-m", tiny_onnx, "--threads", "1", *options]
    process = start(command, HEED_CTRL_C, start_new_session=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()  # the file is done, and the run goes on
        assert first.startswith(f'{{"input": "{source}"' if options else f"{source} -> "), first
        os.killpg(process.pid, signal.SIGINT)
        outcome = Restored(**vars(finish(process)))
        outcome = replace(outcome, out=first + outcome.out)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert outcome.code == 130, outcome
    results = sorted(tmp_path.glob("*_restored.png"))
    assert 1 <= len(results) < count
    assert [path.name for path in results] == [f"{i:02}_restored.png" for i in range(len(results))]
    for path in results:
        assert load(path).shape == (*size, 3)
    left_over = set(tmp_path.iterdir()) - {tmp_path / f"{index:02}.png" for index in range(count)}
    assert left_over == set(results)
    (error,) = outcome.errors
    done = len(outcome.json) if options else len(outcome.out.splitlines()) - 1
    assert done in (len(results), len(results) - 1), "written, and interrupted before it was said"
    assert f"interrupted; {done} of {count} were restored" in error
    assert "--skip-existing" in error
    if options:
        assert outcome.summary["interrupted"]
        assert outcome.summary["restored"] == done
    else:
        assert outcome.out.splitlines()[-1] == f"{done} of {count} restored"


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_terminal_gets_its_cursor_back(options: list[str], tiny_onnx: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "a.png")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "restore", "-m", tiny_onnx, source, *options],
        env={**ENVIRONMENT, "TERM": "xterm"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = _drain(ours)
    assert process.wait(timeout=60) == 0, shown
    assert ("restoring" in shown) == (not options)
    assert shown.rfind("\x1b[?25h") >= shown.rfind("\x1b[?25l"), f"cursor left hidden: {shown!r}"


@pytest.mark.parametrize("piped", [True, False], ids=["pipe", "terminal"])
def test_results_are_lines_beside_the_bar(piped: bool, tiny_onnx: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name)
    (tmp_path / "c.png").write_text("hello")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "restore", "-m", tiny_onnx, "a.png", "b.png", "c.png"],
        cwd=tmp_path,
        env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE if piped else theirs,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    shown = _drain(ours)
    results = process.communicate(timeout=60)[0] or shown
    assert process.returncode == 1, shown
    assert "restoring" in shown
    erased = "" if piped else "\x1b[2K"
    for name in ("a", "b"):
        assert f"{erased}{name}.png -> {name}_restored.png " in results
    assert ("a_restored.png" in shown) == (not piped)
    assert "\x1b[2K\x1b[1;31merror: \x1b[0mc.png: " in shown
    assert "2 of 3 restored" in results


def _drain(descriptor: int) -> str:
    """All that is written to the other end of a pseudoterminal until it is closed."""
    received = b""
    try:
        while block := os.read(descriptor, 4096):
            received += block
    except OSError:  # Linux: EIO once the other end is closed and all is read
        pass
    finally:
        os.close(descriptor)
    return received.decode()
