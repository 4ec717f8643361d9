"""Where a stream's frames go: the folder, the video and the colours that end up there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frame_paths import OneByOne, mjpg_video

from mirnet_edge.device.device_array import DeviceArray, Lease
from mirnet_edge.engines.fake import FakeEngine
from mirnet_edge.errors import OutputError, StreamError
from mirnet_edge.frames.images import read_image
from mirnet_edge.frames.pixel_formats import from_rgb, pixel_format
from mirnet_edge.restore import Restorer
from mirnet_edge.stream.frame_stream import FrameStream
from mirnet_edge.stream.sources import open_source


def pixels(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 256, shape).astype(dtype)


def stream_of(frames: Any, **settings: Any) -> FrameStream:
    return FrameStream(OneByOne(np.copy), frames, **settings)


class FakeWriter:
    """OpenCV's interface; answers as OpenCV 5 does, or not at all, as OpenCV 4."""

    def __init__(self, answer: bool | None = None, opened: bool = True) -> None:
        self._answer, self._opened = answer, opened
        self.written: list[np.ndarray] = []
        self.released = 0

    def isOpened(self) -> bool:
        return self._opened

    def write(self, image: np.ndarray) -> bool | None:
        assert image.flags.c_contiguous, "OpenCV takes no other"
        self.written.append(image)
        return self._answer

    def release(self) -> None:
        self.released += 1


# Folders


@pytest.mark.parametrize("form", [str, Path])
def test_a_folder_is_made_and_filled_with_png(form: Any, tmp_path: Path) -> None:
    frames, folder = [pixels(5, 7, 3) ^ number for number in range(3)], tmp_path / "new" / "out"
    assert stream_of(frames).to(form(folder)).restored == 3
    assert sorted(path.name for path in folder.iterdir()) == [f"00000{n}.png" for n in range(3)]
    np.testing.assert_array_equal(list(open_source(folder)), frames)


def test_files_have_the_numbers_of_the_source(tmp_path: Path) -> None:
    def frames() -> Iterator[np.ndarray]:
        for number in range(40):
            yield np.full((2, 3), number, np.uint8)

    stream = stream_of(frames(), queue=1, drop="oldest")
    written = stream.to(tmp_path).restored
    files = list(tmp_path.iterdir())
    assert len(files) == written == 40 - stream.dropped
    for file in files:
        assert read_image(file).pixels[0, 0] == int(file.stem)


def test_a_folder_that_holds_frames_is_refused_before_the_first(tmp_path: Path) -> None:
    for name in ("000002.png", "1234567.png", "42.png", "notes.png", "000002-mask.png"):
        (tmp_path / name).write_bytes(b"mine")
    stream = stream_of([pixels(2, 3, 3)] * 3)
    with pytest.raises(OutputError, match=r"holds 000002\.png, one of 2 files named as frames are"):
        stream.to(tmp_path)
    assert stream.statistics().read == 0
    assert all(path.read_bytes() == b"mine" for path in tmp_path.iterdir())
    (tmp_path / "000002.png").unlink()
    (tmp_path / "1234567.png").unlink()
    assert stream.to(tmp_path).restored == 3


def test_a_file_that_comes_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    taken = tmp_path / "000001.png"

    def frames() -> Iterator[np.ndarray]:
        yield pixels(2, 3, 3)
        taken.write_bytes(b"mine")
        yield pixels(2, 3, 3)

    with pytest.raises(OutputError, match=r"^frame 1: .*000001\.png exists"):
        stream_of(frames()).to(tmp_path)
    assert taken.read_bytes() == b"mine"


@pytest.mark.parametrize(
    "frame",
    [
        *(pixels(5, 7), pixels(5, 7, 2), pixels(5, 7, 3), pixels(5, 7, 4)),
        *(pixels(5, 7, 1), pixels(5, 7, dtype=np.uint16), pixels(5, 7, 1, dtype=np.uint16)),
        *(pixels(5, 7, 3, dtype=np.uint16), pixels(5, 7, 4, dtype=np.uint16)),
    ],
    ids=lambda frame: f"{frame.dtype}-{frame.shape}",
)
def test_what_png_holds_comes_back(frame: np.ndarray, tmp_path: Path) -> None:
    stream_of([frame]).to(tmp_path)
    found = read_image(tmp_path / "000000.png").pixels
    np.testing.assert_array_equal(found, frame.reshape(found.shape))
    assert found.dtype == frame.dtype


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_what_png_does_not_hold_is_refused(dtype: Any, tmp_path: Path) -> None:
    message = rf"^frame 0: cannot write .*: a frame of {np.dtype(dtype)}, shape \(5, 7, 3\); PNG"
    with pytest.raises(OutputError, match=message):
        stream_of([pixels(5, 7, 3, dtype=dtype)]).to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_leaves_the_stream_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stream = stream_of([pixels(5, 7, 3)])
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=r"cannot make the folder .*; choose another folder"):
            stream.to(folder)
    assert stream.to(tmp_path / "folder").restored == 1


@pytest.mark.parametrize(
    "name", ["out.mp4", "out.PNG", "rtmp://here/live", "appsrc ! videoconvert ! autovideosink"]
)
def test_a_name_of_something_else_makes_no_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StreamError, match=r"names no folder: .* give a cv2\.VideoWriter"):
        stream_of([pixels(5, 7, 3)]).to(name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_have_the_name_of_a_video(tmp_path: Path) -> None:
    folder = tmp_path / "clip.mp4"
    folder.mkdir()
    stream_of([pixels(5, 7, 3)]).to(folder)
    assert len(list(folder.iterdir())) == 1


# Colours


def frame_of(rgb: np.ndarray, name: str) -> np.ndarray:
    """The picture, (H, W, 3) uint8, in that format; alpha is 9."""
    height, width, _ = rgb.shape
    channels = {"bgr": 3, "rgba": 4, "bgra": 4, "yuyv": 2}.get(name)
    shape = (height, width, channels) if channels else (height * 3 // 2, width)
    out = np.full(shape, 9, np.uint8)
    if pixel_format(name).is_yuv:
        from_rgb(np.divide(rgb, 255, dtype=np.float32), pixel_format(name), out)
    else:
        out[..., :3] = rgb[..., ::-1] if name in ("bgr", "bgra") else rgb
    return out


@pytest.mark.parametrize("name", ["bgr", "rgba", "bgra", "nv12", "i420", "yuyv"])
def test_pictures_are_rgb_of_whatever_format(name: str, tmp_path: Path) -> None:
    rgb = np.tile(np.uint8([200, 90, 30]), (4, 6, 1))
    stream_of([frame_of(rgb, name)], pixels=pixel_format(name)).to(tmp_path)
    found = read_image(tmp_path / "000000.png").pixels
    assert found.shape == (4, 6, 4 if name in ("rgba", "bgra") else 3)
    assert np.abs(found[..., :3].astype(int) - rgb).max() <= 2, found[0, 0]
    assert (found[..., 3:] == 9).all()


def test_other_sinks_are_given_the_arrays_as_they_are() -> None:
    frame, found = pixels(6, 4), []
    stream_of([frame], pixels=pixel_format("nv12")).to(found.append)
    np.testing.assert_array_equal(found, [frame])


def test_frames_of_the_gpu_are_copied_from_it(tmp_path: Path) -> None:
    frame = pixels(5, 7, 3)

    def on_gpu(image: np.ndarray) -> Any:
        lease = Lease(1, lambda: None)
        return DeviceArray(lease, image.shape, image.dtype, lambda out: np.copyto(out, image))

    FrameStream(OneByOne(on_gpu), [frame]).to(tmp_path)
    np.testing.assert_array_equal(read_image(tmp_path / "000000.png").pixels, frame)


# Videos


@pytest.mark.parametrize("opencv", [True, False], ids=["opencv", "numpy"])
@pytest.mark.parametrize("answer", [None, True], ids=["opencv 4", "opencv 5"])
def test_a_video_is_given_bgr(
    opencv: bool, answer: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if opencv:
        pytest.importorskip("cv2", reason="OpenCV is not installed")
    else:
        monkeypatch.setitem(sys.modules, "cv2", None)
    frame, writer = pixels(5, 7, 3), FakeWriter(answer)
    assert stream_of([frame, ~frame]).to(writer).restored == 2
    np.testing.assert_array_equal(writer.written, [frame[..., ::-1], ~frame[..., ::-1]])
    bgr = FakeWriter(answer)
    stream_of([frame], pixels=pixel_format("bgr")).to(bgr)
    np.testing.assert_array_equal(bgr.written, [frame])
    assert (writer.released, bgr.released) == (0, 0), "whoever opened it releases it"


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
def test_gray_stays_gray(shape: tuple[int, ...]) -> None:
    frame, writer = pixels(*shape), FakeWriter()
    stream_of([frame]).to(writer)
    np.testing.assert_array_equal(writer.written, [frame.reshape(5, 7)])


@pytest.mark.parametrize(
    "frame",
    [pixels(5, 7, 4), pixels(5, 7, 2), pixels(5, 7, 3, dtype=np.float32)],
    ids=lambda frame: f"{frame.dtype}-{frame.shape}",
)
def test_what_a_video_does_not_hold_is_refused(frame: np.ndarray) -> None:
    writer = FakeWriter()
    message = rf"^frame 0: a frame of {frame.dtype}, shape .*: the FakeWriter takes uint8 of 3 chan"
    with pytest.raises(StreamError, match=message):
        stream_of([frame]).to(writer)
    assert writer.written == []


def test_a_change_of_size_is_refused() -> None:
    frames = [pixels(5, 7, 3), pixels(5, 7, 3), pixels(7, 5, 3)]
    with pytest.raises(StreamError, match=r"^frame 2: a frame of shape \(7, 5, 3\) after \(5, 7,"):
        stream_of(frames).to(FakeWriter())


def test_a_frame_that_opencv_refuses_is_an_error() -> None:
    message = r"^frame 0: the FakeWriter refused .*; open it for size \(7, 5\) with isColor="
    with pytest.raises(StreamError, match=message + "True"):
        stream_of([pixels(5, 7, 3)]).to(FakeWriter(False))
    with pytest.raises(StreamError, match=message + "False"):
        stream_of([pixels(5, 7)]).to(FakeWriter(False))


def test_a_writer_that_is_not_open_is_refused_before_a_frame_is_read() -> None:
    stream = stream_of([pixels(5, 7, 3)])
    with pytest.raises(StreamError, match="the FakeWriter is not open; are its codec and size"):
        stream.to(FakeWriter(opened=False))
    assert stream.statistics().read == 0


def test_a_video_has_the_colours_of_the_frames(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    path, colour = tmp_path / "clip.avi", (200, 90, 30)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 12.5, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MJPG video")
    stream_of([np.tile(np.uint8(colour), (48, 64, 1))] * 4).to(writer)
    writer.release()
    means = [image.mean((0, 1)) for _, image in open_source(path)]
    assert len(means) == 4
    assert np.abs(np.subtract(means, colour)).max() < 6, means
    with pytest.raises(StreamError, match="the VideoWriter is not open"):
        stream_of([]).to(writer)


@pytest.mark.parametrize("name", ["auto", "rgb", "bgr"])
def test_a_video_keeps_its_colours_whatever_the_format(name: str, tmp_path: Path) -> None:
    colour = (200, 90, 30)
    path = mjpg_video(tmp_path / "in.avi", [np.tile(np.uint8(colour), (48, 64, 1))])
    sink, seen = FakeWriter(), []
    with Restorer(FakeEngine(), pixels=name) as restore:
        restore.stream(path).to(sink)
        restore.stream(path).to(seen.append)
        restore.stream(path).to(tmp_path / "frames")
    bgr, ours = sink.written[0].mean((0, 1)), seen[0].mean((0, 1))
    stored = read_image(tmp_path / "frames" / "000000.png").pixels.mean((0, 1))
    for found, expected in (
        (bgr, colour[::-1]),
        (stored, colour),
        (ours, colour[::-1] if name == "bgr" else colour),
    ):
        assert np.abs(found - expected).max() < 6, (found, expected)


def test_a_restorers_format_reaches_its_sink(tmp_path: Path) -> None:
    bgr = np.zeros((20, 24, 3), np.uint8)
    bgr[..., 2] = 200  # red
    with Restorer(FakeEngine(), pixels="bgr") as restore:
        restore.stream([bgr]).to(tmp_path / "frames")
    stored = read_image(tmp_path / "frames" / "000000.png").pixels
    np.testing.assert_array_equal(stored, bgr[..., ::-1])
