"""Sources that have no end: a network stream that stops and comes back, cameras and what they are
set to."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frame_paths import OneByOne
from video_jobs import restore
from video_samples import NoOp, make_video, read_video

from mirnet_edge.errors import StreamError
from mirnet_edge.frames.pixel_formats import pixel_format
from mirnet_edge.stream import cameras
from mirnet_edge.stream.cameras import Camera
from mirnet_edge.stream.frame_stream import FrameStream
from mirnet_edge.stream.sources import open_source
from mirnet_edge.stream.video import live
from mirnet_edge.stream.video.live import open_video
from mirnet_edge.stream.video.parts import Parts


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connects again at once."""
    monkeypatch.setattr(live, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(cameras, "FIRST_WAIT_S", 0.01)


Serve = Callable[..., str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serves one video for each connection, and lets go of the next one, or keeps it open."""
    servers, over = [], threading.Event()

    def start(*videos: bytes, keep_open: bool = False) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def run() -> None:
            with suppress(OSError):
                for video in videos:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        connection.sendall(video)
                        if keep_open:
                            over.wait(20)
                server.close()

        threading.Thread(target=run, daemon=True).start()
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"

    yield start
    over.set()
    for server in servers:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()


@pytest.fixture
def broadcast(tmp_path: Path) -> bytes:
    """A second of video as it comes over a network."""
    return make_video(tmp_path / "live.ts", frames=25, options={"bf": "0"}).read_bytes()


def stream_of(source: Any, **settings: Any) -> FrameStream:
    return FrameStream(OneByOne(np.copy), source, **settings)


# Network streams


def test_a_network_source_that_ends_is_an_error(serve: Serve, broadcast: bytes) -> None:
    found = []
    with pytest.raises(StreamError, match=r"^frame 25: tcp://.*: stopped after 25 frames: it end"):
        found.extend(stream_of(serve(broadcast)).frames())
    assert [item.timestamp for item in found] == pytest.approx([n / 25 for n in range(25)])


def test_a_network_source_is_connected_again_and_its_clock_goes_on(
    serve: Serve, broadcast: bytes
) -> None:
    stream = stream_of(serve(broadcast, broadcast), reconnect=2)
    times: list[float] = []
    with pytest.raises(StreamError, match=r"stopped after 50 frames: .*; 2 attempts to connect"):
        times.extend(item.timestamp for item in stream.frames())
    assert len(times) == 50
    assert times == sorted(times)
    assert times[25] - times[24] >= 0.039


def test_one_that_comes_back_with_other_frames_is_an_error(
    serve: Serve, broadcast: bytes, tmp_path: Path
) -> None:
    other = make_video(tmp_path / "b.ts", frames=5, size=(64, 64)).read_bytes()
    with pytest.raises(StreamError, match=r"stopped after 25 frames"):
        list(stream_of(serve(broadcast, other), reconnect=1))


def test_a_network_source_that_gives_nothing_has_stopped(serve: Serve, broadcast: bytes) -> None:
    reader = open_video(serve(broadcast, keep_open=True), timeout_s=0.3)
    with pytest.raises(StreamError, match=r"stopped after 2\d frames: nothing came for 0\.3 s"):
        list(reader.frames())
    reader.close()


def test_a_live_video_is_written_until_its_duration(
    serve: Serve, broadcast: bytes, tmp_path: Path
) -> None:
    outcome = restore(
        serve(broadcast, broadcast),
        tmp_path / "out.mp4",
        opening={"reconnect": 1},
        duration_s=1.5,
        part_frames=10,
    )
    after = read_video(tmp_path / "out.mp4")
    assert outcome.frames == len(after.times) < 50
    assert 1.4 < float(after.times[-1]) < 1.5
    assert outcome.reasons == ["connected again after 25 frames: it ended"]


def test_what_a_live_video_gave_before_it_stopped_is_kept(
    serve: Serve, broadcast: bytes, tmp_path: Path
) -> None:
    target = tmp_path / "out.mp4"
    url = serve(broadcast, broadcast)
    with pytest.raises(StreamError, match="stopped after 25 frames"):
        restore(url, target, part_frames=10)
    assert len(list((tmp_path / ".out.mp4.parts").glob("*.nut"))) == 2
    with pytest.raises(StreamError, match="stopped after 25 frames"):
        restore(url, target, part_frames=10)
    parts = Parts(target, json.loads((tmp_path / ".out.mp4.parts" / "run.json").read_text()))
    assert parts.frames == 40
    begins = [part.first_pts for part in parts.finished]
    assert begins == [0, 10 * 3600, 20 * 3600, 30 * 3600], "the clock goes on"


def test_ctrl_c_ends_a_live_recording(serve: Serve, broadcast: bytes, tmp_path: Path) -> None:
    def stop(done: int, total: int | None) -> None:
        if done == 14:
            raise KeyboardInterrupt

    target = tmp_path / "out.mp4"
    outcome = restore(serve(broadcast), target, NoOp(), part_frames=10, progress=stop)
    assert outcome.frames == len(read_video(target).times) == 14
    source = make_video(tmp_path / "a.mp4", frames=20)
    with pytest.raises(KeyboardInterrupt):
        restore(source, tmp_path / "b.mp4", part_frames=10, progress=stop)


def test_a_live_source_begins_now(serve: Serve, broadcast: bytes) -> None:
    with pytest.raises(StreamError, match="a live source begins now; leave the start out"):
        open_video(serve(broadcast), begin_s=3)


# Cameras


class FakeCamera:
    """OpenCV's interface; takes what ``has`` holds, and stops after some frames."""

    def __init__(self, has: dict[int, float], frames: list[np.ndarray], opened: bool) -> None:
        self.has, self.frames, self.opened = has, iter(frames), opened
        self.was_set: list[tuple[int, float]] = []
        self.released = 0

    def isOpened(self) -> bool:
        return self.opened

    def set(self, control: int, value: float) -> bool:
        self.was_set.append((control, value))
        return True

    def get(self, control: int) -> float:
        return self.has.get(control, 0.0)

    def read(self) -> tuple[bool, np.ndarray | None]:
        image = next(self.frames, None)
        return image is not None, image

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[FakeCamera]]:
    """Makes each opening of a camera give the next of some lists of frames; none is no camera."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")

    def plug(*lists: list[np.ndarray], **has: float) -> list[FakeCamera]:
        opened: list[FakeCamera] = []
        left = list(lists)
        controls = {getattr(cv2, f"CAP_PROP_{name}"): value for name, value in has.items()}

        def capture(*_: object) -> FakeCamera:
            frames = left.pop(0) if left else []
            opened.append(FakeCamera(controls, frames, bool(frames)))
            return opened[-1]

        monkeypatch.setattr(cv2, "VideoCapture", capture)
        return opened

    return plug


def picture(value: int) -> np.ndarray:
    return np.full((4, 6, 3), value, np.uint8)


def test_a_camera_is_set_and_asked_whether_it_took_it(
    plugged: Callable[..., list[FakeCamera]],
) -> None:
    import cv2

    mjpg = cv2.VideoWriter_fourcc(*"MJPG")
    opened = plugged([picture(1)], FRAME_WIDTH=6, FRAME_HEIGHT=4, FPS=29.97, FOURCC=mjpg)
    frames = iter(open_source(Camera(2, width=6, height=4, rate=30, fourcc="MJPG")))
    assert next(frames)[0, 0, 0] == 1  # type: ignore[call-overload]
    assert opened[0].was_set == [
        (cv2.CAP_PROP_FOURCC, mjpg),
        (cv2.CAP_PROP_FRAME_WIDTH, 6),
        (cv2.CAP_PROP_FRAME_HEIGHT, 4),
        (cv2.CAP_PROP_FPS, 30),
    ]
    opened = plugged([picture(1)], [picture(1)])
    for source in (Camera(0), 0):
        open_source(source).close()
    assert [camera.was_set for camera in opened] == [[], []]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 7}, r"camera 0 does not take width 7: it has 6; `v4l2-ctl"),
        ({"rate": 60}, r"camera 0 does not take rate 60: it has 30"),
        ({"fourcc": "NV12"}, r"camera 0 does not take fourcc NV12: it has YUYV"),
    ],
)
def test_a_setting_that_a_camera_does_not_take_is_an_error(
    settings: dict[str, Any], message: str, plugged: Callable[..., list[FakeCamera]]
) -> None:
    yuyv = int.from_bytes(b"YUYV", "little")
    opened = plugged([picture(1)], FRAME_WIDTH=6, FPS=30, FOURCC=yuyv)
    with pytest.raises(StreamError, match=message):
        open_source(Camera(0, **settings))
    assert opened[0].released == 1


def test_codes_are_taken_raw(plugged: Callable[..., list[FakeCamera]]) -> None:
    import cv2

    yuyv = cv2.VideoWriter_fourcc(*"YUYV")
    codes = np.zeros((4, 6, 2), np.uint8)
    opened = plugged([codes], FOURCC=yuyv)
    frames = iter(open_source(Camera(0, fourcc="YUYV"), pixel_format("yuyv")))
    assert next(frames) is codes
    assert opened[0].was_set[-1] == (cv2.CAP_PROP_CONVERT_RGB, 0)


@pytest.mark.parametrize(
    ("channels", "pixels", "message"),
    [
        (2, None, r"two bytes a pixel, as yuyv, no Restorer's without pixels; make"),
        (2, "nv12", "two bytes a pixel, as yuyv, not nv12"),
        (3, "nv12", r"camera 0 gives frames of shape \(4, 6, 3\): BGR, not nv12; make"),
        (3, "gray", "BGR, not gray"),
        (3, "rgba", "BGR, not rgba"),
        (1, "rgb", "one channel, gray or the codes of nv12 or i420, not rgb"),
        (1, "yuyv", "one channel"),
    ],
)
def test_what_contradicts_the_format_is_an_error(
    channels: int, pixels: str | None, message: str, plugged: Callable[..., list[FakeCamera]]
) -> None:
    image = np.zeros((4, 6, channels) if channels > 1 else (4, 6), np.uint8)
    plugged([image])
    source = open_source(0, None if pixels is None else pixel_format(pixels))
    with pytest.raises(StreamError, match=message):
        next(iter(source))


def test_a_camera_that_stops_is_opened_again(plugged: Callable[..., list[FakeCamera]]) -> None:
    opened = plugged([picture(1)] * 2, [], [picture(2)] * 3)
    found = []
    with pytest.raises(StreamError, match=r"^frame 5: camera 0 gave no more after 3 frames"):
        found.extend(stream_of(0, reconnect=2))
    assert [int(image[0, 0, 0]) for image in found] == [1, 1, 2, 2, 2]
    assert len(opened) == 5, "twice in a row, after each time that it gave frames"
    assert all(camera.released for camera in opened)
