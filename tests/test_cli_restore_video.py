"""``mirnet-edge restore`` of videos: what comes out, what is said of it, and what is an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_networks import write_broken
from command_line import COMMAND, ENVIRONMENT, finish
from restoring import Restore, names, save
from restoring import restore as restore
from video_samples import av, make_video, read_video

import mirnet_edge as me
from mirnet_edge.frames.pixel_formats import pixel_format

LOSSLESS = ("--codec", "ffv1")


def planes(path: str | Path) -> list[np.ndarray]:
    """Frames of 8-bit 4:2:0 as i420 arrays."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def test_frames_are_restored_as_the_codes_that_they_are(restore: Restore, tiny_onnx: Path) -> None:
    make_video(Path("in.mp4"), tags=(6, 1, 6, 6), frames=5)
    outcome = restore("in.mp4", "-o", "out.mkv", *LOSSLESS, "--tile", "32", "--halo", "4")
    assert (outcome.code, outcome.errors) == (0, []), outcome
    pixels = pixel_format("i420", standard="bt601")
    with me.Restorer(tiny_onnx, tile=32, halo=4, pixels=pixels) as restorer:
        expected = [restorer(array) for array in planes("in.mp4")]
    found = planes("out.mkv")
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, planes("in.mp4")), "copied, not restored"


def test_what_is_said_of_a_video(restore: Restore) -> None:
    make_video(Path("in.mp4"), audio=True)
    outcome = restore("in.mp4", "-o", "out.mp4")
    assert outcome.out.startswith("in.mp4 -> out.mp4  64x48  12 frames  "), outcome
    assert outcome.out.endswith(" frames/s  copied: audio (aac)\n"), outcome
    assert outcome.err == ""
    error = restore("in.mp4", "-o", "out.mp4").only_error
    assert error.startswith("out.mp4 exists; --skip-existing leaves what is there")
    (result,) = restore("in.mp4", "-o", "out.mp4", "--overwrite", "--json").json
    rate = result.pop("frames_per_second")
    assert rate > 0
    assert result == {
        "input": "in.mp4",
        "output": "out.mp4",
        "width": 64,
        "height": 48,
        "frames": 12,
        "resumed": 0,
        "lost": 0,
        "reasons": [],
        "nonfinite": 0,
        "copied": ["audio (aac)"],
        "left_out": [],
    }


def test_a_folder_of_videos_and_pictures(restore: Restore, tmp_path: Path) -> None:
    for name in ("b.mkv", "a.mp4", "c.MOV"):
        make_video(tmp_path / name, frames=3)
    save("p.png")
    outcome = restore(".", "-o", "new/", "--compare")
    assert (outcome.code, outcome.errors) == (0, []), outcome
    written = [
        *("a_compare.mp4", "a_restored.mp4", "b_compare.mkv", "b_restored.mkv"),
        *("c_compare.MOV", "c_restored.MOV", "p_compare.png", "p_restored.png"),
    ]
    assert names(Path("new")) == written
    assert outcome.out.splitlines()[-1] == "4 of 4 restored"
    assert read_video(Path("new/a_compare.mp4")).size == (48, 132)
    again = restore(".", "-o", "new/", "--compare", "--skip-existing")
    assert again.out.splitlines()[-1] == "0 of 4 restored, 4 were there"


def test_results_of_earlier_runs_are_left_out(restore: Restore, tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", frames=3)
    assert restore(".", "--compare", "--preview", "0.1").code == 0
    assert names(tmp_path) == [
        *("a.mp4", "a_compare.mp4", "a_restored.mp4", "a_still_compare.jpg"),
    ]
    assert len(restore(".", "--compare", "--overwrite", "--json").json) == 1


def test_one_that_fails_does_not_stop_the_others(restore: Restore, tmp_path: Path) -> None:
    Path("a.mp4").write_bytes(b"no video")
    make_video(tmp_path / "b.mp4", frames=3)
    outcome = restore("a.mp4", "b.mp4")
    assert outcome.code == 1
    assert outcome.errors[0].startswith("a.mp4: cannot be read as a video: it has no index")
    assert outcome.out.splitlines()[-1] == "1 of 2 restored, 1 failed"
    assert names(tmp_path) == ["a.mp4", "b.mp4", "b_restored.mp4"]


def test_frames_that_are_lost_are_told(restore: Restore, tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", frames=50, container={"movflags": "faststart"})
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 6 // 10])
    outcome = restore("a.mp4")
    assert outcome.code == 0
    whole = len(read_video(tmp_path / "a_restored.mp4").times)
    # Some versions of FFmpeg tell of the last packet too, of which a part is there.
    assert outcome.err.startswith(f"a.mp4: {50 - whole} of about 50 frames are lost: "), outcome
    assert outcome.err.endswith("the file ends before its video does: it was cut off\n"), outcome


def test_a_part_every_other_frame_and_the_encoder(restore: Restore, tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", frames=50)
    options = ("--start", "0:00.4", "--duration", "0.8", "--every", "2")
    (result,) = restore("a.mp4", *options, "--codec", "hevc", "--crf", "30", "--json").json
    assert result["frames"] == 10
    after = read_video(tmp_path / "a_restored.mp4")
    assert after.codec == "hevc"
    assert after.times == read_video(tmp_path / "a.mp4").times[:20:2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.mp4", "-o", "b.png"), r"--output b.png names neither a folder that is there nor a"),
        (("a.mp4", "-o", "no/b.mp4"), "there is no folder no; create it"),
        (("a.mp4", "--codec", "none-such"), "FFmpeg here has no encoder 'none-such'; try h264"),
        (("a.mp4", "--start", "99"), "a.mp4: no frame between the times that were asked for"),
        (("tcp://127.0.0.1:9/", "-o", "b.mp4"), "cannot be read as a video: "),
        (("tcp://127.0.0.1:9/",), "is a network source: give it alone, and the file"),
        (("tcp://127.0.0.1:9/", "a.mp4", "-o", "b.mp4"), "is a network source: give it alone"),
        (("tcp://127.0.0.1:9/", "-o", "b.png"), "--output b.png names neither a folder"),
    ],
)
def test_what_is_refused(
    arguments: tuple[str, ...], message: str, restore: Restore, tmp_path: Path
) -> None:
    make_video(tmp_path / "a.mp4", frames=3)
    assert message in restore(*arguments).only_error
    assert names(tmp_path)[-1].startswith("a"), "something was written"


@pytest.mark.parametrize("arguments", [("--start", "1:x"), ("--crf", "99"), ("--every", "0")])
def test_wrong_usage(arguments: tuple[str, ...], restore: Restore) -> None:
    assert restore("a.mp4", *arguments).code == 2


def test_without_pyav_the_error_names_the_extra(
    restore: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(tmp_path / "a.mp4", frames=1)
    monkeypatch.setitem(sys.modules, "av", None)
    assert 'pip install "mirnet-edge[video]"' in restore("a.mp4").only_error


def test_limited_range_in_motion_jpeg(restore: Restore) -> None:
    make_video(Path("in.mp4"), frames=2, options={"qp": "0"})
    assert restore("in.mp4", "-o", "lossless.mkv", *LOSSLESS).code == 0
    assert restore("in.mp4", "-o", "out.mkv", "--codec", "mjpeg").code == 0
    for lossless, coded in zip(planes("lossless.mkv"), planes("out.mkv"), strict=True):
        difference = lossless.astype(int) - coded
        assert abs(difference.mean()) < 0.5, "another range"
        assert np.abs(difference).mean() < 3


def test_nan_is_told_once_and_counted_at_the_end(restore: Restore, tmp_path: Path) -> None:
    make_video(Path("in.mp4"), frames=5)
    write_broken(tmp_path)
    outcome = restore("in.mp4", "-o", "out.mkv", "-m", "broken.onnx", "--halo", "4")
    assert outcome.code == 0, outcome
    warning, end = outcome.err.replace("\n", " ").split("in.mp4")[1:]
    assert ", frame 0: " in warning
    assert "overflow? Try an FP32 engine" in end
    (result,) = restore(
        "in.mp4", "-o", "out.mkv", "-m", "broken.onnx", "--halo", "4", "--overwrite", "--json"
    ).json
    assert result["frames"] == 5
    assert f": {result['nonfinite']:,} of the network's values are NaN" in end
    assert result["nonfinite"] > 5


# Killed


def test_a_run_that_was_killed_goes_on(tiny_onnx: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "in.mp4", frames=250, audio=True, options={"preset": "ultrafast"})
    command = [*COMMAND, "restore", "in.mp4", "-m", str(tiny_onnx), "--threads", "1", "-o"]
    options: dict[str, Any] = {"cwd": tmp_path, "env": ENVIRONMENT, "text": True,
                               "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}  # fmt: skip
    finished = tmp_path / ".out.mp4.parts" / "000000.json"
    process = subprocess.Popen([*command, "out.mp4"], **options)
    try:
        deadline = time.monotonic() + 60
        while not finished.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert finished.exists()
    assert not (tmp_path / "out.mp4").exists()
    outcome = finish(subprocess.Popen([*command, "out.mp4"], **options))
    assert outcome.code == 0
    assert " 250 frames (120 of them earlier)" in outcome.out or "(240 of" in outcome.out, outcome
    assert finish(subprocess.Popen([*command, "whole.mp4"], **options)).code == 0
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert names(tmp_path) == ["in.mp4", "out.mp4", "whole.mp4"]
    after = read_video(tmp_path / "out.mp4")
    assert after.times == read_video(tmp_path / "in.mp4").times
