"""Decoded pictures in the pixel format that a stream asks for, converted by FFmpeg where they are
of another one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import StreamError
from mirnet_edge.frames.pixel_formats import PixelFormat
from mirnet_edge.stream.video.facts import VideoFacts

FFMPEG_NAMES = {
    "gray": "gray",
    "rgb": "rgb24",
    "bgr": "bgr24",
    "rgba": "rgba",
    "bgra": "bgra",
    "nv12": "nv12",
    "i420": "yuv420p",
    "yuyv": "yuyv422",
}
SCALER_OF_STANDARD = {"bt709": 1, "bt601": 5}
"""SWS_CS_ITU709 and SWS_CS_ITU601 of FFmpeg."""
SCALER_OF_MATRIX = {4: 4, 7: 7, 9: 9, 10: 9}
LIMITED, FULL = 1, 2


def require_format(facts: VideoFacts, pixels: PixelFormat | None, name: str) -> None:
    """Check that frames of a video can have a format: chroma is shared by two columns, and of most
    formats by two rows."""
    rows = 1 if pixels is not None and pixels.name == "yuyv" else 2
    if pixels is not None and pixels.is_yuv and (facts.width % 2 or facts.height % rows):
        raise StreamError(
            f"{name}: frames of {facts.width}x{facts.height} pixels are no {pixels.name}, which "
            "has even sides; make the Restorer without pixels"
        )


def converted(picture: Any, facts: VideoFacts, pixels: PixelFormat | None) -> NDArray[Any]:
    """One picture of a video as an array of a format, RGB where that is None; uint8. Codes that are
    of the format already stay as they are."""
    name = "rgb" if pixels is None else pixels.name
    source = SCALER_OF_MATRIX.get(facts.matrix, SCALER_OF_STANDARD[facts.standard or "bt709"])
    standard, target_range = source, FULL
    if pixels is not None and pixels.standard is not None:
        standard = SCALER_OF_STANDARD[pixels.standard]
        target_range = FULL if pixels.full_range else LIMITED
    array: NDArray[Any] = picture.to_ndarray(
        format=FFMPEG_NAMES[name],
        src_colorspace=source,
        dst_colorspace=standard,
        src_color_range=FULL if facts.full_range or facts.is_rgb else LIMITED,
        dst_color_range=target_range,
    )
    return np.ascontiguousarray(array)
