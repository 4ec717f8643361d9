"""Where the frames of a stream come from: iterables, folders of images, videos, cameras."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import ImageError, StreamError
from mirnet_edge.frames.images import VIDEO_SUFFIXES, find_images, read_image
from mirnet_edge.frames.pixel_formats import PixelFormat
from mirnet_edge.stream.cameras import Camera, Frames, captured, in_order, is_pipeline, open_camera
from mirnet_edge.stream.video.conversion import converted, require_format
from mirnet_edge.stream.video.live import open_video

LOG = logging.getLogger("mirnet_edge")


def open_source(
    source: object,
    pixels: PixelFormat | None = None,
    *,
    timeout: float | None = None,
    reconnect: int = 0,
) -> Frames:
    """Open whatever can be streamed.

    Args:
        source: a folder, pattern or file of images, in natural order (frame 2 before frame 10),
            pixels as stored; a video file or URL, each frame with its PTS in seconds; a camera's
            number, device file (``/dev/video0``) or `Camera`; a GStreamer pipeline ("… ! appsink");
            an object with OpenCV's ``read()``, which the caller releases; a queue, read until it
            gives None; or any iterable. Items of these two are passed on as they are, and must keep
            their pixels until they are restored: copy what lies in a buffer that is used again.
        pixels: format that the frames shall have. Videos are converted to it; colours of image
            files and captures come in its order: blue first for "bgr" and "bgra", else red first.
            What a capture gives of other kind is an error.
        timeout: seconds after which a network source that gives nothing has stopped.
        reconnect: how often in a row a live source, a camera or URL of no end, is opened again when
            it stops. Its timestamps go on.

    Raises:
        StreamError: it is none of these, is missing, or cannot be opened; image files, and a format
            that none has. While it is read: it has no frames, or a live source stopped.
        ImageError: while it is read: a file that cannot be.
        MissingDependencyError: a video, and PyAV is not installed; a camera, and OpenCV is not.
    """
    if isinstance(source, Camera) or (isinstance(source, int) and not isinstance(source, bool)):
        return open_camera(source, pixels, reconnect=reconnect)
    if isinstance(source, (str, os.PathLike)):
        return _open_named(os.fspath(source), pixels, timeout, reconnect)
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
        return Frames(captured(source, name, pixels))
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


def _open_named(
    name: str, pixels: PixelFormat | None, timeout: float | None, reconnect: int
) -> Frames:
    path = Path(name)
    if is_pipeline(name) or path.is_char_device():
        return open_camera(name, pixels, reconnect=reconnect)
    is_video = path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()
    if is_video and "://" not in name and not path.is_file():
        raise StreamError(f"{name}: no such file")
    if is_video or "://" in name:
        return _open_video(name, pixels, timeout, reconnect)
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


def _open_video(
    name: str, pixels: PixelFormat | None, timeout: float | None, reconnect: int
) -> Frames:
    reader = open_video(name, timeout_s=timeout, reconnect=reconnect)
    try:
        require_format(reader.facts, pixels, name)
    except StreamError:
        reader.close()
        raise

    def frames() -> Iterator[tuple[float, NDArray[Any]]]:
        time_base = reader.facts.time_base
        for frame in reader.frames():
            yield float(frame.pts * time_base), converted(frame.picture, reader.facts, pixels)
        if reader.lost.frames:
            LOG.warning(
                "%s: about %d frames are lost: %s",
                name,
                reader.lost.frames,
                "; ".join(reader.lost.reasons),
            )

    return Frames(frames(), reader.close)
