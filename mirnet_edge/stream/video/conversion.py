"""Decoded pictures in the pixel format that a stream asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import StreamError
from mirnet_edge.frames.noise import to_uint8
from mirnet_edge.frames.pixel_formats import PixelFormat, from_rgb
from mirnet_edge.stream.video.facts import VideoFacts

FFMPEG_NAMES = {"rgb": "rgb24", "bgr": "bgr24", "rgba": "rgba", "bgra": "bgra"}
PLANAR = {"nv12": "nv12", "i420": "yuv420p"}
SCALER_OF_STANDARD = {"bt709": 1, "bt601": 5}
SCALER_OF_MATRIX = {4: 4, 7: 7, 9: 9, 10: 9}
"""FFmpeg's names (SWS_CS_ITU709 and so on) of what colours are converted by."""
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


def converted(picture: Any, facts: VideoFacts, pixels: PixelFormat | None) -> NDArray[np.uint8]:
    """One picture of a video as an array of a format, RGB where that is None. Codes that are of the
    format already stay as they are."""
    name = "rgb" if pixels is None else pixels.name
    if name in FFMPEG_NAMES:
        return _colours(picture, facts, FFMPEG_NAMES[name])
    if pixels is None or not pixels.is_yuv:
        rgb = _colours(picture, facts, "rgb24").astype(np.float32)
        red, blue = facts.weights
        weights = np.array([red, 1 - red - blue, blue], np.float32)
        return to_uint8(rgb @ weights / np.float32(255))
    is_so = facts.planes is not None and facts.planes.name == "yuv420p" and name in PLANAR
    if is_so and (facts.standard, facts.full_range) == (pixels.standard, pixels.full_range):
        return np.ascontiguousarray(picture.to_ndarray(format=PLANAR[name]))
    unit = _colours(picture, facts, "rgb24").astype(np.float32) / np.float32(255)
    array = np.empty(pixels.shape_of(facts.height, facts.width), np.uint8)
    from_rgb(unit, pixels, array)
    return array


def _colours(picture: Any, facts: VideoFacts, name: str) -> NDArray[np.uint8]:
    """Red, green and blue, in an order of FFmpeg's."""
    source = SCALER_OF_MATRIX.get(facts.matrix, SCALER_OF_STANDARD[facts.standard or "bt709"])
    array: NDArray[np.uint8] = picture.to_ndarray(
        format=name,
        src_colorspace=source,
        # Means nothing of RGB, but old versions of PyAV look at none of this where both are one.
        dst_colorspace=SCALER_OF_STANDARD["bt709" if source != 1 else "bt601"],
        src_color_range=FULL if facts.full_range or facts.is_rgb else LIMITED,
        dst_color_range=FULL,
    )
    return np.ascontiguousarray(array)
