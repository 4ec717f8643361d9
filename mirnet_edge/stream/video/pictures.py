"""Decoded pictures as arrays that a `Restorer` takes, and its arrays as pictures to encode.

8-bit 4:2:0 stays Y'CbCr ("i420"), so that codes which the network leaves alone come back as they
were. Whatever is deeper or has more chroma becomes float32 RGB or gray: chroma is repeated over the
pixels that share it and averaged over them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge.frames.pixel_formats import PixelFormat, pixel_format
from mirnet_edge.stream.video.facts import Planes, VideoFacts

Array = NDArray[Any]
WHITE_LINE_PX = 4
"""Between before and after; even, as chroma of two columns is shared."""


@dataclass(frozen=True)
class Pictures:
    """How pictures of a video become arrays, and arrays pictures.

    Attributes:
        facts: of the video.
        written: how the codes of its restored frames lie.
    """

    facts: VideoFacts
    written: Planes

    @property
    def pixels(self) -> PixelFormat:
        """What the arrays are: "i420", "gray" or "rgb"."""
        read, standard = self.facts.planes, self.facts.standard
        if read is not None and read.is_gray and self.written.is_gray:
            return pixel_format("gray")
        if read == self.written and read.name == "yuv420p" and standard is not None:
            return pixel_format("i420", standard=standard, full_range=self.facts.full_range)
        return pixel_format("rgb")

    def array_of(self, picture: Any) -> Array:
        """One frame as an array of `pixels`, i420 padded to even sides by repeating the last row
        and column."""
        planes = self.facts.planes
        if planes is None:
            deep = self.facts.depth > 8
            array: Array = picture.to_ndarray(format="rgb48le" if deep else "rgb24")
            return array
        if picture.format.name.replace("yuvj", "yuv") != planes.name:
            picture = _reformatted(picture, planes.name)
        codes = [_plane(picture, index, planes.depth) for index in range(len(picture.planes))]
        if self.pixels.is_yuv:
            return _i420(codes)
        luma: Array = codes[0].astype(np.float32) - self._black(planes)
        luma /= self._luma_codes(planes)
        if planes.is_gray:
            return luma if self.pixels.name == "gray" else np.repeat(luma[..., None], 3, axis=2)
        return self._rgb(luma, codes[1:], planes)

    def picture_of(self, array: Array, scale: int = 1) -> Any:
        """An array of `pixels`, restored by a network that enlarges by ``scale``, as a picture of
        the format that is written; its memory may be the picture's from then on."""
        av = require("av", "reading and writing videos")
        size = scale * self.facts.height * 3 // 2, scale * self.facts.width
        # PyAV takes the rows of chroma for part of a picture whose height is no multiple of 4.
        if self.pixels.is_yuv and array.shape == size and size[0] % 6 == 0:
            return self._tagged(av.VideoFrame.from_numpy_buffer(array, format=self.written.name))
        return self.compose(self.codes_of(array, scale))

    def codes_of(self, array: Array, scale: int = 1) -> list[Array]:
        """The planes of an array of `pixels`, as they are written."""
        height, width = scale * self.facts.height, scale * self.facts.width
        if self.pixels.is_yuv:
            rows = array.shape[0] // 3 * 2
            half = (2, rows // 2, array.shape[1] // 2)
            chroma = array[rows:].reshape(half)[:, : (height + 1) // 2, : (width + 1) // 2]
            return [array[:rows][:height, :width], *chroma]
        unit = array.astype(np.float32)
        if array.dtype != np.float32:
            unit /= np.float32(np.iinfo(array.dtype).max)
        planes = self.written
        if unit.ndim == 2 or planes.is_gray:
            luma = unit if unit.ndim == 2 else unit @ self._luma_weights()
            codes = [self._codes(luma, self._luma_codes(planes), self._black(planes))]
            if not planes.is_gray:
                shape = -(-height // planes.rows), -(-width // planes.columns)
                gray = np.full(shape, 1 << (planes.depth - 1), codes[0].dtype)
                codes += [gray, gray]
            return codes
        luma = unit @ self._luma_weights()
        red, blue = self.facts.weights
        cb = (unit[..., 2] - luma) / np.float32(2 * (1 - blue))
        cr = (unit[..., 0] - luma) / np.float32(2 * (1 - red))
        middle = 1 << (planes.depth - 1)
        return [
            self._codes(luma, self._luma_codes(planes), self._black(planes)),
            *(
                self._codes(_averaged(c, planes), self._chroma_codes(planes), middle)
                for c in (cb, cr)
            ),
        ]

    def compose(self, codes: list[Array]) -> Any:
        """A picture of these planes, tagged with the colours of the video."""
        av = require("av", "reading and writing videos")
        height, width = codes[0].shape
        picture = av.VideoFrame(width, height, self.written.name)
        for index, plane in enumerate(codes):
            _plane(picture, index, self.written.depth)[...] = plane
        return self._tagged(picture)

    def _tagged(self, picture: Any) -> Any:
        facts = self.facts
        picture.colorspace, picture.color_range = facts.written_matrix, facts.written_range
        return picture

    def enlarged(self, codes: list[Array], scale: int) -> list[Array]:
        """These planes, bicubically enlarged, to be shown beside what a network made of them."""
        picture = self.compose(codes)
        size = {"width": scale * picture.width, "height": scale * picture.height}
        large = picture.reformat(**size, format=self.written.name, interpolation="BICUBIC")
        return [_plane(large, index, self.written.depth).copy() for index in range(len(codes))]

    def side_by_side(self, before: list[Array], after: list[Array]) -> list[Array]:
        """Planes of before and after, left and right of a white line as the video is shown: stacked
        where it is shown turned by a quarter."""
        axis = 0 if self.facts.turn % 180 else 1
        # Turned clockwise, the bottom is shown at the left; turned over, the right.
        turned_over = self.facts.turn in (-90, 180, -180)
        first, second = (after, before) if turned_over else (before, after)
        joined = []
        for index, (one, two) in enumerate(zip(first, second)):
            sharing = (self.written.rows, self.written.columns)[axis] if index else 1
            line = list(one.shape)
            line[axis] = WHITE_LINE_PX // sharing
            white = self._black(self.written) + self._luma_codes(self.written)
            code = 1 << (self.written.depth - 1) if index else white
            joined.append(np.concatenate([one, np.full(line, code, one.dtype), two], axis=axis))
        return joined

    def _rgb(self, luma: Array, chroma: list[Array], planes: Planes) -> NDArray[np.float32]:
        red, blue = map(np.float32, self.facts.weights)
        middle = np.float32(1 << (planes.depth - 1))
        height, width = luma.shape
        cb, cr = (
            ((codes.astype(np.float32) - middle) / self._chroma_codes(planes))
            .repeat(planes.rows, axis=0)
            .repeat(planes.columns, axis=1)[:height, :width]
            for codes in chroma
        )
        rgb = np.empty((height, width, 3), np.float32)
        rgb[..., 0] = luma + 2 * (1 - red) * cr
        rgb[..., 2] = luma + 2 * (1 - blue) * cb
        rgb[..., 1] = (luma - red * rgb[..., 0] - blue * rgb[..., 2]) / (1 - red - blue)
        return rgb

    def _luma_weights(self) -> NDArray[np.float32]:
        red, blue = self.facts.weights
        return np.array([red, 1 - red - blue, blue], np.float32)

    def _black(self, planes: Planes) -> int:
        return 0 if self.facts.full_range else 16 << (planes.depth - 8)

    def _luma_codes(self, planes: Planes) -> int:
        """From black to white."""
        return (1 << planes.depth) - 1 if self.facts.full_range else 219 << (planes.depth - 8)

    def _chroma_codes(self, planes: Planes) -> int:
        """From the least to the greatest."""
        return (1 << planes.depth) - 1 if self.facts.full_range else 224 << (planes.depth - 8)

    def _codes(self, unit: Array, steps: int, zero: int) -> Array:
        depth = self.written.depth
        codes: Array = np.rint(unit * np.float32(steps) + np.float32(zero))
        codes = codes.clip(0, (1 << depth) - 1)
        return codes.astype(np.uint8 if depth == 8 else np.uint16)


def _reformatted(picture: Any, name: str) -> Any:
    """The picture in another format, by one thread: of a P010 picture of few rows FFmpeg's threads
    now and then leave a row of chroma out, under load of one in some thousands."""
    try:
        return picture.reformat(format=name, threads=1)
    except TypeError:  # of PyAV 16, which has one
        return picture.reformat(format=name)


def _plane(picture: Any, index: int, depth: int) -> Array:
    """One plane of a picture, without the bytes that pad its rows; the picture's own memory."""
    plane = picture.planes[index]
    dtype = np.dtype(np.uint8 if depth == 8 else "<u2")
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)
    return rows[: plane.height, : plane.width]


def _i420(codes: list[Array]) -> NDArray[np.uint8]:
    height, width = codes[0].shape
    even = height + height % 2, width + width % 2
    array = np.empty((even[0] * 3 // 2, even[1]), np.uint8)
    luma = array[: even[0]]
    luma[:height, :width] = codes[0]
    luma[height:, :width] = codes[0][-1:]
    luma[:, width:] = luma[:, width - 1 : width]
    array[even[0] :].reshape(2, even[0] // 2, even[1] // 2)[...] = codes[1:]
    return array


def _averaged(chroma: Array, planes: Planes) -> Array:
    """Of the pixels that share a sample; at odd borders the last row and column count twice."""
    rows, columns = planes.rows, planes.columns
    padding = [(0, -chroma.shape[0] % rows), (0, -chroma.shape[1] % columns)]
    whole = np.pad(chroma, padding, mode="edge")
    height, width = whole.shape
    mean: Array = whole.reshape(height // rows, rows, width // columns, columns).mean(axis=(1, 3))
    return mean
