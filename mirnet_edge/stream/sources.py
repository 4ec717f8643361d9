"""Where the frames of a stream come from: iterables, folders of images, videos, cameras."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge.errors import ImageError, StreamError
from mirnet_edge.frames.images import VIDEO_SUFFIXES, find_images, read_image

_WIDTH, _HEIGHT, _FPS, _COUNT = 3, 4, 5, 7
"""OpenCV's CAP_PROP_FRAME_WIDTH … CAP_PROP_FRAME_COUNT: a capture may be given without OpenCV."""
_SWAPPED = {3: (2, 1, 0), 4: (2, 1, 0, 3)}


class FrameSource(Protocol):
    """Frames read once, one after the other. ``len()`` works where their number is known.

    Attributes:
        fps: frames a second, None where unknown.
        size: (height, width) in pixels, None where unknown or not one for all.
    """

    @property
    def fps(self) -> float | None: ...

    @property
    def size(self) -> tuple[int, int] | None: ...

    def __iter__(self) -> Iterator[Any]: ...

    def close(self) -> None:
        """Free what was opened for it. A second call does nothing."""


def open_source(source: Any) -> FrameSource:
    """The frames of whatever can be streamed.

    Args:
        source: a folder, pattern or file of images, in natural order (frame 2 before frame 10),
            pixels as stored; a video file; a camera's number, device file (``/dev/video0``) or
            URL; a GStreamer pipeline ("… ! appsink"); an object with OpenCV's ``read()``, which
            the caller releases; a queue, read until it gives None; or any iterable. Items of these
            two are passed on as they are, and must keep their pixels until they are restored:
            copy what lies in a buffer that is used again. What OpenCV reads as BGR becomes RGB.

    Raises:
        StreamError: it is none of these, is missing, or cannot be opened. While it is read: it
            has no frames, or a camera stopped giving any.
        ImageError: while it is read: a file that cannot be.
        MissingDependencyError: a video or camera, and OpenCV is not installed.
    """
    if isinstance(source, int) and not isinstance(source, bool):
        return _open_capture(source, f"camera {source}", endless=True)
    if isinstance(source, (str, os.PathLike)):
        return _open_named(os.fspath(source))
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise StreamError(
            f"an array of shape {source.shape} is no sequence of frames; put a single frame into "
            "a list"
        )
    if isinstance(source, Iterable):
        return PassedFrames(source)
    if callable(getattr(source, "read", None)):
        return Capture(source, f"the {type(source).__name__}", owned=False)
    get = getattr(source, "get", None)
    if hasattr(source, "put") and callable(get) and not iscoroutinefunction(get):
        return PassedFrames(_until_none(get))
    raise StreamError(
        f"a {type(source).__name__} is no source of frames: give an iterable, a queue, a folder, a "
        "video file, a camera's number, a GStreamer pipeline, or an object with read()"
    )


def _until_none(get: Callable[[], Any]) -> Iterator[Any]:
    """``iter(get, None)`` for arrays, which do not compare with None as a whole."""
    while (item := get()) is not None:
        yield item


def _open_named(name: str) -> FrameSource:
    if "!" in name and "appsink" in name:
        return _open_capture(name, name, gstreamer=True)
    if "://" in name:
        return _open_capture(name, name)
    path = Path(name)
    if path.is_char_device():
        return _open_capture(name, name, endless=True)
    if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
        if not path.is_file():
            raise StreamError(f"{name}: no such file")
        return _open_capture(name, name)
    try:
        return ImageFiles(sorted(find_images([path]), key=_natural))
    except ImageError as error:
        raise StreamError(f"{error}; videos are {', '.join(VIDEO_SUFFIXES)}") from error


def _natural(path: Path) -> list[str | int]:
    """Text and numbers in turn, so that numbers compare as such."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


class PassedFrames:
    """Items of an iterable, as they are. A generator is closed with it, as a ``for`` loop that is
    its last user would."""

    def __init__(self, frames: Iterable[Any]) -> None:
        self._frames = frames
        self.fps: float | None = None
        self.size: tuple[int, int] | None = None
        if isinstance(frames, np.ndarray):
            self.size = (frames.shape[1], frames.shape[2])

    def __iter__(self) -> Iterator[Any]:
        return iter(self._frames)

    def close(self) -> None:
        if isinstance(self._frames, Generator):
            self._frames.close()


class ImageFiles:
    """Still images, (H, W) or (H, W, C), as `read_image` gives them."""

    fps: float | None = None
    size: tuple[int, int] | None = None

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for path in self.paths:
            yield read_image(path).pixels

    def close(self) -> None:
        pass


class Capture:
    """Frames of an OpenCV capture, (H, W, 3) uint8 RGB; gray ones stay gray.

    Args:
        capture: with ``read()``, which returns whether there was a frame, and the frame.
        name: for messages.
        owned: whether `close` releases it.
        endless: whether it is an error that frames end, as with a camera.

    Raises:
        StreamError: it is not open.
    """

    def __init__(self, capture: Any, name: str, owned: bool, endless: bool = False) -> None:
        self._capture, self._owned = capture, owned
        self._name, self._endless = name, endless
        if hasattr(capture, "isOpened") and not capture.isOpened():
            raise StreamError(f"{name} is not open; open it, and look whether that worked")
        height, width = _property(capture, _HEIGHT), _property(capture, _WIDTH)
        self.size = (int(height), int(width)) if height and width else None
        self.fps = _property(capture, _FPS)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        count = 0
        while self._capture is not None:
            found, image_bgr = self._capture.read()
            if not found:
                break
            yield swap_red_blue(image_bgr)
            count += 1
        if not count:
            raise StreamError(
                f"{self._name} gave no frame; is it whole, not in use elsewhere and not closed?"
            )
        if self._endless and self._capture is not None:
            raise StreamError(f"{self._name} gave no more after {count} frames; is it unplugged?")

    def close(self) -> None:
        if self._capture is not None and self._owned:
            self._capture.release()
        self._capture = None


class VideoFile(Capture):
    """A capture that knows how many frames it has, as the file says."""

    def __init__(self, capture: Any, name: str, count: int) -> None:
        super().__init__(capture, name, owned=True)
        self._count = count

    def __len__(self) -> int:
        return self._count


def _open_capture(
    what: int | str, name: str, gstreamer: bool = False, endless: bool = False
) -> Capture:
    cv2 = require("cv2", "reading video")
    hint = "is it there, not in use elsewhere, and are you allowed to read it?"
    if gstreamer and not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        hint = (
            f"OpenCV {cv2.__version__} here is built without GStreamer, as those on PyPI are; "
            "use the one of JetPack or of the distribution"
        )
    capture = cv2.VideoCapture(what, cv2.CAP_GSTREAMER if gstreamer else cv2.CAP_ANY)
    if not capture.isOpened():
        capture.release()
        raise StreamError(f"OpenCV cannot open {name}: {hint}")
    count = _property(capture, _COUNT)
    if count and not endless and Path(str(what)).is_file():
        return VideoFile(capture, name, int(count))
    return Capture(capture, name, owned=True, endless=endless)


def _property(capture: Any, number: int) -> float | None:
    """A positive property, or None; captures say 0, -1 or NaN where they do not know."""
    value = float(capture.get(number)) if hasattr(capture, "get") else 0.0
    return value if math.isfinite(value) and value > 0 else None


def swap_red_blue(image: NDArray[Any]) -> NDArray[Any]:
    """A copy with RGB for BGR or BGR for RGB, alpha kept; what has no colours as it is.

    OpenCV takes 0.15 ms for 1920x1080 on an x86 core, numpy 1.7; OpenCV is used where the maker of
    the capture has loaded it.
    """
    channels = image.shape[2] if image.ndim == 3 else 1
    if channels not in _SWAPPED:
        return image
    cv2 = sys.modules.get("cv2")
    if cv2 is not None and channels == 3:
        swapped: NDArray[Any] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return swapped
    out = np.empty_like(image)
    for channel, origin in enumerate(_SWAPPED[channels]):
        out[:, :, channel] = image[:, :, origin]
    return out
