"""Where calibration frames come from: the bundled set, folders, patterns, lists, videos; and what
is no source."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import alike, save, scene

from mirnet_edge._files import resource_folder
from mirnet_edge.errors import CalibrationError, MissingDependencyError
from mirnet_edge.quantize.calibration import CalibrationSet
from mirnet_edge.quantize.calibration import sources as frame_sources

TILE = (32, 40)


def frame_of(name: str) -> str:
    return name.partition(" at ")[0]


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"x"), Path.unlink])
def test_a_bundled_image_that_is_not_the_manifests_is_an_error(
    damage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(resource_folder("calibration"), tmp_path / "calibration")
    monkeypatch.setattr(frame_sources, "resource_folder", lambda name: copy)
    assert len(CalibrationSet.open(count=1, tile=(8, 8)).tiles) == 1
    damage(copy / "coffee-1.webp")
    with pytest.raises(CalibrationError, match=r"coffee-1\.webp: the calibration manifest says"):
        CalibrationSet.open()


def test_a_pattern_a_file_a_folder_and_a_list_find_the_same(tmp_path: Path) -> None:
    paths = [save(tmp_path / "in [1]" / f"{i}.png", scene(i)) for i in range(5)]
    (tmp_path / "in [1]" / "notes.txt").write_text("no image")
    (tmp_path / "in [1]" / ".hidden.png").write_bytes(b"")
    options: dict[str, Any] = {"tile": TILE, "count": 5}
    whole = CalibrationSet.open(tmp_path / "in [1]", **options)
    assert {frame_of(name) for name in whole.names} == {f"{i}.png" for i in range(5)}
    for source in (str(tmp_path / "*" / "*.png"), paths, [str(paths[0]), *paths[1:]]):
        assert CalibrationSet.open(source, **options).sha256 == whole.sha256
    mixed = [scene(0), *paths[1:]]
    assert CalibrationSet.open(mixed, **options).sha256 == whole.sha256
    assert len(CalibrationSet.open(paths[0], tile=TILE, count=1).tiles) == 1


def test_of_very_many_frames_evenly_spaced_ones_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mirnet_edge.quantize.calibration.MOST_STILLS", 5)
    seen: list[tuple[int, int]] = []
    frames = [scene(i) for i in range(9)]
    found = CalibrationSet.open(
        frames, tile=TILE, count=5, progress=lambda *done: seen.append(done)
    )
    assert {frame_of(name) for name in found.names} == {f"frame {i}" for i in (0, 2, 4, 6, 8)}
    assert seen == [(done, 5) for done in range(1, 6)]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """45 frames of three scenes; the middle one is red and lasts 3 frames."""
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    scenes = [scene(5, 64, 96), scene(1, 64, 96)]
    red = np.full((64, 96, 3), (220, 30, 10), np.uint8)
    for index in range(45):
        shot = alike(scenes[index // 23], index) if abs(index - 22) > 1 else red
        writer.write(np.ascontiguousarray(shot[:, :, ::-1]))
    writer.release()
    return path


def test_a_video_gives_frames_of_every_scene(video: Path) -> None:
    found = CalibrationSet.open(video, tile=(64, 96), count=3)
    indices = sorted(int(name.rpartition(" ")[2]) for name in found.names)
    assert indices[0] < 21 <= indices[1] <= 23 < indices[2]
    (red,) = [
        tile for name, tile in zip(found.names, found.tiles) if name.endswith(str(indices[1]))
    ]
    assert np.abs(red.mean((1, 2)) * 255 - (220, 30, 10)).max() < 6, "RGB, not BGR"


def test_frames_of_a_video_are_those_of_reading_it_through(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    capture, expected = cv2.VideoCapture(str(video)), []
    while (item := capture.read())[0]:
        expected.append(item[1][:, :, ::-1])
    assert len(expected) == 45
    for look_ahead in (64, 2):
        monkeypatch.setattr(frame_sources, "LOOK_AHEAD_FRAMES", look_ahead)
        frames = frame_sources.open_frames(video, 3)
        assert len(frames.names) == 45
        for index in (0, 7, 8, 44, 3, 3):
            assert np.array_equal(frames.read(index), expected[index]), index
        frames.close()
        frames.close()


def test_a_video_without_opencv_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "mirnet-edge\[video\]"'):
        CalibrationSet.open(tmp_path / "clip.mp4")


def test_sources_without_images_are_errors(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(CalibrationError, match=r"there is no image \(\.png.*\) in this folder or"):
        CalibrationSet.open(tmp_path)
    with pytest.raises(CalibrationError, match=r"no such file, and no image"):
        CalibrationSet.open(str(tmp_path / "*.png"))
    with pytest.raises(CalibrationError, match="an empty sequence"):
        CalibrationSet.open([])
    for index in range(4):
        (tmp_path / f"{index}.png").write_bytes(b"broken")
    with pytest.raises(CalibrationError, match=r"none of the 4 images can be read: .*0\.png"):
        CalibrationSet.open(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(CalibrationError, match="finds no video frames in it"):
        CalibrationSet.open(tmp_path / "clip.mp4")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([np.zeros((3, 40, 48), np.uint8)], r"frame 0: frame of shape \(3, 40, 48\)"),
        ([scene(0), np.zeros((2, 3, 4, 5), np.uint8)], r"frame 1: frame of shape \(2, 3, 4, 5\)"),
        ([np.zeros((0, 5, 3), np.uint8)], "has no pixels"),
        ([np.zeros((5, 5, 3), np.float32)], "frame 0 is of dtype float32: need uint8"),
        ([3], "frame 0: a frame must be a numpy array, not int"),
        (scene(0), "put a single frame into a list"),
    ],
)
def test_frames_of_a_wrong_kind_are_errors(frames: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        CalibrationSet.open(frames, tile=TILE)


def test_files_for_a_network_of_six_channels_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="this network takes 6 channels"):
        CalibrationSet.open([save(tmp_path / "a.png", scene(0))], in_channels=6)
