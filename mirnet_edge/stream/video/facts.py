"""What a video is: its size, clock, colours and turn, read off its first frame."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mirnet_edge.frames.pixel_formats import RED_BLUE, Standard

HD_ROWS = 720
"""From this height on, a video that does not name its matrix has BT.709's, below BT.601's: what
FFmpeg's and most players' guess is."""
BT709, SMPTE170M = 1, 6
LIMITED, FULL = 1, 2
"""AVColorSpace and AVColorRange of FFmpeg; the colour tags of a stream are numbers of these and
of ISO/IEC 23091-4, which they follow."""
STANDARD_OF_MATRIX: dict[int, Standard] = {BT709: "bt709", 5: "bt601", SMPTE170M: "bt601"}
WEIGHTS_OF_MATRIX = {4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
"""Of red and blue in luma, of the matrices that are neither BT.709 nor BT.601: FCC, SMPTE 240M and
BT.2020 (ISO/IEC 23091-4, table 4)."""
_PLANAR = re.compile(r"yuvj?(420|422|440|444)p(?:(\d\d?)le)?|gray(?:(\d\d?)le)?")
_SHARING = {"420": (2, 2), "422": (1, 2), "440": (2, 1), "444": (1, 1)}
_SAME_AS = {
    **{"nv12": "yuv420p", "nv21": "yuv420p", "nv16": "yuv422p", "p010le": "yuv420p10le"},
    **{"yuyv422": "yuv422p", "uyvy422": "yuv422p", "yvyu422": "yuv422p", "p210le": "yuv422p10le"},
}
"""Formats that hold the codes of a planar one in another order."""


@dataclass(frozen=True)
class Planes:
    """How the codes of a picture lie: one plane of gray, or Y, Cb and Cr.

    Attributes:
        name: FFmpeg's name of the format, never one with a "j".
        depth: bits a sample; more than 8 lie in little-endian uint16.
        rows, columns: how many rows and columns of luma share a sample of chroma; 0 of gray.
    """

    name: str
    depth: int
    rows: int
    columns: int

    @classmethod
    def of(cls, pix_fmt: str) -> Planes | None:
        """Of an FFmpeg format that is Y'CbCr or gray; None of any other."""
        name = _SAME_AS.get(pix_fmt, pix_fmt)
        if not (match := _PLANAR.fullmatch(name)):
            return None
        rows, columns = _SHARING[match[1]] if match[1] else (0, 0)
        return cls(name.replace("yuvj", "yuv"), int(match[2] or match[3] or 8), rows, columns)

    @property
    def is_gray(self) -> bool:
        """Whether there is no chroma."""
        return not self.rows


@dataclass(frozen=True)
class VideoFacts:
    """What all frames of a video have in common.

    Attributes:
        width, height: in pixels, as stored.
        time_base: seconds a tick of the PTS.
        rate: average frames a second; None where nobody knows.
        codec: FFmpeg's name of what it is coded with.
        pix_fmt: FFmpeg's name of its pixel format.
        depth: bits a sample.
        planes: how its codes lie; None of RGB, palettes and what FFmpeg is to convert.
        matrix, primaries, transfer: colour tags, as in the file.
        full_range: luma of 0-255 and not 16-235.
        range_tag: what of that the file says.
        display_matrix: nine fixed-point numbers that turn the picture as it is shown; None where it
            is shown as stored.
        turn: degrees that it is shown turned by, counter-clockwise.
        pixel_aspect: width by height of a pixel; None where it is not told.
        frames: how many there are; None where nobody knows.
        duration_s: of the whole; None where nobody knows.
    """

    width: int
    height: int
    time_base: Fraction
    rate: Fraction | None
    codec: str
    pix_fmt: str
    depth: int
    planes: Planes | None
    matrix: int
    primaries: int
    transfer: int
    full_range: bool
    range_tag: int
    display_matrix: tuple[int, ...] | None
    turn: int
    pixel_aspect: Fraction | None
    frames: int | None
    duration_s: float | None

    @classmethod
    def of(cls, container: Any, stream: Any, frame: Any) -> VideoFacts:
        """Of an open PyAV container, its video stream and its first frame."""
        pix_fmt = frame.format.name
        planes = Planes.of(pix_fmt)
        time_base, length = stream.time_base, stream.duration
        duration_s = None if length is None else float(length * time_base)
        if duration_s is None and container.duration:
            duration_s = container.duration / 1e6
        context = stream.codec_context
        aspect = stream.sample_aspect_ratio or context.sample_aspect_ratio
        shown_by, turn = _display_matrix(frame)
        return cls(
            width=frame.width,
            height=frame.height,
            time_base=time_base,
            rate=stream.average_rate or stream.guessed_rate or None,
            codec=context.name if stream.codec is None else stream.codec.canonical_name,
            pix_fmt=pix_fmt,
            depth=max(component.bits for component in frame.format.components),
            planes=planes,
            matrix=int(frame.colorspace),
            primaries=int(context.color_primaries),
            transfer=int(context.color_trc),
            full_range=planes is not None and (int(frame.color_range) == FULL or "yuvj" in pix_fmt),
            range_tag=int(frame.color_range),
            display_matrix=shown_by,
            turn=turn,
            pixel_aspect=Fraction(aspect) if aspect else None,
            frames=stream.frames or None,
            duration_s=duration_s,
        )

    @property
    def standard(self) -> Standard | None:
        """Whose weights luma has; None where they are neither BT.709's nor BT.601's."""
        if not self.is_rgb and self.matrix in WEIGHTS_OF_MATRIX:
            return None
        guess: Standard = "bt709" if self.height >= HD_ROWS else "bt601"
        return STANDARD_OF_MATRIX.get(self.matrix, guess)

    @property
    def weights(self) -> tuple[float, float]:
        """Of red and blue in luma."""
        standard = self.standard
        return WEIGHTS_OF_MATRIX[self.matrix] if standard is None else RED_BLUE[standard]

    @property
    def is_rgb(self) -> bool:
        """Whether its codes are no Y'CbCr, so that a matrix is chosen where it is written."""
        return self.planes is None

    @property
    def written_matrix(self) -> int:
        """Colour tag of what is written: as in the file, of RGB by the height."""
        if not self.is_rgb:
            return self.matrix
        return BT709 if self.height >= HD_ROWS else SMPTE170M

    @property
    def written_range(self) -> int:
        """Colour tag of what is written: as in the file, of RGB that of video."""
        return self.range_tag if not self.is_rgb else LIMITED

    @property
    def frame_s(self) -> Fraction:
        """How long one frame is shown, on average; a 25th of a second where nobody knows."""
        return 1 / self.rate if self.rate else Fraction(1, 25)


def picture_stream(container: Any) -> Any:
    """The stream of a container that is its video, no cover picture; None where there is none."""
    return container.streams.best("video")


def _display_matrix(frame: Any) -> tuple[tuple[int, ...] | None, int]:
    """Nine fixed-point numbers and the degrees, of a frame that is shown turned or mirrored."""
    for side in frame.side_data:
        if side.type.name == "DISPLAYMATRIX":
            return struct.unpack("<9i", bytes(side)[:36]), int(frame.rotation)
    return None, 0
