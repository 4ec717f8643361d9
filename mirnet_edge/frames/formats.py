"""Formats that pictures are written in: one table, by suffix, of what each holds and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import features

_COLOURS = ("gray", "gray with alpha", "RGB", "RGBA")
DEEP_COLOURS = ("16-bit gray with alpha", "16-bit RGB", "16-bit RGBA")
"""Which Pillow neither reads nor writes."""
_ANYTHING = (*_COLOURS, "16-bit gray", *DEEP_COLOURS)


@dataclass(frozen=True)
class Format:
    """How files of one suffix are written.

    Attributes:
        name: Pillow's.
        holds: kinds of pixels (see `kind_of`) that it takes.
        options: of Pillow's save.
        quick: what is added to them where time matters more than bytes.
        lossy: what replaces them where a quality is asked for; None where a format has none.
        moves: whether it holds several frames with durations.
    """

    name: str
    holds: tuple[str, ...] = _ANYTHING
    options: dict[str, Any] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=dict)
    lossy: dict[str, Any] | None = None
    moves: bool = False

    def save_options(self, quality: int | None, quick: bool = False) -> dict[str, Any]:
        """Options of Pillow's save; ``quality`` from 1 to 100, None for the format's default."""
        if quality is None or self.lossy is None:
            return {**self.options, **(self.quick if quick else {})}
        return {**self.lossy, "quality": quality}


_FULL_COLOUR = {"subsampling": "4:4:4"}
_JPEG = Format("JPEG", ("gray", "RGB"), {"quality": 95, **_FULL_COLOUR}, lossy=_FULL_COLOUR)
# Of a photo in a quarter of the time, and a fifth larger.
_PNG = Format("PNG", quick={"compress_level": 1}, moves=True)
# Uncompressed: through libtiff, Pillow loses the EXIF sub-directories that cameras write.
_TIFF = Format("TIFF", (*_COLOURS, "16-bit gray", "16-bit RGB", "16-bit RGBA"))
_WEBP = Format(
    "WEBP",
    ("gray", "RGB", "RGBA"),
    {"lossless": True, "exact": True},
    quick={"method": 0},  # in two fifths of the time, and a third larger
    lossy={"exact": True},
    moves=True,
)
# Never exact, as Pillow writes no RGB into it.
_AVIF = Format("AVIF", _COLOURS, {"quality": 90, **_FULL_COLOUR}, lossy=_FULL_COLOUR, moves=True)
_JXL = Format("JXL", (*_COLOURS, "16-bit gray"), {"lossless": True}, lossy={})
FORMATS = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": Format("BMP", ("gray", "RGB")),
}
if features.check("avif"):
    FORMATS[".avif"] = _AVIF
if find_spec("pillow_jxl"):
    FORMATS[".jxl"] = _JXL
SUFFIXES = tuple(FORMATS)
"""Of still pictures, as far as this Pillow writes them."""
FORMATS |= {".gif": Format("GIF", ("gray", "RGB", "RGBA"), moves=True), ".apng": _PNG}
_SUFFIX_OF_NAME = {
    # Of several suffixes the first.
    **{form.name: suffix for suffix, form in reversed(FORMATS.items())},
    **{"MPO": ".jpg", "DIB": ".bmp"},
}


def suffix_of(name: str | None) -> str:
    """The suffix to write what Pillow calls ``name``; ``.png`` for what it only reads."""
    return _SUFFIX_OF_NAME.get(name or "", ".png")


def kind_of(pixels: NDArray[Any]) -> str:
    """Name the kind of pixels, as in `Format.holds`; what no file holds by its dtype and shape."""
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    bits = {np.dtype(np.uint8): "", np.dtype(np.uint16): "16-bit "}.get(pixels.dtype)
    name = {1: "gray", 2: "gray with alpha", 3: "RGB", 4: "RGBA"}.get(channels)
    if bits is None or name is None or pixels.ndim not in (2, 3):
        return f"a {pixels.dtype} array of shape {pixels.shape}"
    return bits + name
