"""Videos that are damaged, and runs that were ended in the middle: what is whole is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_jobs import restore, seconds
from video_samples import NoOp, make_video, read_video

from mirnet_edge.errors import OutputError, StreamError


class Killed(BaseException):
    """Ends a run as a signal does."""


def killed_after(frames: int) -> NoOp:
    def count(array: np.ndarray) -> np.ndarray:
        if restorer.given > frames:
            raise Killed
        return array.copy()

    restorer = NoOp(count)
    return restorer


def parts_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.parts")


# What is damaged


def halved(video: bytes) -> bytes:
    return video[: len(video) * 6 // 10]


def holed(video: bytes) -> bytes:
    middle = len(video) // 2
    return video[:middle] + bytes(1500) + video[middle + 1500 :]


@pytest.mark.parametrize(
    ("name", "settings", "damage", "exact"),
    [
        ("a.mp4", {"container": {"movflags": "faststart"}, "audio": True}, halved, True),
        ("a.mp4", {"container": {"movflags": "faststart"}}, holed, True),
        ("a.mkv", {"audio": True}, halved, True),
        ("a.mkv", {}, halved, True),
        ("a.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}}, halved, True),
        ("a.avi", {"codec": "mpeg4"}, halved, False),
    ],
)
def test_of_a_damaged_video_what_is_whole_is_written(
    name: str,
    settings: dict[str, Any],
    damage: Callable[[bytes], bytes],
    exact: bool,
    tmp_path: Path,
) -> None:
    source = make_video(tmp_path / name, frames=50, **settings)
    source.write_bytes(damage(source.read_bytes()))
    target = tmp_path / f"out{source.suffix}"
    outcome = restore(source, target, part_frames=9)
    assert outcome.frames > 0
    assert outcome.lost > 10, outcome
    if exact:
        assert outcome.frames + outcome.lost == 50, outcome
    assert any("cut off" in why or "cannot be decoded" in why for why in outcome.reasons)
    after = read_video(target)
    assert len(after.times) == outcome.frames
    if "audio" in settings:
        assert 0 < len(after.others["audio"]) < 94


def test_a_recording_without_its_index_says_so(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4")
    source.write_bytes(halved(source.read_bytes()))
    with pytest.raises(StreamError, match=r"a\.mp4: cannot be read as a video: it has no index"):
        restore(source, tmp_path / "b.mp4")
    assert not parts_of(tmp_path / "b.mp4").exists()


# What was ended


@pytest.mark.parametrize("settings", [{}, {"every": 2}, {"begin_s": seconds(0.2)}])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_run_that_was_ended_goes_on_with_the_same_result(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    source = make_video(tmp_path / name, frames=30, audio=True, options={"bf": "2"})
    whole, target = tmp_path / f"whole-{name}", tmp_path / f"out-{name}"
    every = settings.get("every", 1)
    undisturbed = restore(source, whole, part_frames=4, **settings)
    restored = 0
    for frames in (3, 6, 9):
        restorer = killed_after(frames)
        with pytest.raises(Killed):
            restore(source, target, restorer, part_frames=4, **settings)
        restored += restorer.given - 1
        assert not target.exists()
    had = len(list(parts_of(target).glob("*.json"))) - 1
    assert had == 0 + 1 + 2
    restorer = NoOp()
    outcome = restore(source, target, restorer, part_frames=4, **settings)
    assert target.read_bytes() == whole.read_bytes()
    assert restorer.given == outcome.frames - 4 * had
    assert (outcome.frames, outcome.resumed) == (undisturbed.frames, 4 * had)
    assert outcome.frames == pytest.approx((25 if "begin_s" in settings else 30) / every, abs=1)
    assert not parts_of(target).exists()


def test_losses_before_the_end_of_a_run_are_told_after_it(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", frames=50, container={"movflags": "faststart"},
                        options={"g": "5", "bf": "0"})  # fmt: skip
    video = bytearray(source.read_bytes())
    video[len(video) // 3 : len(video) // 3 + 600] = bytes(600)
    source.write_bytes(halved(bytes(video)))
    undisturbed = restore(source, tmp_path / "b.mp4", part_frames=3)
    with pytest.raises(Killed):
        restore(source, tmp_path / "c.mp4", killed_after(undisturbed.frames - 2), part_frames=3)
    outcome = restore(source, tmp_path / "c.mp4", part_frames=3)
    assert outcome.resumed > 0
    assert outcome.lost == undisturbed.lost == 50 - outcome.frames
    assert set(outcome.reasons) == set(undisturbed.reasons)
    assert len(outcome.reasons) == 2
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "c.mp4").read_bytes()


def test_parts_of_another_run_are_not_taken(tmp_path: Path) -> None:
    source, target = make_video(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    with pytest.raises(Killed):
        restore(source, target, killed_after(6), part_frames=4)
    with pytest.raises(OutputError, match=r"b\.mp4\.parts holds parts of a run that did not end"):
        restore(source, target, part_frames=4, encoding={"crf": 30})
    make_video(source, frames=5)
    with pytest.raises(OutputError, match=r"source was .*, is .*; Give the settings|source was"):
        restore(source, target, part_frames=4)
    outcome = restore(source, target, part_frames=4, anew=True)
    assert (outcome.frames, outcome.resumed) == (5, 0)
    assert len(read_video(target).times) == 5


def test_a_part_whose_record_is_missing_is_made_again(tmp_path: Path) -> None:
    """The record is written last: a part without it may be of a run that was ended in between."""
    source, target = make_video(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    with pytest.raises(Killed):
        restore(source, target, killed_after(9), part_frames=4)
    (parts_of(target) / "000001.json").unlink()
    (parts_of(target) / "000001.nut").write_bytes(b"half a part")
    restorer = NoOp()
    assert restore(source, target, restorer, part_frames=4).resumed == 4
    assert restorer.given == 8
    assert len(read_video(target).times) == 12


def test_a_folder_without_its_settings_is_made_anew(tmp_path: Path) -> None:
    source, target = make_video(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    parts_of(target).mkdir()
    (parts_of(target) / "000000.json").write_text(json.dumps({"frames": 99}))
    assert restore(source, target, part_frames=4).frames == 12


def test_the_progress_counts_what_was_had(tmp_path: Path) -> None:
    source, target = make_video(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    with pytest.raises(Killed):
        restore(source, target, killed_after(9), part_frames=4)
    told: list[tuple[int, int | None]] = []
    restore(source, target, part_frames=4, progress=lambda done, total: told.append((done, total)))
    assert told == [(8, 12), *((done, 12) for done in range(9, 13))]
