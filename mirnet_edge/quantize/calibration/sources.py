"""Frames of a folder, a pattern, a video or memory, read one at a time in any order."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._files import file_sha256, resource_folder
from mirnet_edge._imports import require
from mirnet_edge.errors import CalibrationError, FrameError, ImageError
from mirnet_edge.frames.images import SUFFIXES, VIDEO_SUFFIXES, find_images, read_image, upright_rgb
from mirnet_edge.frames.layout import FrameLayout

LOOK_AHEAD_FRAMES = 64
"""A video's next wanted frame is decoded up to where it is no farther, else sought: a seek goes
back to a key frame, of which cameras write one every 30 to 250 frames."""

Pixels = NDArray[np.uint8]
Source = str | os.PathLike[str] | Iterable["str | os.PathLike[str] | Pixels"] | None


def open_frames(source: Source, in_channels: int) -> Stills | Video:
    """Frames of a folder (with those below it), a file or pattern, a video, a sequence of arrays
    and files, or (None) the bundled calibration set.

    Raises:
        CalibrationError: there are none; an array is no frame for ``in_channels``; a bundled file
            is missing or changed.
        MissingDependencyError: a video, and OpenCV is not installed.
    """
    if source is None:
        return Stills(_bundled())
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            return Video(path)
        return _folder_or_pattern(path)
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise CalibrationError(
            f"an array of shape {source.shape} is no sequence of frames; put a single frame into a "
            "list"
        )
    items = list(source)
    if not items:
        raise CalibrationError("an empty sequence: give frames or image files")
    for index, item in enumerate(items):
        if not isinstance(item, (str, os.PathLike)):
            _check_frame(item, index, in_channels)
    return Stills(items)


def _folder_or_pattern(path: Path) -> Stills:
    is_folder = path.is_dir()
    try:
        files = find_images([Path(glob.escape(str(path))) / "**" / "*" if is_folder else path])
    except ImageError as error:
        nothing = f"{path}: there is no image ({', '.join(SUFFIXES)}) in this folder or below it"
        raise CalibrationError(nothing if is_folder else str(error)) from error
    return Stills(files, [str(file.relative_to(path)) for file in files] if is_folder else None)


def _check_frame(frame: Any, index: int, in_channels: int) -> None:
    try:
        layout = FrameLayout.of(frame, in_channels)
    except FrameError as error:
        raise CalibrationError(f"frame {index}: {error}") from error
    if layout.dtype != np.uint8:
        raise CalibrationError(f"frame {index} is of dtype {layout.dtype}: need uint8, (H, W, 3)")


def _bundled() -> list[Path]:
    """The files of the bundled set, their hashes verified."""
    folder = resource_folder("calibration")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    paths = []
    for entry in manifest["images"]:
        path = folder / entry["file"]
        found = file_sha256(path) if path.is_file() else "no such file"
        if found != entry["sha256"]:
            raise CalibrationError(
                f"{path}: the calibration manifest says SHA-256 {entry['sha256']}, but found "
                f"{found}; reinstall mirnet-edge, or give images of your own"
            )
        paths.append(path)
    return paths


class Stills:
    """Image files and arrays, and their names for messages."""

    def __init__(
        self, items: Sequence[str | os.PathLike[str] | Pixels], names: list[str] | None = None
    ) -> None:
        self._items = items
        self.names = names or [_name(item, i) for i, item in enumerate(items)]

    def read(self, index: int) -> Pixels:
        """(H, W) or (H, W, C) uint8, files as RGB, in any order: frames are looked at, then cut
        from.

        Raises:
            ImageError: it cannot be read.
        """
        item = self._items[index]
        return item if isinstance(item, np.ndarray) else upright_rgb(read_image(item))

    def close(self) -> None:
        pass


def _name(item: str | os.PathLike[str] | Pixels, index: int) -> str:
    return f"frame {index}" if isinstance(item, np.ndarray) else Path(item).name


class Video:
    """Frames of a video file, through OpenCV; never more than one in memory.

    Raises:
        CalibrationError: OpenCV opens no video there, or one without frames.
        MissingDependencyError: OpenCV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._cv2 = require("cv2", "reading video")
        self._path, self._next = path, 0
        self._capture: Any = self._cv2.VideoCapture(str(path))
        count = self._count() if self._capture.isOpened() else 0
        if not count:
            self.close()
            raise CalibrationError(
                f"{path}: OpenCV {self._cv2.__version__} finds no video frames in it; is the file "
                "whole? Else extract some frames as images and give their folder"
            )
        self.names = [f"{path.name} frame {index}" for index in range(count)]

    def _count(self) -> int:
        """As the file says; counted where it does not."""
        count = int(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT))
        if count > 0:
            return count
        count = 0
        while self._capture.grab():
            count += 1
        self._next = count
        return count

    def read(self, index: int) -> Pixels:
        """See `Stills.read`."""
        if not 0 <= index - self._next <= LOOK_AHEAD_FRAMES:
            self._capture.set(self._cv2.CAP_PROP_POS_FRAMES, index)
            self._next = index
        # Only grabbed: of frames that are passed over no pixels are converted.
        while self._next < index and self._capture.grab():
            self._next += 1
        found, image_bgr = self._capture.read()
        self._next += 1
        if not found:
            self._next = -1  # the position is unknown now: seek
            raise ImageError(f"{self._path}: frame {index} cannot be decoded")
        return np.ascontiguousarray(image_bgr[:, :, ::-1])

    def close(self) -> None:
        self._capture.release()
