"""Calibration tiles: that different frames are chosen, that tiles are what the runtime would cut,
and that what is wrong with a source is said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scenes import alike, generator, save, scene

from mirnet_edge import Restorer
from mirnet_edge._files import resource_folder
from mirnet_edge.errors import CalibrationError
from mirnet_edge.frames.noise import unit_range
from mirnet_edge.quantize.calibration import CalibrationSet, tiles_sha256

TILE = (32, 40)


def frame_of(name: str) -> str:
    return name.partition(" at ")[0]


# The bundled set


def test_the_bundled_set_is_every_image_once_and_without_warnings() -> None:
    found = CalibrationSet.open()
    folder = resource_folder("calibration")
    assert sorted(found.names) == sorted(path.name for path in folder.glob("*.webp"))
    for name, tile in zip(found.names, found.tiles):
        with Image.open(folder / name) as image:
            pixels = np.asarray(image)
        assert np.array_equal(tile, unit_range(pixels).transpose(2, 0, 1))
    assert found.tiles.dtype == np.float32
    assert (found.targets, found.warnings) == (None, [])


# Diversity


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_different_images_are_chosen_from_among_near_identical_ones(
    seed: int, tmp_path: Path
) -> None:
    for index in range(50):
        save(tmp_path / f"{index:03}.png", alike(scene(100), index))
    different = {save(tmp_path / f"sub/deep/{i}.png", scene(i)).name for i in range(6)}
    found = CalibrationSet.open(tmp_path, tile=TILE, count=8, seed=seed)
    assert different <= {Path(frame_of(name)).name for name in found.names}
    assert found.warnings == []


def test_the_same_seed_gives_the_same_set_and_another_one_another(tmp_path: Path) -> None:
    frames = [scene(i) for i in range(20)]
    first, again, other = (
        CalibrationSet.open(frames, tile=TILE, count=5, seed=seed, sigma=20) for seed in (1, 1, 2)
    )
    assert first.names == again.names
    assert np.array_equal(first.tiles, again.tiles)
    assert first.sha256 == again.sha256 == tiles_sha256(first.tiles)
    assert first.sha256 != other.sha256


# Tiles


def test_tiles_are_cut_from_where_they_say() -> None:
    frames = [scene(i, 61 + i, 87) for i in range(9)]
    found = CalibrationSet.open(frames, tile=TILE, count=9)
    assert sorted(map(frame_of, found.names)) == sorted(f"frame {i}" for i in range(9))
    for name, tile in zip(found.names, found.tiles):
        index, left, top = map(int, re.fullmatch(r"frame (\d+) at (\d+),(\d+)", name).groups())
        crop = frames[index][top : top + TILE[0], left : left + TILE[1]]
        assert np.array_equal(tile, unit_range(crop).transpose(2, 0, 1))
        assert (left % 4, top % 4) == (0, 0), "the runtime's tiles begin at multiples of 4"


def test_few_frames_give_several_different_tiles_each() -> None:
    frames = [scene(1, 97, 131), scene(2, 40, 50)]
    found = CalibrationSet.open(frames, tile=TILE, count=12)
    assert len(set(found.names)) == 12
    assert len({tile.tobytes() for tile in found.tiles}) == 12
    assert found.warnings == ["2 images for 12 tiles: several were cut from one image"]


def test_of_a_varied_frame_the_unlike_parts_are_taken() -> None:
    frame = np.full((64, 160, 3), 90, np.uint8)
    frame[:32, :40] = generator().integers(0, 256, (32, 40, 3), np.uint8)
    frame[32:, 120:] = (250, 20, 20)
    found = CalibrationSet.open([frame], tile=TILE, count=3)
    assert {"frame 0 at 0,0", "frame 0 at 120,32"} <= set(found.names)


class Recorder:
    """An engine of one tile size that keeps what it is shown."""

    fixed_size = TILE

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def run(self, tiles: Any) -> Any:
        self.shown.append(tiles.copy())
        return tiles

    def close(self) -> None:
        pass


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 7), (31, 40), (32, 39), (7, 3)])
@pytest.mark.parametrize("gray", [False, True])
def test_a_small_frame_is_shown_as_the_runtime_shows_it(shape: tuple[int, int], gray: bool) -> None:
    frame = generator(3).integers(0, 256, shape if gray else (*shape, 3), np.uint8)
    found = CalibrationSet.open([frame], tile=TILE, count=1)
    recorder = Recorder()
    with Restorer(recorder, halo=0) as restore:
        restore(frame)
    assert np.array_equal(found.tiles, recorder.shown[0])
    assert any("smaller than the tile of 40x32" in text for text in found.warnings)
    assert f"frame 0 ({shape[1]}x{shape[0]})" in " ".join(found.warnings)
    if min(shape) > 1:
        pads = [(0, TILE[0] - shape[0]), (0, TILE[1] - shape[1])] + [(0, 0)] * (not gray)
        padded = np.pad(frame, pads, mode="reflect")
        padded = np.repeat(padded[:, :, None], 3, 2) if gray else padded
        assert np.array_equal(found.tiles[0], unit_range(padded).transpose(2, 0, 1))


def test_networks_of_other_channels_get_tiles_of_theirs(tmp_path: Path) -> None:
    frame = scene(4)
    (gray,) = CalibrationSet.open(
        [save(tmp_path / "a.png", frame)], tile=(60, 84), count=1, in_channels=1
    ).tiles
    luminance = frame @ np.array([0.299, 0.587, 0.114]) / 255
    assert np.abs(gray[0] - luminance).max() <= 0.51 / 255
    pairs = [generator(i).integers(0, 256, (40, 48, 6), np.uint8) for i in range(3)]
    assert CalibrationSet.open(pairs, tile=TILE, count=3, in_channels=6).tiles.shape[1] == 6
    with_alpha = np.dstack([frame, np.zeros(frame.shape[:2], np.uint8)])
    shown = [
        CalibrationSet.open([pixels], tile=TILE, count=2).tiles for pixels in (frame, with_alpha)
    ]
    assert np.array_equal(*shown)


# Noise


def test_noise_is_added_only_when_asked_for_and_targets_are_clean() -> None:
    frames = [scene(i) for i in range(10)]
    clean = CalibrationSet.open(frames, tile=TILE, count=10)
    found = CalibrationSet.open(frames, tile=TILE, count=10, sigma=25)
    assert clean.targets is None
    assert found.targets is not None
    assert found.names == clean.names
    assert np.array_equal(found.targets, clean.tiles)
    levels = found.tiles * 255
    camera = [bool(np.abs(tile - tile.round()).max() < 1e-4) for tile in levels]
    assert camera == [False, True] * 5, "half of them as a camera's frames, as in training"
    for tile, target, is_camera in zip(found.tiles, found.targets, camera):
        noise = (tile - target) * 255
        if is_camera:
            assert 0 <= tile.min() <= tile.max() <= 1
        else:
            assert noise.std() == pytest.approx(25, rel=0.1)
            assert abs(noise.mean()) < 2
    first, second = found.tiles[0] - found.targets[0], found.tiles[2] - found.targets[2]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1, "each has noise of its own"


def test_noise_is_part_of_the_frame_so_it_is_mirrored_with_it() -> None:
    found = CalibrationSet.open([scene(1)[:20, :24]], tile=TILE, count=1, sigma=25)
    noise = (found.tiles - found.targets)[0]
    assert np.array_equal(found.tiles[0, :, 20:32, :], found.tiles[0, :, 18:6:-1, :])
    assert noise.std() * 255 == pytest.approx(25, rel=0.1)


# Warnings


def test_unreadable_images_are_skipped_counted_and_named(tmp_path: Path) -> None:
    for index in range(8):
        save(tmp_path / f"{index}.png", scene(index))
    for index in range(5):
        (tmp_path / f"bad{index}.jpg").write_bytes(b"no image")
    found = CalibrationSet.open(tmp_path, tile=TILE, count=8)
    (warning,) = found.warnings
    assert warning.startswith("5 unreadable, skipped: ")
    assert warning.endswith(" and 2 more")
    assert "bad0.jpg: 8 bytes in no image format" in warning
    assert len(found.tiles) == 8


def test_too_few_images_are_a_warning() -> None:
    found = CalibrationSet.open([scene(1, *TILE), scene(2, *TILE)], tile=TILE, count=16)
    assert len(found.tiles) == 2
    assert found.warnings == [
        "only 2 of 16 tiles: there are too few images, or too small",
        "2 tiles are few to calibrate with; give 8 or more",
    ]


def test_near_identical_images_are_a_warning() -> None:
    frames = [alike(scene(3), i) for i in range(30)]
    (warning,) = CalibrationSet.open(frames, tile=TILE, count=16).warnings
    assert warning == "the 16 chosen images are so alike that they count as 1"


def test_nearly_constant_images_are_a_warning() -> None:
    frames = [np.full((40, 48, 3), 20 * i, np.uint8) for i in range(12)]
    (warning,) = CalibrationSet.open(frames, tile=TILE, count=12).warnings
    assert warning.startswith("12 of 12 tiles are nearly constant: frame ")


@pytest.mark.parametrize(
    "arguments",
    [{"tile": (0, 8)}, {"count": 0}, {"sigma": -1}, {"sigma": float("nan")}, {"seed": -1}],
)
def test_arguments_that_cannot_be_are_errors(arguments: dict[str, Any]) -> None:
    with pytest.raises(CalibrationError, match="must be positive"):
        CalibrationSet.open([scene(0)], **arguments)
