"""Pictures as HTTP carries them: files by what they are, raw pixels by what headers say."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import FrameError, OutputError
from mirnet_edge.frames.images import ImageFile, encoded, read_image
from mirnet_edge.frames.layout import MAXIMUM
from mirnet_edge.frames.opened import reading, size_of
from mirnet_edge.frames.pixel_formats import PixelFormat
from mirnet_edge.serve.options import read_pixels
from mirnet_edge.serve.refusals import Refusal

Kind = Literal["image/png", "image/jpeg", "image/webp", "application/octet-stream"]
RAW: Kind = "application/octet-stream"
SUFFIX_OF_KIND: dict[Kind, str] = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
}
KINDS: tuple[Kind, ...] = (*SUFFIX_OF_KIND, RAW)
SHAPE, DTYPE, PIXELS = "frame-shape", "frame-dtype", "frame-pixels"
"""Headers of raw pixels."""
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(name) for name in map(str, MAXIMUM)}
MOST_SIDE = 1 << 20


class Body(io.BytesIO):
    """The body of a request, under the name that errors give it."""

    name = "the body"


@dataclass(frozen=True, eq=False)
class Picture:
    """One frame that was sent.

    Attributes:
        kind: of what it was sent as.
        pixels: as `Restorer` takes them.
        file: what a file held besides; None for raw pixels.
    """

    kind: Kind
    pixels: NDArray[Any]
    file: ImageFile | None = None


@dataclass(frozen=True)
class RawLayout:
    """What the headers of raw pixels say; checked."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pixels: PixelFormat | None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> RawLayout | None:
        """Read them; None where the body is to be a file.

        Raises:
            Refusal: they say what cannot be; 400.
        """
        if SHAPE not in headers:
            if given := [name for name in (DTYPE, PIXELS) if name in headers]:
                raise Refusal(400, f"{given[0]} is given without {SHAPE}; raw pixels need both")
            return None
        text, dtype = headers[SHAPE], headers.get(DTYPE, "uint8").strip()
        if not re.fullmatch(r"\s*\d{1,7}\s*(,\s*\d{1,7}\s*){1,2}", text, re.ASCII):
            raise Refusal(400, f"{SHAPE}: {text!r:.60}; need sides of an array, as 1080,1920,3")
        if dtype not in DTYPES:
            raise Refusal(400, f"{DTYPE}: {dtype!r:.60}; need one of {', '.join(DTYPES)}")
        pixels = read_pixels(headers[PIXELS]) if PIXELS in headers else None
        return cls(tuple(map(int, text.split(","))), DTYPES[dtype], pixels)

    @property
    def size_bytes(self) -> int:
        """Of all of it."""
        return math.prod(self.shape) * self.dtype.itemsize

    def check(self, size_bytes: int, most_px: int) -> None:
        """Check, before a byte is looked at, that a body of this size is such a frame.

        Raises:
            Refusal: it is not, or has more pixels; 400 or 413.
        """
        height, width = self.shape[:2]
        if self.pixels is not None:
            try:
                height, width = self.pixels.size_of(self.shape, self.dtype)
            except FrameError as error:
                raise Refusal(400, str(error)) from error
        require_pixels(height, width, most_px)
        if size_bytes != self.size_bytes:
            raise Refusal(
                400,
                f"{size_bytes:,} bytes, but {self.dtype} {self.shape} are {self.size_bytes:,}",
            )


def require_pixels(height: int, width: int, most_px: int) -> None:
    """Refuse a frame that is too large, or empty."""
    if not height or not width:
        raise Refusal(400, f"a frame of {height}x{width} pixels has none")
    if max(height, width) > MOST_SIDE or height * width > most_px:
        raise Refusal(
            413,
            f"{width}x{height} pixels, and at most {most_px:,} are taken; make it smaller, or cut "
            "it into parts",
        )


def kind_of(content: bytes) -> Kind:
    """What a file is, by how it begins.

    Raises:
        Refusal: none that is taken; 415.
    """
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    raise Refusal(
        415,
        f"{len(content):,} bytes that begin neither as PNG nor as JPEG nor as WebP; send the file "
        f"itself as the body, or raw pixels with the header {SHAPE}",
    )


def read_picture(content: bytes, layout: RawLayout | None, most_px: int) -> Picture:
    """Decode a body.

    Raises:
        Refusal: it is no such picture, or has too many pixels.
        ImageError: a file that cannot be decoded.
    """
    if layout is not None:
        layout.check(len(content), most_px)
        # In a machine's own order of bytes, as arrays are; least first on all that this runs on.
        return Picture(RAW, np.frombuffer(content, layout.dtype).reshape(layout.shape))
    kind = kind_of(content)
    body = Body(content)
    with reading(body):
        size = size_of(body)
    require_pixels(*size, most_px)
    file = read_image(body, most_px)
    return Picture(kind, file.pixels, file)


def write_picture(
    restored: NDArray[Any], kind: Kind, given: Picture, quality: int | None
) -> bytes | memoryview:
    """Encode a restored frame, with what its file held besides.

    Raises:
        Refusal: the format cannot hold it; 406.
    """
    if kind == RAW:
        return np.ascontiguousarray(restored).data.cast("B")
    try:
        name = Path(f"the answer{SUFFIX_OF_KIND[kind]}")
        return encoded(name, restored, given.file, quality, quick=True)
    except OutputError as error:
        raise Refusal(406, f"{error}. Accept: image/png, or {RAW}") from error


def raw_headers(restored: NDArray[Any], pixels: PixelFormat | None) -> dict[str, str]:
    """What says how raw pixels of an answer lie."""
    headers = {SHAPE: ",".join(map(str, restored.shape)), DTYPE: str(restored.dtype)}
    if pixels is None:
        return headers
    words: list[str] = [pixels.name]
    if pixels.standard is not None:
        words += [pixels.standard, "full" if pixels.full_range else "limited"]
    return {**headers, PIXELS: " ".join(words)}


def wanted_kind(accept: str, own: Kind) -> Kind:
    """What an Accept header wants most of what there is; what was sent where it has no opinion.

    Raises:
        Refusal: nothing that there is; 406.
    """
    best: tuple[float, bool] = (0.0, False)
    found: Kind | None = None
    ranges = [_media_range(part) for part in accept.split(",") if part.strip()]
    for kind in KINDS:
        # The most special range of those that a kind is in has its weight.
        weights = {
            (kind == name, name.endswith("/*")): weight
            for name, weight in ranges
            if name in (kind, f"{kind.partition('/')[0]}/*", "*/*")
        }
        special = [(True, False), (False, True)]
        weight = next((weights[key] for key in special if key in weights), 0.0)
        if (weight, kind == own) > best and weight > 0:
            best, found = (weight, kind == own), kind
    if not ranges:
        return own
    if found is None:
        raise Refusal(406, f"Accept: {accept!r:.80}; there are {', '.join(KINDS)}")
    return found


def _media_range(part: str) -> tuple[str, float]:
    name, *parameters = (word.strip().lower() for word in part.split(";"))
    for parameter in parameters:
        if match := re.fullmatch(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", parameter):
            return name, float(match[1])
    return name, 1.0
