"""A stream into a folder goes on where a run was killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ENVIRONMENT
from frame_paths import OneByOne

from mirnet_edge.errors import OutputError, StreamError
from mirnet_edge.frames.images import read_image, write_image
from mirnet_edge.stream.frame_stream import FrameStream
from mirnet_edge.stream.sources import open_source


def frames(count: int = 6) -> Iterator[np.ndarray]:
    for number in range(count):
        yield np.full((3, 5), number, np.uint8)


def stream_of(source: Any, restored: list[int] | None = None, **settings: Any) -> FrameStream:
    def restore(frame: np.ndarray) -> np.ndarray:
        if restored is not None:
            restored.append(int(frame[0, 0]))
        return 2 * frame

    return FrameStream(OneByOne(restore), source, **settings)


def check(folder: Path, count: int = 6) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [f"{n:06}.png" for n in range(count)]
    for number in range(count):
        assert (read_image(folder / f"{number:06}.png").pixels == 2 * number).all()


def test_it_goes_on_behind_the_last_frame(tmp_path: Path) -> None:
    stream_of(frames(4)).to(tmp_path)
    restored: list[int] = []
    with pytest.raises(OutputError, match=r"give a new folder, or to\(folder, resume=True\)"):
        stream_of(frames()).to(tmp_path)
    stream = stream_of(frames(), restored, timestamps=range(6))
    statistics = stream.to(str(tmp_path), resume=True)
    assert restored == [4, 5]
    assert (statistics.read, statistics.restored) == (6, 2)
    check(tmp_path)
    assert stream_of(frames()).to(tmp_path, resume=True).restored == 0
    check(tmp_path)


def test_nothing_there_is_a_beginning(tmp_path: Path) -> None:
    stream_of(frames()).to(tmp_path / "new", resume=True)
    check(tmp_path / "new")


@pytest.mark.parametrize("left", [b"", bytes(60)], ids=["empty", "zeros"])
def test_files_that_a_power_cut_left_are_made_anew(left: bytes, tmp_path: Path) -> None:
    stream_of(frames(5)).to(tmp_path)
    for number in (3, 4):
        (tmp_path / f"{number:06}.png").write_bytes(left)
    restored: list[int] = []
    stream_of(frames(), restored).to(tmp_path, resume=True)
    assert restored == [3, 4, 5]
    check(tmp_path)


def test_frames_that_were_dropped_are_not_missed(tmp_path: Path) -> None:
    for number in (0, 3):
        write_image(tmp_path / f"{number:06}.png", np.full((3, 5), 2 * number, np.uint8))
    restored: list[int] = []
    stream_of(frames(), restored).to(tmp_path, resume=True)
    assert restored == [4, 5]


def test_what_cannot_go_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="resume=True goes on with a folder of images"):
        stream_of(frames()).to(lambda image: None, resume=True)
    stream = stream_of(frames())
    next(stream)
    with pytest.raises(StreamError, match="resume with a new one"):
        stream.to(tmp_path, resume=True)
    stream.close()


STREAM = """
import sys
import numpy as np
import mirnet_edge as me

random = np.random.default_rng(0)
frames = [random.integers(0, 256, (120, 160, 3), np.uint8) for _ in range(40)]
with me.Restorer(me.FakeEngine()) as restorer:
    restorer.stream(frames).to(sys.argv[1], resume=True)
"""


def test_killed_runs_and_one_more_leave_what_an_undisturbed_run_does(tmp_path: Path) -> None:
    once, again = tmp_path / "once", tmp_path / "again"

    def command(folder: Path) -> list[str]:
        return [sys.executable, "-c", STREAM, str(folder)]

    subprocess.run(command(once), env=ENVIRONMENT, check=True, timeout=60)
    for least in (3, 11, 24):
        process = subprocess.Popen(command(again), env=ENVIRONMENT)
        while not (again / f"{least:06}.png").exists() and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        process.wait()
    subprocess.run(command(again), env=ENVIRONMENT, check=True, timeout=60)
    assert sorted(path.name for path in again.iterdir()) == [f"{n:06}.png" for n in range(40)]
    for path in once.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


@pytest.mark.parametrize("number", [-1, -(2**40), 2**31])
def test_a_camera_that_there_cannot_be_is_an_error_and_no_crash(number: int) -> None:
    with pytest.raises(StreamError, match=f"there is no camera {number}"):
        open_source(number)
