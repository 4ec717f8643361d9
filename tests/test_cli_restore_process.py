"""``mirnet-edge restore`` in a process of its own: permissions, full disks, Ctrl-C, terminals."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_line import COMMAND, ENVIRONMENT, finish, start
from restoring import load, names, noise, save

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


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_full_disk_leaves_nothing_behind(suffix: str, tiny_onnx: Path, tmp_path: Path) -> None:
    save(tmp_path / f"a.{suffix}", noise(200, 300, 3))
    save(tmp_path / "small.png")
    command = [*COMMAND, "restore", tmp_path, "-m", tiny_onnx, "--json"]
    outcome = finish(start(command, SMALL_FILES))
    assert outcome.code == 1
    assert names(tmp_path) == [f"a.{suffix}", "small.png", "small_restored.png"]
    (error,) = outcome.errors
    assert error.startswith(f"cannot write {tmp_path / f'a_restored.{suffix}'}: no space left")
    assert [result.get("error") for result in outcome.json] == [error, None]


def test_interruption_leaves_whole_files_only(tmp_path: Path) -> None:
    size, count = (512, 512), 8
    source = save(tmp_path / "0.png", noise(*size, 3))
    for index in range(1, count):
        shutil.copy(source, tmp_path / f"{index}.png")
    command = [*COMMAND, "restore", tmp_path, "--threads", "1"]
    process = start(command, HEED_CTRL_C, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "0_restored.png").exists() and process.poll() is None:
            assert time.monotonic() < deadline, "no result within a minute"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        outcome = finish(process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert (outcome.code, outcome.out) == (130, ""), outcome
    assert "interrupted" in outcome.errors[0]
    results = sorted(tmp_path.glob("*_restored.png"))
    assert 1 <= len(results) < count
    assert [path.name for path in results] == [f"{i}_restored.png" for i in range(len(results))]
    for path in results:
        assert load(path).shape == (*size, 3)
    left_over = set(tmp_path.iterdir()) - {tmp_path / f"{index}.png" for index in range(count)}
    assert left_over == set(results)


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
