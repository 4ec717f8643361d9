"""Where the frames of a stream come from: iterables, folders of images, videos, cameras."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge.errors import ImageError, StreamError
from mirnet_edge.frames.images import VIDEO_SUFFIXES, find_images, read_image
from mirnet_edge.frames.pixel_formats import PixelFormat

_SWAPPED = {3: (2, 1, 0), 4: (2, 1, 0, 3)}


@dataclass(frozen=True)
class Frames:
    """Frames that are read once, one after the other; ``close`` frees what was opened for that."""

    frames: Iterable[object]
    close: Callable[[], object] = lambda: None  # what was read from is the caller's

    def __iter__(self) -> Iterator[object]:
        return iter(self.frames)


def open_source(source: object, pixels: PixelFormat | None = None) -> Frames:
    """Open whatever can be streamed.

    Args:
        source: a folder, pattern or file of images, in natural order (frame 2 before frame 10),
            pixels as stored; a video file; a camera's number, device file (``/dev/video0``) or
            URL; a GStreamer pipeline ("… ! appsink"); an object with OpenCV's ``read()``, which
            the caller releases; a queue, read until it gives None; or any iterable. Items of these
            two are passed on as they are, and must keep their pixels until they are restored:
            copy what lies in a buffer that is used again.
        pixels: format that the frames shall have. Colours of files, videos and captures come in its
            order: blue first for "bgr" and "bgra", else red first. A capture that gives one or two
            channels is passed on as it is: gray, or what "nv12" and its like say.

    Raises:
        StreamError: it is none of these, is missing, or cannot be opened; image files, and a format
            that none has. While it is read: it has no frames, or a camera stopped giving any.
        ImageError: while it is read: a file that cannot be.
        MissingDependencyError: a video or camera, and OpenCV is not installed.
    """
    if isinstance(source, int) and not isinstance(source, bool):
        if not 0 <= source < 1 << 31:  # OpenCV crashes on -1
            raise StreamError(f"there is no camera {source}; they are numbered from 0")
        return _open_capture(source, pixels, endless=True)
    if isinstance(source, (str, os.PathLike)):
        return _open_named(os.fspath(source), pixels)
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise StreamError(
            f"an array of shape {source.shape} is no sequence of frames; put a single frame into "
            "a list"
        )
    if isinstance(source, Generator):
        return Frames(source, source.close)  # as a for loop that is its last user would
    if isinstance(source, Iterable):
        return Frames(source)
    if callable(getattr(source, "read", None)):
        name = f"the {type(source).__name__}"
        if hasattr(source, "isOpened") and not source.isOpened():
            raise StreamError(f"{name} is not open; open it, and look whether that worked")
        return Frames(_captured(source, name, pixels))
    get = getattr(source, "get", None)
    # The queue of asyncio looks alike, but its get() gives a coroutine.
    if hasattr(source, "put") and callable(get) and not iscoroutinefunction(get):
        return Frames(_until_none(get))
    raise StreamError(
        f"a {type(source).__name__} is no source of frames: give an iterable, a queue, a folder, a "
        "video file, a camera's number, a GStreamer pipeline, or an object with read()"
    )


def _until_none(get: Callable[[], object]) -> Iterator[object]:
    # Not iter(get, None): that compares with ==, which arrays answer element by element.
    while (item := get()) is not None:
        yield item


def _open_named(name: str, pixels: PixelFormat | None) -> Frames:
    path = Path(name)
    if _is_pipeline(name) or "://" in name:
        return _open_capture(name, pixels)
    if path.is_char_device():
        return _open_capture(name, pixels, endless=True)
    if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
        if not path.is_file():
            raise StreamError(f"{name}: no such file")
        return _open_capture(name, pixels)
    try:
        files = sorted(find_images([path]), key=_natural)
    except ImageError as error:
        raise StreamError(f"{error}; videos are {', '.join(VIDEO_SUFFIXES)}") from error
    if pixels is not None and pixels.is_yuv:
        # A gray file has the very shape of nv12, one of gray and alpha that of yuyv.
        raise StreamError(
            f"{name}: image files hold gray or RGB, not {pixels.name}; make the Restorer without "
            "pixels, or stream arrays"
        )
    return Frames(in_order(read_image(file).pixels, False, pixels) for file in files)


def _natural(path: Path) -> list[str | int]:
    """Text and numbers in turn, so that numbers compare as such."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _is_pipeline(name: str) -> bool:
    return "!" in name and "appsink" in name


def _open_capture(what: int | str, pixels: PixelFormat | None, endless: bool = False) -> Frames:
    cv2 = require("cv2", "reading video")
    name = what if isinstance(what, str) else f"camera {what}"
    gstreamer = _is_pipeline(name)
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
    return Frames(_captured(capture, name, pixels, endless), capture.release)


def _captured(
    capture: Any, name: str, pixels: PixelFormat | None, endless: bool = False
) -> Iterator[NDArray[Any]]:
    """Frames of an open OpenCV capture; ``endless``, as a camera, makes it an error that they
    end."""
    count = 0
    while True:
        found, image = capture.read()
        if not found:
            break
        yield in_order(image, True, pixels)
        count += 1
    if not count:
        raise StreamError(
            f"{name} gave no frame; is it whole, not in use elsewhere and not closed?"
        )
    if endless:
        raise StreamError(f"{name} gave no more after {count} frames; is it unplugged?")


def in_order(picture: NDArray[Any], is_bgr: bool, pixels: PixelFormat | None) -> NDArray[Any]:
    """Colours in the order of a format, RGB where it is None or has none; alpha is kept, and what
    has no colours stays as it is."""
    channels = picture.shape[2] if picture.ndim == 3 else 1
    wants_bgr = pixels is not None and pixels.is_bgr
    if channels not in _SWAPPED or is_bgr == wants_bgr:
        return picture
    cv2 = sys.modules.get("cv2")
    # OpenCV takes 0.15 ms for 1920x1080 on an x86 core, numpy 1.7; so it is used where the maker of
    # the capture has loaded it, and is not loaded for this.
    if cv2 is not None and channels == 3:
        swapped: NDArray[Any] = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        return swapped
    out = np.empty_like(picture)
    for channel, origin in enumerate(_SWAPPED[channels]):
        out[:, :, channel] = picture[:, :, origin]
    return out
