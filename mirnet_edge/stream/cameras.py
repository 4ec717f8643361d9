"""Cameras and GStreamer pipelines, through OpenCV: opened, set, read, and opened again."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge.errors import StreamError
from mirnet_edge.frames.pixel_formats import PixelFormat

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
"""Before a camera is opened again; twice as long each time that this fails."""
log = logging.getLogger(__name__)
RATE_TOLERANCE = 0.02
"""Cameras tell 30 where they give 29.97."""
_SWAPPED = {3: (2, 1, 0), 4: (2, 1, 0, 3)}
_NAMES_OF_CHANNELS = {
    1: "one channel, gray or the codes of nv12 or i420",
    2: "two bytes a pixel, as yuyv",
    3: "BGR",
    4: "BGRA",
}


@dataclass(frozen=True)
class Frames:
    """Frames that are read once, one after the other; ``close`` frees what was opened for that."""

    frames: Iterable[object]
    close: Callable[[], object] = lambda: None  # what was read from is the caller's

    def __iter__(self) -> Iterator[object]:
        return iter(self.frames)


@dataclass(frozen=True)
class Camera:
    """A camera and how it is set; None leaves a setting as the driver has it.

    Attributes:
        device: its number, or its device file.
        width, height: in pixels.
        rate: frames a second.
        fourcc: four letters for how it packs frames: "MJPG", "YUYV", "NV12". OpenCV unpacks them to
            BGR, unless the `Restorer` has ``pixels`` of Y'CbCr.
    """

    device: int | str = 0
    width: int | None = None
    height: int | None = None
    rate: float | None = None
    fourcc: str | None = None


def is_pipeline(name: str) -> bool:
    """Whether it is a GStreamer pipeline that OpenCV reads."""
    return "!" in name and "appsink" in name


def open_camera(what: int | str | Camera, pixels: PixelFormat | None, reconnect: int = 0) -> Frames:
    """Open a camera or a GStreamer pipeline.

    Args:
        what: the camera's number, device file or settings, or the pipeline.
        pixels: see `open_source`.
        reconnect: how often in a row it is opened again when it stops; the end of a pipeline is one
            where this is 0.

    Raises:
        StreamError: it cannot be opened, or does not take a setting. While it is read: it stopped.
        MissingDependencyError: OpenCV is not installed.
    """
    camera = what if isinstance(what, Camera) else Camera(what)
    if isinstance(camera.device, int) and not 0 <= camera.device < 1 << 31:
        # OpenCV crashes on -1.
        raise StreamError(f"there is no camera {camera.device}; they are numbered from 0")
    ends = isinstance(camera.device, str) and is_pipeline(camera.device) and not reconnect
    current = [_opened(camera, pixels)]

    def frames() -> Iterator[NDArray[Any]]:
        tried = 0
        while True:
            try:
                for image in captured(current[0], _name(camera), pixels, endless=not ends):
                    tried = 0
                    yield image
                return
            except StreamError:
                current[0].release()
                while True:
                    if tried == reconnect:
                        raise
                    time.sleep(min(FIRST_WAIT_S * 2**tried, LONGEST_WAIT_S))
                    tried += 1
                    log.info("%s stopped; connecting again, time %d", _name(camera), tried)
                    try:
                        current[0] = _opened(camera, pixels)
                        break
                    except StreamError:
                        continue

    return Frames(frames(), lambda: current[0].release())


def _name(camera: Camera) -> str:
    return camera.device if isinstance(camera.device, str) else f"camera {camera.device}"


def _opened(camera: Camera, pixels: PixelFormat | None) -> Any:
    cv2 = require("cv2", "reading cameras")
    name = _name(camera)
    gstreamer = isinstance(camera.device, str) and is_pipeline(camera.device)
    hint = "is it there, not in use elsewhere, and are you allowed to read it?"
    if gstreamer and not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        hint = (
            f"OpenCV {cv2.__version__} here is built without GStreamer, as those on PyPI are; "
            "use the one of JetPack or of the distribution"
        )
    capture = cv2.VideoCapture(camera.device, cv2.CAP_GSTREAMER if gstreamer else cv2.CAP_ANY)
    if not capture.isOpened():
        capture.release()
        raise StreamError(f"OpenCV cannot open {name}: {hint}")
    try:
        _set(cv2, capture, camera, pixels)
    except StreamError:
        capture.release()
        raise
    return capture


def _set(cv2: Any, capture: Any, camera: Camera, pixels: PixelFormat | None) -> None:
    """Give a camera its settings, and look whether it took them: drivers take the nearest they
    have."""
    packing = None if camera.fourcc is None else cv2.VideoWriter_fourcc(*camera.fourcc)
    wanted: dict[str, tuple[int, float | None]] = {
        # The packing first: which sizes and rates there are depends on it.
        "fourcc": (cv2.CAP_PROP_FOURCC, packing),
        "width": (cv2.CAP_PROP_FRAME_WIDTH, camera.width),
        "height": (cv2.CAP_PROP_FRAME_HEIGHT, camera.height),
        "rate": (cv2.CAP_PROP_FPS, camera.rate),
    }
    asked = {name: setting for name, setting in wanted.items() if setting[1] is not None}
    for control, value in asked.values():
        capture.set(control, value)
    if asked and pixels is not None and pixels.is_yuv:
        capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
    for name, (control, value) in asked.items():
        assert value is not None
        given = capture.get(control)
        if abs(given - value) > RATE_TOLERANCE * value * (name == "rate"):
            shown = (
                given if name != "fourcc" else int(given).to_bytes(4, "little").decode("latin-1")
            )
            raise StreamError(
                f"{_name(camera)} does not take {name} {getattr(camera, name)}: it has {shown}; "
                "`v4l2-ctl --list-formats-ext` lists what it takes"
            )


def captured(
    capture: Any, name: str, pixels: PixelFormat | None, endless: bool = False
) -> Iterator[NDArray[Any]]:
    """Frames of an open OpenCV capture; ``endless``, as a camera, makes it an error that they
    end."""
    count = 0
    while True:
        found, image = capture.read()
        if not found:
            break
        _require_agreement(image, name, pixels)
        yield in_order(image, True, pixels)
        count += 1
    if not count:
        raise StreamError(
            f"{name} gave no frame; is it whole, not in use elsewhere and not closed?"
        )
    if endless:
        raise StreamError(f"{name} gave no more after {count} frames; is it unplugged?")


def _require_agreement(image: NDArray[Any], name: str, pixels: PixelFormat | None) -> None:
    """Check that a capture gives what the frames shall be: no conversion is made up here."""
    channels = image.shape[2] if image.ndim == 3 else 1
    takes = {"gray": (1,), "nv12": (1,), "i420": (1,), "yuyv": (2,), "rgb": (3,), "bgr": (3,),
             "rgba": (4,), "bgra": (4,)}  # fmt: skip
    if channels in ((1, 3, 4) if pixels is None else takes[pixels.name]):
        return
    kind = _NAMES_OF_CHANNELS.get(channels, f"{channels} channels")
    wanted = "no Restorer's without pixels" if pixels is None else f"not {pixels.name}"
    raise StreamError(
        f"{name} gives frames of shape {image.shape}: {kind}, {wanted}; make the Restorer with the "
        'pixels that they have: "bgr", "gray", "yuyv", "nv12", …'
    )


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
