"""Where the frames of a stream go: callables, writers, folders of images, videos."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import OutputError, StreamError
from mirnet_edge.frames.images import SUFFIXES, VIDEO_SUFFIXES, is_damaged, write_image
from mirnet_edge.frames.noise import to_uint8
from mirnet_edge.frames.pixel_formats import PixelFormat, pixel_format, to_rgb
from mirnet_edge.stream.cameras import in_order
from mirnet_edge.stream.transfer import StreamFrame

Sink = Callable[[StreamFrame], object]
_BGR = pixel_format("bgr")


def open_sink(sink: object, pixels: PixelFormat | None = None, resume: bool = False) -> Sink:
    """What takes frames, of whatever can.

    Args:
        sink: a folder, made if it is missing, for 000000.png and so on, by the frame's number in
            the source; an open ``cv2.VideoWriter``, which the caller releases; a callable; or an
            object with ``write()``. These two are given the arrays as they are, the others
            pictures: RGB of whatever colours, which a VideoWriter gets as BGR; gray stays gray.
        pixels: format of the frames; None takes gray, RGB or RGBA by their channels.
        resume: whether a folder may hold frames, see `frames_done`.

    Raises:
        StreamError: it is none of these, or is not open; it is to be resumed and no folder; a video
            cannot hold a frame.
        OutputError: the folder cannot be made, or holds frames; a file cannot be written.
    """
    if isinstance(sink, (str, os.PathLike)):
        return _image_folder(os.fspath(sink), pixels, resume)
    if resume:
        raise StreamError("resume=True goes on with a folder of images; this is none")
    write = getattr(sink, "write", sink)
    if not callable(write):
        raise StreamError(
            f"a {type(sink).__name__} is no sink: give a callable, an object with write(), a "
            "folder or a cv2.VideoWriter"
        )
    if callable(getattr(sink, "isOpened", None)):
        return _video(sink, pixels)
    return lambda frame: write(frame.image)


def frames_done(folder: str | os.PathLike[str]) -> int:
    """The number of the first frame that is still to be written into a folder: the one behind the
    last file there that is whole."""
    # Files are written in order, so all before the last are there but for frames that were dropped.
    done = sorted((file for file in _frames_in(Path(folder))), key=lambda file: int(file.stem))
    while done and is_damaged(done[-1]):
        del done[-1]
    return int(done[-1].stem) + 1 if done else 0


def _image_folder(name: str, pixels: PixelFormat | None, resume: bool) -> Sink:
    """PNG files named by the frame's number, of uint8 or uint16; none is replaced that is whole."""
    folder = Path(name)
    is_file = folder.suffix.lower() in (*SUFFIXES, *VIDEO_SUFFIXES)
    if (is_file and not folder.is_dir()) or "://" in name or "appsrc" in name:
        raise StreamError(
            f"{name} names no folder: images go to a folder; for a video or a network stream "
            "give a cv2.VideoWriter"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Now, and not when its turn comes: a camera's hour would end at the first old file.
        taken = sorted(file.name for file in _frames_in(folder))
    except (OSError, ValueError) as error:  # the latter of a name with a null in it
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"cannot make the folder {name}: {reason}; choose another folder"
        ) from error
    if taken and not resume:
        raise OutputError(
            f"{name} holds {taken[0]}, one of {len(taken)} files named as frames are, and a "
            "stream replaces no file; give a new folder, or to(folder, resume=True) to go on where "
            "a run of the same source ended"
        )

    def write(frame: StreamFrame) -> None:
        path = folder / f"{frame.index:06}.png"
        image = _picture(frame.image, pixels)
        if image.dtype not in (np.uint8, np.uint16):
            raise OutputError(
                f"cannot write {path}: a frame of {image.dtype}, shape {image.shape}; PNG files "
                "are of uint8 or uint16; convert it in a callable, and give that"
            )
        write_image(path, image, overwrite=resume)

    return write


def _frames_in(folder: Path) -> list[Path]:
    files = folder.glob("[0-9]*.png")
    return [file for file in files if file.stem.isdecimal() and len(file.stem) >= 6]


def _video(writer: Any, pixels: PixelFormat | None) -> Sink:
    """An OpenCV writer, given BGR or gray uint8 and not released."""
    name = f"the {type(writer).__name__}"
    if not writer.isOpened():
        raise StreamError(
            f"{name} is not open; are its codec and size possible, and its folder there?"
        )
    before: tuple[int, ...] | None = None

    def write(frame: StreamFrame) -> None:
        nonlocal before
        image = _picture(frame.image, pixels, _BGR)
        shape = image.shape
        if image.dtype != np.uint8 or (image.ndim == 3 and shape[2] != 3):
            raise StreamError(
                f"a frame of {image.dtype}, shape {shape}: {name} takes uint8 of 3 channels, "
                "or gray; convert it in a callable that writes to it, and give that"
            )
        # What it cannot take OpenCV 5 tells by False; OpenCV 4 leaves it out in silence.
        if before not in (None, shape):
            raise StreamError(
                f"a frame of shape {shape} after {before}: all of a video have one; resize it"
            )
        before = shape
        if writer.write(np.ascontiguousarray(image)) is False:
            raise StreamError(
                f"{name} refused a frame of shape {shape}; open it for size "
                f"{(shape[1], shape[0])} with isColor={image.ndim == 3}"
            )

    return write


def _picture(
    image: Any, pixels: PixelFormat | None, order: PixelFormat | None = None
) -> NDArray[Any]:
    """On the host, (H, W) gray or with the channels gray and alpha, RGB or RGBA; blue first where
    ``order`` says so."""
    picture: NDArray[Any] = image if isinstance(image, np.ndarray) else image.copy_to_host()
    if pixels is not None and pixels.is_yuv:
        picture = to_uint8(to_rgb(picture, pixels))
    picture = in_order(picture, pixels is not None and pixels.is_bgr, order)
    return picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
