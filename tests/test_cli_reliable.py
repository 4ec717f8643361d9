"""No file ends a folder's run, no kill loses work, and no error is a traceback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, ENVIRONMENT, finish, start
from restoring import Restore, load, names, noise, save
from restoring import restore as restore
from soak_jobs import make_album

from mirnet_edge.cli import main

pictures = import_module("mirnet_edge.files.pictures")

# One bad file


def test_a_name_that_leaves_no_room_for_the_results_stops_nothing(
    restore: Restore, tmp_path: Path
) -> None:
    long = "n" * 243 + ".png"
    save(long)
    save("z.png")
    outcome = restore("*.png", "--json")
    assert outcome.code == 1
    assert ["error" in result for result in outcome.json] == [True, False]
    assert "name too long" in outcome.errors[0]
    assert load("z_restored.png").shape == (21, 34, 3)


def test_a_broken_exif_header_stops_nothing(restore: Restore) -> None:
    save("a.jpg", exif=b"Exif\0\0QQ\0\x2a" + bytes(12))
    save("b.jpg")
    outcome = restore("*.jpg", "--compare", "--json")
    assert (outcome.code, outcome.errors) == (0, [])
    assert load("a_compare.png").shape == (21, 72, 3)


def test_whatever_one_file_raises_the_others_are_restored(
    restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        save(name)
    read = pictures.read_picture

    def broken(path: Path, *more: object) -> object:
        if path.name == "b.png":
            raise TypeError("'NoneType' object is not subscriptable")
        return read(path, *more)

    monkeypatch.setattr(pictures, "read_picture", broken)
    outcome = restore("?.png", "--json")
    assert outcome.code == 1
    (error,) = outcome.errors
    assert error.startswith("b.png: unexpected TypeError at test_cli_reliable.py:")
    assert "please report it" in error
    assert "MIRNET_EDGE_TRACEBACK=1" in error
    assert ["error" in result for result in outcome.json] == [False, True, False]


def test_an_unexpected_error_is_one_line_and_the_rest_when_asked(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise LookupError("lost")

    monkeypatch.setattr("mirnet_edge.bundled.bundled_models", broken)
    assert main(["models"]) == 1
    assert len(capfd.readouterr().err.splitlines()) == 1
    monkeypatch.setenv("MIRNET_EDGE_TRACEBACK", "1")
    assert main(["models"]) == 1
    assert "Traceback" in capfd.readouterr().err


# Going on


@pytest.mark.parametrize("left", [b"", bytes(3000), "cut"], ids=["empty", "zeros", "cut"])
def test_a_damaged_result_counts_as_missing(left: bytes | str, restore: Restore) -> None:
    for name in ("a.png", "b.png"):
        save(name)
    assert restore("?.png", "--compare").code == 0
    whole = {path: path.read_bytes() for path in Path().glob("*_*.png")}
    for damaged in (Path("a_restored.png"), Path("b_compare.png")):
        damaged.write_bytes(whole[damaged][:-60] if isinstance(left, str) else left)
    assert "exists" in restore("?.png", "--compare").errors[0], "nothing is replaced unasked"
    outcome = restore("?.png", "--compare", "--skip-existing")
    assert (outcome.code, outcome.out.splitlines()[-1]) == (0, "2 of 2 restored")
    assert {path: path.read_bytes() for path in whole} == whole


def test_where_the_picture_is_its_comparison_is_too(
    restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order in which they are written, so that a kill in between leaves no job half done that
    looks done."""
    save("a.png")
    written: list[str] = []

    def noting(write: Any) -> Any:
        def noted(path: Path, *more: object, **named: object) -> None:
            written.append(path.name)
            write(path, *more, **named)

        return noted

    monkeypatch.setattr(pictures, "write_image", noting(pictures.write_image))
    monkeypatch.setattr(pictures, "write_whole", noting(pictures.write_whole))
    assert restore("a.png", "--compare").code == 0
    assert written == ["a_compare.png", "a_restored.png"]


def test_a_link_that_leads_nowhere_is_not_replaced_unasked(restore: Restore) -> None:
    save("a.png")
    Path("a_restored.png").symlink_to("elsewhere.png")
    assert "a_restored.png exists" in restore("a.png").only_error
    assert Path("a_restored.png").is_symlink()
    assert restore("a.png", "--overwrite").code == 0
    assert not Path("a_restored.png").is_symlink()


KILLED_AT_RANDOM = 4


def test_killed_runs_and_one_more_leave_what_an_undisturbed_run_does(
    tiny_onnx: Path, tmp_path: Path
) -> None:
    given, once, again = (tmp_path / name for name in ("given", "once", "again"))
    make_album(given, 0, 12)
    base = [*COMMAND, "restore", given, "-r", "-m", tiny_onnx, "--threads", "1", "--compare"]
    assert finish(start([*base, "-o", f"{once}/"], "")).code == 0
    for moment in range(KILLED_AT_RANDOM):
        process = start([*base, "-o", f"{again}/", "--skip-existing"], "")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if again.is_dir() and len(list(again.rglob("*.*"))) > 5 * moment:
                break
        time.sleep(0.003 * moment)
        process.kill()
        process.communicate()
    outcome = finish(start([*base, "-o", f"{again}/", "--skip-existing"], ""))
    assert outcome.code == 0, outcome
    assert names(again) == names(once)
    for name in names(once):
        assert (again / name).read_bytes() == (once / name).read_bytes(), name


# Signals


def test_sigterm_ends_a_run_as_ctrl_c_does(tiny_onnx: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "00.png", noise(256, 256, 3))
    for index in range(1, 30):
        shutil.copy(source, tmp_path / f"{index:02}.png")
    process = start([*COMMAND, "restore", tmp_path, "-m", tiny_onnx, "--threads", "1"], "")
    assert process.stdout is not None
    assert process.stdout.readline()  # the first is done, and the run goes on
    process.send_signal(signal.SIGTERM)
    outcome = finish(process)
    assert outcome.code == 128 + signal.SIGTERM
    assert "--skip-existing" in outcome.errors[0]
    assert not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("delay", [0.08, 0.2, 0.4])
def test_ctrl_c_at_the_start_is_no_traceback(delay: float, tmp_path: Path) -> None:
    import_slowly = (
        "import importlib.abc, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Slow(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'numpy':\n"
        "            print('importing', flush=True); time.sleep(5)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "import runpy\n"
        "sys.argv = ['mirnet-edge', 'models']\n"
        "runpy.run_module('mirnet_edge', run_name='__main__')\n"
    )
    process = subprocess.Popen(
        [COMMAND[0], "-c", import_slowly],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")


def test_output_that_nobody_reads_any_more_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [*COMMAND, "models"], env=ENVIRONMENT, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "")
