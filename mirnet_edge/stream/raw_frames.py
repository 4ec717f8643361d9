"""Frames in memory of others, whose rows and planes lie where they want, as arrays of a pixel
format and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import FrameError
from mirnet_edge.frames.pixel_formats import CHANNELS, FormatName

Memory = Any
"""With the buffer protocol, one byte an item."""


@dataclass(frozen=True)
class RawLayout:
    """Where the pixels of a frame of uint8 lie.

    Attributes:
        name: of the pixel format: "rgb", "bgr", "rgba", "bgra", "gray", "nv12" or "i420".
        height, width: in pixels; odd ones too, of which chroma is rounded up.
        offsets: of each plane from the first byte.
        pitches: of each plane, bytes from one row to the next.

    Raises:
        FrameError: no such format, or not one offset and pitch a plane.
    """

    name: FormatName
    height: int
    width: int
    offsets: tuple[int, ...]
    pitches: tuple[int, ...]

    def __post_init__(self) -> None:
        planes = {"nv12": 2, "i420": 3}.get(self.name, 1)
        if self.name == "yuyv" or (len(self.offsets), len(self.pitches)) != (planes, planes):
            raise FrameError(
                f"{self.name} frame with {len(self.offsets)} offsets and {len(self.pitches)} "
                f"pitches: need {planes} of each, and no yuyv"
            )

    def read(self, memory: Memory) -> NDArray[np.uint8]:
        """The frame as an array, its own memory; nv12 and i420 with even sides, the last row and
        column repeated."""
        planes = self._planes(memory)
        if self.name not in ("nv12", "i420"):
            return np.array(planes[0])
        even = self.height + self.height % 2, self.width + self.width % 2
        array = np.empty((even[0] * 3 // 2, even[1]), np.uint8)
        luma, chroma = array[: even[0]], array[even[0] :]
        luma[: self.height, : self.width] = planes[0]
        luma[self.height :, : self.width] = planes[0][-1:]
        luma[:, self.width :] = luma[:, self.width - 1 : self.width]
        self._split(chroma)[...] = planes[1:]
        return array

    def write(self, array: NDArray[np.uint8], memory: Memory) -> None:
        """Put an array that `read` gave, or one like it, where the frame lies."""
        planes = self._planes(memory)
        if self.name not in ("nv12", "i420"):
            planes[0][...] = array
            return
        rows = array.shape[0] // 3 * 2
        planes[0][...] = array[: self.height, : self.width]
        for plane, codes in zip(planes[1:], self._split(array[rows:])):
            plane[...] = codes

    def _split(self, chroma: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The rows of chroma below luma, by planes."""
        rows, width = chroma.shape
        if self.name == "nv12":
            return chroma[None]
        return chroma.reshape(2, rows, width // 2)

    def _planes(self, memory: Memory) -> Sequence[NDArray[np.uint8]]:
        """Views of the memory; chroma of nv12 by bytes."""
        shapes: list[tuple[int, ...]] = [(self.height, self.width)]
        half = (self.height + 1) // 2, (self.width + 1) // 2
        if self.name == "nv12":
            shapes.append((half[0], 2 * half[1]))
        elif self.name == "i420":
            shapes += [half, half]
        elif self.name != "gray":
            shapes = [(self.height, self.width, CHANNELS[self.name])]
        return [
            np.ndarray(shape, np.uint8, memory, offset, (pitch, *self._steps(shape)))
            for shape, offset, pitch in zip(shapes, self.offsets, self.pitches)
        ]

    @staticmethod
    def _steps(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[2], 1) if len(shape) == 3 else (1,)


def blended(
    before: NDArray[np.uint8], after: NDArray[np.uint8], strength: float
) -> NDArray[np.uint8]:
    """Something between two frames of one format: 0 is the first, 1 the second."""
    if strength >= 1:
        return after
    weight = round(256 * strength)
    first, second = before.astype(np.uint16), after.astype(np.uint16)
    mixed = first * np.uint16(256 - weight) + second * np.uint16(weight)
    codes: NDArray[np.uint8] = ((mixed + 128) >> 8).astype(np.uint8)
    return codes
