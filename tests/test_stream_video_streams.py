"""What lies beside the pictures of a video: subtitles, chapters, several sounds, and what changes
in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from video_jobs import restore, seconds
from video_samples import NoOp, av, make_video, read_video

from mirnet_edge.errors import StreamError
from mirnet_edge.stream.video.joining import Whole

ATTACHED = 0x400
"""AV_DISPOSITION_ATTACHED_PIC of FFmpeg."""
SUBTITLES = """1
00:00:00,200 --> 00:00:00,900
one

2
00:00:01,200 --> 00:00:01,900
two
"""


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Two seconds with two sounds, subtitles, an attachment and chapters."""
    video = make_video(tmp_path / "video.mkv", frames=50, audio=True, options={"bf": "0"})
    (tmp_path / "a.srt").write_text(SUBTITLES)
    with (
        av.open(str(video)) as pictures,
        av.open(str(tmp_path / "a.srt")) as text,
        av.open(str(tmp_path / "film.mkv"), "w") as output,
    ):
        output.metadata["title"] = "a film"
        shown, sound, said = pictures.streams.video[0], pictures.streams.audio[0], text.streams[0]
        streams = [
            output.add_stream_from_template(stream, opaque=True)
            for stream in (shown, sound, sound, said)
        ]
        for stream, language in zip(streams[1:], ("deu", "fra", "eng")):
            stream.metadata["language"] = language
        output.add_attachment("letters.ttf", "font/ttf", b"a font")
        chapter = {"start": 0, "end": 1000, "time_base": Fraction(1, 1000)}
        output.set_chapters(
            [
                {**chapter, "id": 1, "metadata": {"title": "begin"}},
                {**chapter, "id": 2, "start": 1000, "end": 2000, "metadata": {"title": "end"}},
            ]
        )
        for packet in pictures.demux():
            if packet.dts is not None:
                kept = bytes(packet), packet.pts, packet.dts, packet.duration, packet.time_base
                targets = streams[:1] if packet.stream.type == "video" else streams[1:3]
                for target in targets:
                    copy = av.Packet(kept[0])
                    copy.pts, copy.dts, copy.duration, copy.time_base = kept[1:]
                    copy.stream, copy.is_keyframe = target, packet.is_keyframe
                    output.mux_one(copy)
        for packet in text.demux():
            if packet.dts is not None:
                packet.stream = streams[3]
                output.mux_one(packet)
    return tmp_path / "film.mkv"


def described(path: Path) -> list[tuple[str, str | None]]:
    with av.open(str(path)) as container:
        return [(stream.type, stream.metadata.get("language")) for stream in container.streams]


def test_all_of_a_film_is_kept(film: Path, tmp_path: Path) -> None:
    outcome = restore(film, tmp_path / "out.mkv", part_frames=20)
    assert outcome.copied == [
        *("audio (aac)", "audio (aac)", "subtitle (subrip)", "attachment (letters.ttf)"),
    ]
    assert outcome.left_out == []
    assert described(tmp_path / "out.mkv") == described(film)
    before, after = read_video(film), read_video(tmp_path / "out.mkv")
    assert after.others == before.others
    assert [bytes(text) for _, text in after.others["subtitle"]] == [b"one", b"two"]
    assert after.metadata["title"] == "a film"
    with av.open(str(film)) as one, av.open(str(tmp_path / "out.mkv")) as two:
        titles = [chapter["metadata"]["title"] for chapter in two.chapters()]
        assert titles == ["begin", "end"]
        assert [c["start"] for c in two.chapters()] == [c["start"] for c in one.chapters()]
        (attached,) = (stream for stream in two.streams if stream.type == "attachment")
        assert attached.data == b"a font"


def test_what_a_container_does_not_hold_is_told(film: Path, tmp_path: Path) -> None:
    outcome = restore(film, tmp_path / "out.mp4", part_frames=20)
    assert outcome.copied == ["audio (aac)", "audio (aac)"]
    assert outcome.left_out == [
        "subtitle (subrip): .mp4 does not hold it; .mkv may",
        "attachment (letters.ttf): .mp4 does not hold it; .mkv does",
    ]
    assert len(read_video(tmp_path / "out.mp4").times) == 50


def test_sound_that_cannot_be_written_does_not_cost_the_video(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> Iterator[tuple[float, object]]:
        raise ValueError("no such sound")
        yield

    monkeypatch.setattr(Whole, "_copied_packets", refuses)
    outcome = restore(film, tmp_path / "out.mp4", part_frames=20)
    assert outcome.copied == []
    assert outcome.left_out[-1].startswith("audio (aac), audio (aac): cannot write ")
    assert "no such sound" in outcome.left_out[-1]
    after = read_video(tmp_path / "out.mp4")
    assert (len(after.times), after.others) == (50, {})


def test_subtitles_of_a_part_move_with_it(film: Path, tmp_path: Path) -> None:
    restore(film, tmp_path / "out.mkv", begin_s=seconds(1), duration_s=seconds(0.6))
    ((at_s, text),) = read_video(tmp_path / "out.mkv").others["subtitle"]
    assert (float(at_s), text) == (pytest.approx(0.2, abs=0.002), b"two")


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    video = make_video(tmp_path / "video.mp4", frames=5)
    with (
        av.open(str(video)) as pictures,
        av.open(str(tmp_path / "cover.mp4"), "w") as output,
    ):
        cover = output.add_stream("mjpeg", rate=25)
        cover.height, cover.width, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = ATTACHED
        shown = output.add_stream_from_template(pictures.streams.video[0], opaque=True)
        gray = np.full((48, 32), 128, np.uint8)
        output.mux(cover.encode(av.VideoFrame.from_ndarray(gray, format="yuvj420p")))
        output.mux(cover.encode())
        for packet in pictures.demux():
            if packet.dts is not None:
                packet.stream = shown
                output.mux_one(packet)
    outcome = restore(tmp_path / "cover.mp4", tmp_path / "out.mp4")
    assert (outcome.frames, outcome.height) == (5, 48)
    assert outcome.left_out == ["video (mjpeg): only sound, subtitles and attachments are copied"]


def test_hevc_is_tagged_for_apples_players(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", frames=2)
    restore(source, tmp_path / "b.mp4", encoding={"codec": "hevc"})
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


def test_a_size_that_changes_in_the_middle_is_an_error(tmp_path: Path) -> None:
    one = make_video(tmp_path / "a.ts", frames=10, options={"bf": "0"})
    two = make_video(tmp_path / "b.ts", frames=10, size=(64, 96), options={"bf": "0"})
    joined = tmp_path / "c.ts"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    with pytest.raises(StreamError, match=r"a frame of 96x64 pixels after those of 64x48; cut the"):
        restore(joined, tmp_path / "out.ts")


def test_a_clock_that_goes_back_goes_on(tmp_path: Path) -> None:
    one = make_video(tmp_path / "a.ts", frames=10, options={"bf": "0"}).read_bytes()
    (tmp_path / "c.ts").write_bytes(one + one)
    outcome = restore(tmp_path / "c.ts", tmp_path / "out.mkv", part_frames=7)
    times = read_video(tmp_path / "out.mkv").times
    assert outcome.frames == len(times) == 20
    assert times == sorted(set(times))


def test_hardware_is_taken_where_it_is_and_else_not(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4")
    restorer = NoOp()
    outcome = restore(
        source,
        tmp_path / "out.mp4",
        restorer,
        encoding={"hardware": True},
        opening={"hardware": True},
    )
    assert outcome.frames == restorer.given == 12
    before, after = read_video(source), read_video(tmp_path / "out.mp4")
    assert after.times == before.times
    assert after.codec == "h264"
    for first, second in zip(before.pictures, after.pictures):
        assert np.abs(first.astype(float) - second).mean() < 4
