"""When frames of a stream come: the PTS of a file, its own pace, and how long a source may take."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frame_paths import OneByOne, frame, values
from video_samples import make_video, read_video

from mirnet_edge.errors import StreamError
from mirnet_edge.frames.pixel_formats import RED_BLUE, pixel_format, to_rgb
from mirnet_edge.stream import transfer
from mirnet_edge.stream.frame_stream import FrameStream
from mirnet_edge.stream.source_clock import SourceClock
from mirnet_edge.stream.sources import open_source


def stream_of(frames: Any, **settings: Any) -> FrameStream:
    return FrameStream(OneByOne(np.copy), frames, **settings)


# PTS


def test_timestamps_of_a_file_are_its_pts(tmp_path: Path) -> None:
    pts = [0, 512, 600, 4000, 5120, 9000]
    source = make_video(
        tmp_path / "a.mp4", frames=6, pts=pts, time_base=Fraction(1, 12800), options={"bf": "2"}
    )
    found = [item.timestamp for item in stream_of(source).frames()]
    assert found == [tick / 12800 for tick in pts] == [float(t) for t in read_video(source).times]
    own = [item.timestamp for item in stream_of(source, timestamps=range(6)).frames()]
    assert own == [0, 1, 2, 3, 4, 5]


def test_frames_of_a_damaged_file_come_and_the_loss_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_video(tmp_path / "a.mkv", frames=50)
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 6 // 10])
    with caplog.at_level(logging.WARNING, "mirnet_edge"):
        count = len(list(stream_of(source)))
    assert 0 < count < 50
    assert f"about {50 - count} frames are lost: the file ends before" in caplog.text


# Formats of a file


@pytest.mark.parametrize("tags", [(1, 1, 1, 1), (6, 1, 6, 6), (6, 2, 6, 6)])
def test_a_file_is_converted_to_the_format_that_is_asked_for(
    tags: tuple[int, int, int, int], tmp_path: Path
) -> None:
    colour = np.array((200, 60, 90))
    source = make_video(
        tmp_path / "a.mkv", frames=1, codec="ffv1", tags=tags,
        picture=lambda _: np.broadcast_to(np.uint8(colour), (48, 64, 3)).copy(),
    )  # fmt: skip
    standard = "bt709" if tags[0] == 1 else "bt601"
    same = pixel_format("i420", standard=standard, full_range=tags[1] == 2)
    ((_, codes),) = open_source(source, same)
    assert codes.shape == (72, 64)
    truth = to_rgb(codes, same)[0, 0] * 255
    formats: dict[str, Any] = {
        "rgb": lambda array: array[10, 10],
        "bgr": lambda array: array[10, 10, ::-1],
        "rgba": lambda array: array[10, 10, :3],
        "bgra": lambda array: array[10, 10, 2::-1],
    }
    for name, rgb_of in formats.items():
        ((_, array),) = open_source(source, pixel_format(name))
        assert np.abs(rgb_of(array) - truth).max() <= 3, name
    for name in ("nv12", "i420", "yuyv"):
        for other in ("bt601", "bt709"):
            for full in (False, True):
                pixels = pixel_format(name, standard=other, full_range=full)
                ((_, array),) = open_source(source, pixels)
                error = np.abs(to_rgb(array, pixels)[10, 10] * 255 - truth).max()
                assert error <= 6, (name, other, full)
    ((_, gray),) = open_source(source, pixel_format("gray"))
    assert gray.shape == (48, 64)
    red, blue = RED_BLUE[standard]
    luma = truth @ np.array([red, 1 - red - blue, blue])
    assert abs(float(gray[10, 10]) - luma) <= 2


def test_codes_that_are_of_the_format_stay_as_they_are(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mkv", frames=2, codec="ffv1", tags=(1, 1, 1, 1))
    arrays = [array for _, array in open_source(source, pixel_format("i420"))]
    for array, luma in zip(arrays, read_video(source).pictures, strict=True):
        np.testing.assert_array_equal(array[:48], luma)
    nv12 = [array for _, array in open_source(source, pixel_format("nv12"))]
    for one, two in zip(arrays, nv12, strict=True):
        np.testing.assert_array_equal(two[:48], one[:48])
        np.testing.assert_array_equal(two[48:].reshape(-1, 2).T.reshape(24, 64), one[48:])


def test_odd_sides_are_no_shared_chroma(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.avi", frames=1, codec="mpeg4", size=(45, 63))
    with pytest.raises(StreamError, match=r"frames of 63x45 pixels are no nv12, which has even"):
        open_source(source, pixel_format("nv12"))
    assert len(list(open_source(source))) == 1


# Pace


def test_a_file_plays_at_its_own_pace(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", frames=8)  # 25 a second
    began = time.monotonic()
    came = [time.monotonic() - began for _ in stream_of(source, pace="source")]
    assert len(came) == 8
    # A busy machine hands the first frames over late, and none early.
    assert all(after > 0.04 * number for number, after in enumerate(came))
    slow = make_video(tmp_path / "b.mp4", frames=8, pts=range(0, 8 * 25 * 60, 25 * 60))  # minutes
    began = time.monotonic()
    assert len(list(stream_of(slow))) == 8
    assert time.monotonic() - began < 60


def test_what_is_too_slow_for_a_paced_file_drops_frames_of_it(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", frames=12)

    def slow(image: np.ndarray) -> np.ndarray:
        time.sleep(0.1)
        return image.copy()

    stream = FrameStream(OneByOne(slow), source, pace="source", drop="oldest", queue=1)
    found = list(stream.frames())
    assert stream.dropped > 0
    assert stream.dropped + len(found) == 12


def test_waiting_for_the_time_of_a_frame_is_no_latency() -> None:
    stream = stream_of([frame(0), frame(1)], pace="source", timestamps=[0, 1])
    assert max(item.latency_ms for item in stream.frames()) < 900


def test_an_async_source_is_paced_by_timestamps() -> None:
    async def frames() -> AsyncIterator[np.ndarray]:
        for number in range(4):
            yield frame(number)

    async def came() -> list[float]:
        stream = stream_of(frames(), pace="source", timestamps=[5, 5.05, 5.1, 5.15])
        return [time.monotonic() async for _ in stream]

    began = time.monotonic()
    assert asyncio.run(came())[-1] - began > 0.15


def test_a_paced_stream_is_closed_at_once() -> None:
    stream = stream_of([frame(0), frame(1)], pace="source", timestamps=[0, 1000])
    assert next(stream) is not None
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 60


# Watchdog


@pytest.mark.parametrize("given", [0, 3])
def test_a_source_that_gives_nothing_is_an_error_with_the_number(
    given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PATIENCE_S", 0.1)  # test_stream_closing.py is about its second
    over = threading.Event()

    def frames() -> Iterator[np.ndarray]:
        for number in range(given):
            yield frame(number)
        over.wait(20)

    found, began = [], time.monotonic()
    with pytest.raises(StreamError, match=rf"^frame {given}: the source gave nothing for 0\.2 s"):
        found.extend(stream_of(frames(), timeout=0.2))
    assert values(found) == list(range(given))
    assert 0.15 < time.monotonic() - began < 20
    over.set()


def test_an_async_source_that_gives_nothing_is_an_error() -> None:
    async def frames() -> AsyncIterator[np.ndarray]:
        yield frame(0)
        await asyncio.sleep(20)

    async def drain() -> list[np.ndarray]:
        return [image async for image in stream_of(frames(), timeout=0.2)]

    with pytest.raises(StreamError, match=r"^frame 1: the source gave nothing for 0\.2 s"):
        asyncio.run(asyncio.wait_for(drain(), 10))


def test_a_caller_and_an_engine_may_take_longer_than_the_source() -> None:
    def slow(image: np.ndarray) -> np.ndarray:
        time.sleep(0.12)
        return image.copy()

    stream = FrameStream(OneByOne(slow), (frame(n) for n in range(4)), timeout=0.1, queue=1)
    found = []
    for image in stream:
        time.sleep(0.12)
        found.append(image)
    assert values(found) == [0, 1, 2, 3]


def test_a_clock_without_limits_waits_for_ever() -> None:
    clock = SourceClock()
    clock.ask()
    assert clock.left_s() is None
    read = clock.read(0, (3.5, frame(0)))
    assert (read.timestamp, clock.early_s(read)) == (3.5, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pace": "slow"}, 'pace=\'slow\': need "free" or "source"'),
        ({"timeout": 0}, "timeout=0: need seconds, more than 0, or None"),
        ({"reconnect": -1}, "reconnect=-1: need a whole number, at least 0"),
    ],
)
def test_settings_that_are_none(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StreamError, match=message):
        stream_of([], **settings)
