"""Frames as a super-resolution network sees them: enlarged bicubically (see `frames.bicubic`) by a
whole factor, region by region, each pixel the same whatever region it is made in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.frames.bicubic import TAPS, bicubic_taps, mirrored
from mirnet_edge.frames.layout import MAXIMUM, FrameLayout, Region, reflect_beyond

Planes = NDArray[np.float32]


def load_region(
    layout: FrameLayout, frame: NDArray[Any], region: Region, planes: Planes, scale: int
) -> None:
    """Fill ``planes`` (C, h, w) with a region of the frame made ``scale`` times as high and wide;
    neither clamped nor rounded. As `FrameLayout.load` otherwise: what is beyond the right and
    bottom border is the reflection of the enlarged frame."""
    if scale == 1:
        layout.load(frame, region, planes)
        return
    rows, columns = (
        _Axis(span.start, min(span.stop, scale * length), scale, length)
        for span, length in zip(region, (layout.height, layout.width))
    )
    colours, read = layout.colours, (rows.read, columns.read)
    given = np.empty((colours, *(span.stop - span.start for span in read)), np.float32)
    layout.load(frame, read, given)
    inside_h, inside_w = rows.stop - rows.start, columns.stop - columns.start
    planes[:colours, :inside_h, :inside_w] = _enlarge(given, rows, columns)
    planes[colours:] = planes[:1]
    reflect_beyond(planes, inside_h, inside_w)


def enlarged(planes: Planes, scale: int) -> Planes:
    """(C, H, W) float32 to (C, scale * H, scale * W)."""
    rows, columns = (
        _Axis(0, scale * length, scale, length) for length in (planes.shape[1], planes.shape[2])
    )
    return _enlarge(planes, rows, columns)


def enlarged_alpha(image: NDArray[Any], scale: int) -> NDArray[Any]:
    """The last channel of a frame as that of the enlarged one, cut and rounded as colours are."""
    maximum = MAXIMUM[image.dtype]
    plane: NDArray[Any] = enlarged(image[None, ..., -1].astype(np.float32), scale)[0]
    np.clip(plane, 0, maximum, out=plane)
    return plane if maximum == 1.0 else np.rint(plane, out=plane)


@dataclass(frozen=True)
class _Axis:
    """Pixels ``start`` to ``stop`` of an axis of ``length`` pixels that becomes ``scale`` times as
    long."""

    start: int
    stop: int
    scale: int
    length: int

    def first(self, pixel: int) -> int:
        """The first of the samples that make a pixel; may lie before the frame."""
        return pixel // self.scale + _shift(pixel % self.scale, self.scale)

    @property
    def samples(self) -> NDArray[np.int64]:
        """Which samples are needed, in their order: mirrored at the borders."""
        reach = np.arange(self.first(self.start), self.first(self.stop - 1) + TAPS)
        return mirrored(reach, self.length)

    @property
    def read(self) -> slice:
        """What is to be read for that."""
        samples = self.samples
        return slice(int(samples.min()), int(samples.max()) + 1)

    def enlarge(self, given: Planes, result: Planes) -> None:
        """Fill the last axis of ``result``, these pixels, from that of ``given``, `read`."""
        samples = given[..., self.samples - self.read.start]
        # Of each phase all pixels have the same weights, and their samples lie side by side.
        _, weights = bicubic_taps(TAPS, self.scale * TAPS, np.arange(self.scale))
        for place in range(min(self.scale, self.stop - self.start)):
            pixel = self.start + place
            part = result[..., place :: self.scale]
            begin, count = self.first(pixel) - self.first(self.start), part.shape[-1]
            for tap, weight in enumerate(weights[pixel % self.scale]):
                near = samples[..., begin + tap : begin + tap + count]
                if tap:
                    part += weight * near
                else:
                    np.multiply(near, weight, out=part)


def _shift(phase: int, scale: int) -> int:
    """From the sample over a pixel to the first of its taps: its centre is (2 * phase + 1) /
    (2 * scale) - 1/2 to the right, and the taps begin at the second sample to the left of that."""
    return (2 * phase + 1 - scale) // (2 * scale) - 1


def _enlarge(planes: Planes, rows: _Axis, columns: _Axis) -> Planes:
    channels, height, _ = planes.shape
    wide = np.empty((channels, height, columns.stop - columns.start), np.float32)
    columns.enlarge(planes, wide)
    # Rows last: what is written most then lies side by side.
    result = np.empty((channels, rows.stop - rows.start, wide.shape[2]), np.float32)
    rows.enlarge(wide.swapaxes(1, 2), result.swapaxes(1, 2))
    return result
