"""Where a stream's frames come from: what is opened, in which order and colours; what is not."""

from __future__ import annotations

import asyncio
import queue
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frame_paths import OneByOne, mjpg_video

from mirnet_edge.errors import ImageError, MissingDependencyError, StreamError
from mirnet_edge.frames.images import write_image
from mirnet_edge.frames.pixel_formats import pixel_format
from mirnet_edge.stream.frame_stream import FrameStream
from mirnet_edge.stream.sources import open_source

RED, GREEN, BLUE = (200, 10, 30), (20, 190, 40), (15, 25, 210)


def flat(colour: tuple[int, ...], height: int = 48, width: int = 64) -> np.ndarray:
    return np.broadcast_to(np.uint8(colour), (height, width, len(colour))).copy()


class FakeCapture:
    """OpenCV's interface over a list of BGR frames."""

    def __init__(self, frames: list[np.ndarray], opened: bool = True) -> None:
        self._frames, self._opened, self.released = iter(frames), opened, 0

    def isOpened(self) -> bool:
        return self._opened

    def read(self) -> tuple[bool, np.ndarray | None]:
        image = next(self._frames, None)
        return image is not None, image

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Five frames each of red, green and blue at 12.5 a second."""
    return mjpg_video(
        tmp_path / "clip.avi", (flat(colour) for colour in (RED, GREEN, BLUE) for _ in range(5))
    )


# Iterables


def test_items_of_an_iterable_pass_as_they_are() -> None:
    frames = [flat(RED), (0.5, flat(GREEN))]
    source = open_source(frames)
    assert [a is b for a, b in zip(source, frames)] == [True, True]
    source.close()
    stack = np.stack([flat(RED), flat(BLUE)])
    assert len(list(open_source(stack))) == 2


def test_a_generator_is_closed_and_a_file_is_not() -> None:
    closed = []

    def frames() -> Iterator[np.ndarray]:
        try:
            yield flat(RED)
            yield flat(RED)
        finally:
            closed.append(1)

    source = open_source(frames())
    next(iter(source))
    source.close()
    source.close()
    assert closed == [1]


def test_a_queue_is_read_until_none() -> None:
    items: queue.Queue[Any] = queue.Queue()
    for item in (flat(RED), (2.5, flat(GREEN)), None, flat(BLUE)):
        items.put(item)
    found = list(FrameStream(OneByOne(np.copy), items).frames())
    assert [item.image[0, 0].tolist() for item in found] == [[*RED], [*GREEN]]
    assert found[1].timestamp == 2.5
    with pytest.raises(StreamError, match="a Queue is no source of frames"):
        open_source(asyncio.Queue())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "a NoneType is no source of frames: give"),
        (True, "a bool is no source"),
        (2.5, "a float is no source"),
        (np.zeros((4, 5, 3)), r"shape \(4, 5, 3\) is no sequence of frames"),
        ("no/such/folder", "no/such/folder: no such file"),
        ("no/such/*.png", "no such file, and no image"),
        ("no/such/clip.mp4", r"no/such/clip\.mp4: no such file"),
    ],
)
def test_what_is_no_source_is_refused_at_once(source: Any, message: str) -> None:
    with pytest.raises(StreamError, match=message):
        open_source(source)


# Images


def test_images_come_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 1, 100, 2):
        write_image(tmp_path / f"f{number}.png", np.full((3, 4), number, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    for spec in (tmp_path, str(tmp_path), f"{tmp_path}/*.png"):
        source = open_source(spec)
        assert [int(image[0, 0]) for image in source] == [1, 2, 9, 10, 100]
    assert len(list(open_source(tmp_path / "f9.png"))) == 1


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match=r"no image \(.*videos are \.mp4"):
        open_source(tmp_path)


def test_an_unreadable_image_is_named_with_its_number(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", flat(RED))
    (tmp_path / "2.png").write_bytes(b"not a picture")
    found = []
    stream = FrameStream(OneByOne(np.copy), tmp_path)
    with pytest.raises(ImageError, match=r"^frame 1: .*2\.png: 13 bytes in no image format"):
        found.extend(stream)
    assert np.array_equal(found, [flat(RED)])


# Videos and cameras


def test_a_video_is_read_as_rgb(video: Path) -> None:
    source = open_source(video)
    times, images = zip(*source)
    assert times == tuple(number / 12.5 for number in range(15)), "those of the file"
    means = [image.mean((0, 1)) for image in images]
    expected = np.repeat([RED, GREEN, BLUE], 5, axis=0)
    assert np.abs(means - expected).max() < 6, means
    source.close()
    source.close()


def test_a_video_streams(video: Path) -> None:
    stream = FrameStream(OneByOne(lambda image: 255 - image), str(video))
    found = list(stream.frames())
    assert [item.index for item in found] == list(range(15))
    assert np.abs(found[-1].image.mean((0, 1)) - (255 - np.array(BLUE))).max() < 6


def test_a_damaged_video_is_an_error(video: Path) -> None:
    video.write_bytes(b"RIFF" + bytes(200))
    with pytest.raises(StreamError, match=r"clip\.avi: cannot be read as a video: "):
        open_source(video)


def test_a_capture_of_the_callers_is_read_as_rgb_and_not_released(video: Path) -> None:
    import cv2

    capture = cv2.VideoCapture(str(video))
    found = list(FrameStream(OneByOne(np.copy), capture))
    assert len(found) == 15
    assert np.abs(found[0].mean((0, 1)) - RED).max() < 6
    assert capture.isOpened()
    capture.release()
    with pytest.raises(StreamError, match="the VideoCapture is not open"):
        open_source(capture)


@pytest.mark.parametrize("opencv", [True, False], ids=["opencv", "numpy"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colours_of_a_capture_are_put_in_order(
    opencv: bool, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if opencv:
        pytest.importorskip("cv2", reason="OpenCV is not installed")
    else:
        monkeypatch.setitem(sys.modules, "cv2", None)
    rng = np.random.default_rng(channels)
    image = rng.integers(0, 256, (7, 5, channels), np.uint8)
    capture = FakeCapture([image, image[:, :, 0]])
    source = open_source(capture)
    colour, gray = source
    np.testing.assert_array_equal(
        colour, image[:, :, {1: [0], 3: [2, 1, 0]}.get(channels, [2, 1, 0, 3])]
    )
    np.testing.assert_array_equal(gray, image[:, :, 0])
    source.close()
    assert capture.released == 0


@pytest.mark.parametrize(
    ("name", "blue_first"), [("bgr", True), ("bgra", True), ("rgb", False), ("rgba", False)]
)
def test_decoded_colours_come_in_the_order_of_the_format(
    name: str, blue_first: bool, tmp_path: Path
) -> None:
    rgb = flat((*RED, 7) if name.endswith("a") else RED)
    bgr = rgb[..., [2, 1, 0, 3][: rgb.shape[2]]]
    write_image(tmp_path / "0.png", rgb)
    for source in (tmp_path, FakeCapture([bgr])):
        (found,) = open_source(source, pixel_format(name))
        np.testing.assert_array_equal(found, bgr if blue_first else rgb)
    for items in ([bgr], iter([bgr])):
        (found,) = open_source(items, pixel_format(name))
        assert found is bgr, "arrays lie as the caller says"


@pytest.mark.parametrize("name", ["nv12", "i420", "yuyv"])
def test_codes_come_from_captures_and_not_from_image_files(name: str, tmp_path: Path) -> None:
    """GStreamer and V4L2 can give them raw. A gray file has the shape of NV12, and is no such."""
    write_image(tmp_path / "0.png", np.zeros((6, 4), np.uint8))
    with pytest.raises(StreamError, match=f"image files hold gray or RGB, not {name}; make the"):
        open_source(tmp_path, pixel_format(name))
    codes = np.zeros((6, 4, 2) if name == "yuyv" else (6, 4), np.uint8)
    (found,) = open_source(FakeCapture([codes]), pixel_format(name))
    assert found is codes


def test_a_capture_needs_no_more_than_read() -> None:
    class Camera:
        frames = iter([flat(BLUE)] * 3)

        def read(self) -> tuple[bool, Any]:
            image = next(self.frames, None)
            return image is not None, image

    assert len(list(open_source(Camera()))) == 3


def test_a_capture_without_frames_is_an_error() -> None:
    with pytest.raises(StreamError, match=r"^frame 0: the FakeCapture gave no frame; is it"):
        list(FrameStream(OneByOne(np.copy), FakeCapture([])))
    with pytest.raises(StreamError, match="the FakeCapture is not open"):
        open_source(FakeCapture([], opened=False))


def test_a_capture_of_ours_is_released_by_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    asked = []
    camera = FakeCapture([flat(RED)] * 30)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *what: asked.append(what) or camera)
    for _ in FrameStream(OneByOne(np.copy), 0):
        break
    assert asked == [(0, cv2.CAP_ANY)]
    assert camera.released == 1


def test_a_camera_that_stops_is_an_error_and_a_capture_that_ends_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: FakeCapture([flat(RED)] * 2))
    frames = iter(open_source(0))
    next(frames), next(frames)
    with pytest.raises(StreamError, match="camera 0 gave no more after 2 frames; is it unplugged"):
        next(frames)
    assert len(list(open_source(FakeCapture([flat(RED)] * 2)))) == 2


def test_a_camera_that_cannot_be_opened_is_named() -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    with pytest.raises(StreamError, match="OpenCV cannot open camera 97: is it there"):
        open_source(97)


@pytest.mark.parametrize("built_with", [True, False])
def test_a_gstreamer_pipeline_goes_to_gstreamer(
    built_with: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    pipeline, asked = "nvarguscamerasrc ! nvvidconv ! appsink", []
    capture = FakeCapture([flat(RED)], opened=built_with)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *what: asked.append(what) or capture)
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: built_with)
    if built_with:
        assert len(list(open_source(pipeline))) == 1
    else:
        with pytest.raises(StreamError, match=r"nvvidconv ! appsink: OpenCV .* without GStreamer"):
            open_source(pipeline)
        assert capture.released == 1
    assert asked == [(pipeline, cv2.CAP_GSTREAMER)]


@pytest.mark.parametrize(("package", "source"), [("cv2", 0), ("av", "clip.mp4")])
def test_without_its_package_the_error_names_the_extra(
    package: str, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clip.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"mirnet-edge\[video\]"):
        open_source(source)
