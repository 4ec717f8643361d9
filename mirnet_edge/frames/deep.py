"""Pictures of 16 bits a colour channel, which Pillow cuts to 8: PNG by imagecodecs, TIFF by
tifffile.

imagecodecs, a wheel of 26 to 44 MB, is the reason for an extra: its libpng is as fast as Pillow's,
and tifffile needs its LZW, in which photo editors pack 16-bit TIFFs.
"""

from __future__ import annotations

import io
from typing import Any
from zlib import compress

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import putchunk

from mirnet_edge._imports import require
from mirnet_edge.errors import ImageError
from mirnet_edge.frames.opened import Opened

_PURPOSE = "16 bits a colour channel"
_RGB = 2
_ASSOCIATED, _UNASSOCIATED = 1, 2
"""Of a TIFF's extra sample: alpha that colours are multiplied by, or not."""
_PNG_HEADER_BYTES = 8 + 25
_PNG_LEVEL = 4
"""Of zlib: on 12 megapixels of noise and steps 3 took 4.4 s, 6 took 6.2 s, 51 MB each."""


def read_deep(opened: Opened, page: int = 0) -> NDArray[np.uint16]:
    """Read all bits of a picture that Pillow opened as RGB or RGBA.

    Returns:
        (H, W, C), C = 2 (gray, alpha), 3 or 4, as stored.
    """
    place = opened.file.tell()
    opened.file.seek(0)
    try:
        if opened.image.format == "PNG":
            pixels = require("imagecodecs", _PURPOSE).png_decode(opened.file.read())
            return np.asarray(pixels, np.uint16)
        if opened.image.format == "TIFF":
            return _read_tiff(opened, page)
    finally:
        opened.file.seek(place)
    raise ImageError(
        f"{opened.name}: 16 bits a colour channel, of which reading {opened.image.format} would "
        "drop 8. Convert it to PNG or TIFF, or pass the uint16 array to Restorer in Python."
    )


def _read_tiff(opened: Opened, number: int) -> NDArray[np.uint16]:
    tifffile = require("tifffile", _PURPOSE)
    require("imagecodecs", _PURPOSE)  # which tifffile imports where a file needs it
    with tifffile.TiffFile(opened.file, name=opened.name) as tiff:
        page = tiff.pages[number]
        if page.photometric != _RGB or page.dtype != np.uint16:
            raise ImageError(
                f"{opened.name}: {page.bitspersample} bits a channel of "
                f"{getattr(page.photometric, 'name', page.photometric)}; convert it to RGB of "
                "8 or 16 bits, or pass the array to Restorer in Python"
            )
        pixels = page.asarray()
        if page.planarconfig == 2:
            pixels = np.moveaxis(pixels, 0, 2)
        alpha = [int(kind) for kind in page.extrasamples]
    channels = 4 if alpha and alpha[0] in (_ASSOCIATED, _UNASSOCIATED) else 3
    pixels = np.ascontiguousarray(pixels[:, :, :channels])
    if channels == 4 and alpha[0] == _ASSOCIATED:
        pixels = _divided(pixels)
    return np.asarray(pixels, np.uint16)


def _divided(pixels: NDArray[Any]) -> NDArray[Any]:
    """Colours that were multiplied by alpha as they were before."""
    alpha = pixels[:, :, 3:].astype(np.uint64)
    colours = pixels[:, :, :3].astype(np.uint64) * 65535 // np.maximum(alpha, 1)
    return np.concatenate([np.minimum(colours, 65535), alpha], axis=2)


def deep_png(pixels: NDArray[np.uint16], exif: bytes | None, icc_profile: bytes | None) -> bytes:
    """Write a PNG of (H, W, C) uint16, with EXIF block and colour profile."""
    codecs = require("imagecodecs", _PURPOSE)
    coded = codecs.png_encode(np.ascontiguousarray(pixels), level=_PNG_LEVEL)
    chunks = io.BytesIO()
    if icc_profile:
        putchunk(chunks, b"iCCP", b"ICC Profile\0\0", compress(icc_profile))
    if exif:
        putchunk(chunks, b"eXIf", exif.removeprefix(b"Exif\0\0"))
    return bytes(coded[:_PNG_HEADER_BYTES]) + chunks.getvalue() + bytes(coded[_PNG_HEADER_BYTES:])
