"""A restored video beside its source: what a player sees of both but the pixels is equal."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_jobs import restore, seconds
from video_samples import NoOp, av, make_video, read_video

import mirnet_edge as me
from mirnet_edge.errors import EngineError, OutputError, StreamError
from mirnet_edge.frames.images import read_image
from mirnet_edge.frames.pixel_formats import pixel_format
from mirnet_edge.stream.video.encoding import choose_encoding
from mirnet_edge.stream.video.live import open_video

MILLISECOND, TICK = Fraction(1, 1000), Fraction(1, 12800)
UNEVEN = [0, 512, 600, 1700, 1701, 1702, 4000, 5120, 9000, 9001, 12800, 12900]
QUIET = {"x265-params": "log-level=error"}
KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"audio": True, "tags": (1, 1, 1, 1)},
    "hevc.mp4": {"codec": "libx265", "options": QUIET},
    "vp9.webm": {
        "codec": "libvpx-vp9",
        "time_base": MILLISECOND,
        "pts": range(0, 480, 40),
        "options": {"cpu-used": "8"},
    },
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "ten-bit.mp4": {"pix_fmt": "yuv420p10le", "tags": (9, 1, 9, 16)},
    "full-range.mp4": {"tags": (6, 2, 6, 6)},
    "uneven.mp4": {"time_base": TICK, "pts": UNEVEN, "options": {"bf": "0"}, "audio": True},
    "b-frames.mp4": {"time_base": TICK, "pts": range(0, 6144, 512), "options": {"bf": "3"}},
    "turned.mp4": {"turn": 90, "audio": True},
    "turned-back.mov": {"turn": -90},
    "odd.webm": {"codec": "libvpx-vp9", "size": (45, 63), "options": {"cpu-used": "8"}},
    "odd.mp4": {"codec": "mpeg4", "size": (45, 63)},
    "aspect.mp4": {"aspect": Fraction(4, 3)},
    "dense.mp4": {"pix_fmt": "yuv422p"},
    "denser.mp4": {"pix_fmt": "yuv444p"},
    "gray.mkv": {"codec": "ffv1", "pix_fmt": "gray", "time_base": MILLISECOND,
                 "pts": range(0, 480, 40)},
    "still.mp4": {"frames": 1},
    "sound.mkv": {"audio": True, "time_base": MILLISECOND, "pts": range(0, 480, 40)},
    "broadcast.ts": {"audio": True},
}  # fmt: skip
OLD = pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_matrix"), reason="PyAV before 18 writes no turn"
)
NAMES = [pytest.param(name, marks=OLD if "turned" in name else ()) for name in KINDS]
PLAYED = ("size", "times", "rate", "length", "turn", "tags", "aspect")


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_video_is_played_as_its_source(name: str, tmp_path: Path) -> None:
    source = make_video(tmp_path / name, **KINDS[name])
    target = tmp_path / f"out{source.suffix}"
    restorer = NoOp()
    outcome = restore(source, target, restorer, part_frames=5)
    before, after = read_video(source), read_video(target)
    for fact in PLAYED:
        assert getattr(after, fact) == getattr(before, fact), fact
    assert after.others == before.others
    assert after.metadata.get("title") == before.metadata.get("title")
    assert (outcome.frames, outcome.lost, outcome.reasons) == (len(before.times), 0, [])
    assert restorer.given == len(before.times)
    codes = 1023 if name == "ten-bit.mp4" else 255
    for one, two in zip(before.pictures, after.pictures):
        error = np.abs(one.astype(float) - two).mean() / codes
        assert error < 0.012, f"{error:.4f} of a range: other pixels"
    assert list(tmp_path.glob(".*")) == [], "parts are left"


def test_the_codec_stays_where_it_can_be_written(tmp_path: Path) -> None:
    found = {}
    for name in ("hevc.mp4", "vp9.webm", "mjpeg.avi", "odd.mp4", "h264.mp4"):
        source = make_video(tmp_path / name, **{**KINDS[name], "frames": 2, "pts": None})
        target = tmp_path / f"out-{name}"
        restore(source, target)
        found[name] = read_video(target).codec
    assert found == {
        "hevc.mp4": "hevc",
        "vp9.webm": "vp9",
        "mjpeg.avi": "mjpeg",
        "odd.mp4": "h264",
        "h264.mp4": "h264",
    }


def test_from_one_container_to_another_and_with_another_codec(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", audio=True, frames=6)
    for name, codec in (("b.mkv", "ffv1"), ("b.webm", None), ("b.mov", "hevc"), ("b.mp4", "mpeg4")):
        outcome = restore(source, tmp_path / name, encoding={"codec": codec})
        after = read_video(tmp_path / name)
        assert after.codec == (codec or "vp9" if name != "b.webm" else after.codec)
        assert [round(float(time), 2) for time in after.times] == [n / 25 for n in range(6)]
        # WebM holds Opus and Vorbis alone.
        assert bool(outcome.copied) == bool(after.others) == (name != "b.webm")
        assert bool(outcome.left_out) == (name == "b.webm")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codec": "no-such"}, "no encoder 'no-such'; try h264"),
        ({"codec": "aac"}, r"\.mp4 holds no aac video"),
        ({"codec": "libvpx"}, r"\.mp4 holds no libvpx video"),
        ({"codec": "ffv1", "crf": 20}, "ffv1 has no constant quality; leave --crf out"),
        ({"codec": "vp9", "preset": "fast"}, "libvpx-vp9 has no presets; leave --preset out"),
        ({"preset": "fastest"}, r"libx264 \(.*preset fastest, crf 18\) does not encode this video"),
    ],
)
def test_what_no_encoder_does_is_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = make_video(tmp_path / "a.mp4", frames=2)
    with pytest.raises(OutputError, match=message):
        restore(source, tmp_path / "b.mp4", encoding=settings)
    assert not (tmp_path / "b.mp4").exists()


def test_quality_and_preset_reach_the_encoder(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4")
    sizes = []
    for crf, preset in ((10, None), (40, None), (40, "ultrafast")):
        target = tmp_path / f"{crf}{preset}.mp4"
        restore(source, target, encoding={"crf": crf, "preset": preset})
        sizes.append(target.stat().st_size)
    assert sizes[0] > 1.5 * sizes[1], sizes
    assert sizes[2] != sizes[1], sizes


@OLD
def test_a_container_that_holds_no_turn_says_so(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", frames=3, turn=90)
    assert restore(source, tmp_path / "b.mkv").left_out == []
    assert read_video(tmp_path / "b.mkv").turn == 90
    told = restore(source, tmp_path / "b.ts").left_out
    assert told == ["turn by 90 degrees: .ts holds none"]


def test_a_turn_that_pyav_cannot_write_is_an_error_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = replace(open_video(str(make_video(tmp_path / "a.mp4"))).facts, display_matrix=(0,) * 9)
    monkeypatch.setattr(av, "VideoStream", object)
    with pytest.raises(OutputError, match=r"cannot write that .* turned.*; install version 18"):
        choose_encoding(facts, tmp_path / "b.mp4")


# A part of a video


def test_a_part_begins_at_0_with_its_sound(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", frames=50, audio=True)
    outcome = restore(
        source, tmp_path / "b.mp4", begin_s=seconds(0.8), duration_s=seconds(0.4), part_frames=4
    )
    before, after = read_video(source), read_video(tmp_path / "b.mp4")
    assert outcome.frames == 10
    assert after.times == before.times[:10]
    for number, picture in enumerate(after.pictures):
        errors = [np.abs(picture.astype(float) - one).mean() for one in before.pictures]
        assert int(np.argmin(errors)) == 20 + number
    sound = {packet: time for time, packet in before.others["audio"]}
    shifts = [float(sound[packet] - time) for time, packet in after.others["audio"]]
    assert shifts == pytest.approx([0.8] * len(shifts), abs=1e-3), "MP4 counts starts in ms"
    assert len(shifts) == pytest.approx(0.4 * 48000 / 1024, abs=1)
    with pytest.raises(StreamError, match="no frame between the times that were asked for"):
        restore(source, tmp_path / "c.mp4", begin_s=seconds(30))


def test_every_third_frame_keeps_its_time(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", frames=20)
    outcome = restore(source, tmp_path / "b.mp4", every=3, part_frames=2)
    assert outcome.frames == 7
    assert read_video(tmp_path / "b.mp4").times == read_video(source).times[::3]


@OLD
def test_a_comparison_and_a_still_show_before_and_after(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", frames=4, turn=90)
    still, compare = tmp_path / "still.jpg", tmp_path / "c.mp4"

    def darker(array: np.ndarray) -> np.ndarray:
        rows = array.shape[0] // 3 * 2
        return np.concatenate([array[:rows] // 2, array[rows:]])

    restore(
        source, tmp_path / "b.mp4", NoOp(darker), compare=compare, preview=still, preview_s=1e-6
    )
    before, after, both = (read_video(tmp_path / name) for name in ("a.mp4", "b.mp4", "c.mp4"))
    assert both.size == (48 + 4 + 48, 64), "stacked as stored, side by side as shown"
    assert (both.times, both.turn) == (before.times, 90)
    for one, two, joined in zip(before.pictures, after.pictures, both.pictures):
        upright = np.rot90(joined).astype(float)
        assert np.abs(upright[:, :48] - np.rot90(one)).mean() < 2
        assert np.abs(upright[:, -48:] - np.rot90(two)).mean() < 2
    shown = read_image(still).pixels
    assert shown.shape == (64, 48 + 4 + 48, 3)
    assert shown[:, :48].mean() > 1.5 * shown[:, -48:].mean()


# What enlarges


@pytest.mark.parametrize(("size", "name"), [((48, 64), "a.mp4"), ((45, 63), "a.webm")])
def test_an_enlarged_video(size: tuple[int, int], name: str, tmp_path: Path) -> None:
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    source = make_video(tmp_path / name, frames=3, size=size, codec=codec)
    target, compare = tmp_path / f"b-{name}", tmp_path / f"c-{name}"

    def doubled(array: np.ndarray) -> np.ndarray:
        rows, half = array.shape[0] // 3 * 2, array.shape[1] // 2
        chroma = array[rows:].reshape(2, rows // 2, half).repeat(2, axis=1).repeat(2, axis=2)
        luma = array[:rows].repeat(2, axis=0).repeat(2, axis=1)
        return np.concatenate([luma, chroma.reshape(-1, luma.shape[1])])

    outcome = restore(source, target, NoOp(doubled), scale=2, compare=compare)
    before, after = read_video(source), read_video(target)
    assert after.size == (2 * size[0], 2 * size[1]) == (outcome.height, outcome.width)
    for one, two in zip(before.pictures, after.pictures):
        assert np.abs(one.repeat(2, axis=0).repeat(2, axis=1) - two.astype(float)).mean() < 3
    assert read_video(compare).size == (2 * size[0], 4 * size[1] + 4)


def test_errors_name_the_video_and_the_frame(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4")

    def fails(array: np.ndarray) -> np.ndarray:
        if restorer.given == 8:
            raise RuntimeError("no power")
        return array

    restorer = NoOp(fails)
    with pytest.raises(EngineError, match=r"a\.mp4, behind its first 5 frames: frame 2: .*power"):
        restore(source, tmp_path / "b.mp4", restorer, part_frames=5)
    (tmp_path / "text.mp4").write_text("no video")
    for name, message in (("text.mp4", "is no video"), ("gone.mp4", "no such file")):
        with pytest.raises(StreamError, match=rf"{name}: cannot be read as a video: .*{message}"):
            restore(tmp_path / name, tmp_path / "c.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as output:
        stream = output.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate = 48000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    with pytest.raises(StreamError, match=r"sound\.mp4: there is no video in it"):
        restore(tmp_path / "sound.mp4", tmp_path / "c.mp4")


def test_a_network_of_super_resolution(tmp_path: Path) -> None:
    source, target = make_video(tmp_path / "a.mp4", frames=3), tmp_path / "b.mkv"
    engine = me.FakeEngine(facts=me.ModelFacts(scale=2, min_size_px=4))
    with me.Restorer(engine, pixels=pixel_format("i420", standard="bt601")) as restorer:
        restore(source, target, restorer, scale=2, encoding={"codec": "ffv1"})
        with av.open(str(source)) as container:
            expected = [restorer(frame.to_ndarray()) for frame in container.decode(video=0)]
    with av.open(str(target)) as container:
        found = [frame.to_ndarray() for frame in container.decode(video=0)]
    np.testing.assert_array_equal(found, expected)
