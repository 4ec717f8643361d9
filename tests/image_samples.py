"""Pixels, EXIF blocks, colour profiles and PNG files that tests of images share."""

from __future__ import annotations

import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from mirnet_edge.errors import ImageError
from mirnet_edge.frames.images import read_image

Pixels = NDArray[Any]
ORIENTATION, DESCRIPTION, EXIF_IFD, LENS = 0x0112, 0x010E, 0x8769, 0xA434
LOSSY = (".jpg", ".jpeg", ".avif")


def random_pixels(*shape: int, dtype: Any = np.uint8) -> Pixels:
    rng = np.random.default_rng(len(shape))
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def smooth_pixels(height: int, width: int) -> Pixels:
    """A colour gradient, which JPEG keeps within a few levels."""
    y, x = np.mgrid[:height, :width]
    return np.stack([5 * y, 3 * x, 60 + y + x], axis=2).astype(np.uint8)


@cache
def srgb() -> bytes:
    """The same bytes however often: a profile holds the second it was made in."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_block(orientation: int, lens: str | None = None) -> bytes:
    """With a lens, there is a second directory in it, as every camera writes one."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[DESCRIPTION] = "a test"
    if lens:
        exif.get_ifd(EXIF_IFD)[LENS] = lens
    return exif.tobytes()


def tags(block: bytes | None) -> tuple[Any, Any, Any]:
    exif = Image.Exif()
    exif.load(block or b"")
    return exif.get(ORIENTATION), exif.get(DESCRIPTION), exif.get_ifd(EXIF_IFD).get(LENS)


def png(pixels: Pixels, chunks: bytes = b"") -> bytes:
    """A PNG of 8 or 16 bits a channel, written without Pillow, which has no 16-bit colour."""
    height, width = pixels.shape[:2]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.reshape(height, width, -1).shape[2]]
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, colour_type, 0, 0, 0)
    rows = pixels.astype(pixels.dtype.newbyteorder(">"))
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunks
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def refusal(path: Path) -> str:
    with pytest.raises(ImageError) as raised:
        read_image(path)
    assert str(raised.value).startswith(f"{path}: ")
    return str(raised.value).removeprefix(f"{path}: ")
