"""TIFF files of what Pillow writes none of: several pages with all that cameras tell of each, and
16 bits a colour channel. Uncompressed; the directories are Pillow's."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

_HEADER = b"II\x2a\0\x08\0\0\0"
_ENTRY_BYTES = 12
_ICC_PROFILE, _UNDEFINED, _LONG = 34675, 7, 4
_STRIP_OFFSETS, _BLACK_IS_ZERO, _RGB, _UNASSOCIATED = 273, 1, 2, 2
_INTEROPERABILITY = 40965
"""An address in the camera's file, which says nothing in another."""
_MOST_BYTES = 2**32 - 1


class TiffPages:
    """Writes pages one behind the other into a file that is open and empty.

    Raises:
        ValueError: the file would exceed the 4 GB that addresses in a TIFF reach.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._link = len(_HEADER) - 4
        file.write(_HEADER)

    def add(self, pixels: NDArray[np.generic], exif: bytes | None, icc: bytes | None) -> None:
        """Write a page: (H, W) or (H, W, C), C from 1 to 4, uint8 or uint16; with what an EXIF
        block says, and a colour profile."""
        # Directories begin at even addresses.
        self._file.write(b"\0" * (self._file.tell() % 2))
        place = self._file.tell()
        data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        if place + len(data) > _MOST_BYTES:
            raise ValueError(f"{place + len(data):,} bytes are more than a TIFF holds")
        directory = _directory(pixels, len(data), exif, icc)
        written = directory.tobytes(place)
        self._file.write(written)
        self._file.write(data)
        if self._link != len(_HEADER) - 4:  # the first directory is where the header says
            self._file.seek(self._link)
            self._file.write(struct.pack("<I", place))
            self._file.seek(0, 2)
        self._link = place + 2 + _ENTRY_BYTES * len(dict(directory))


def _directory(
    pixels: NDArray[np.generic], size_bytes: int, exif: bytes | None, icc: bytes | None
) -> TiffImagePlugin.ImageFileDirectory_v2:
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    directory = TiffImagePlugin.ImageFileDirectory_v2(_HEADER)
    for tag, value in _described(exif).items():
        directory[tag] = value
    directory[256], directory[257], directory[278] = width, height, height
    directory[258], directory[277] = (8 * pixels.itemsize,) * channels, channels
    directory[259], directory[284] = 1, 1  # not compressed, channels side by side
    directory[262] = _RGB if channels > 2 else _BLACK_IS_ZERO
    directory[279] = size_bytes
    if channels in (2, 4):
        directory[338] = _UNASSOCIATED
    if icc:
        directory.tagtype[_ICC_PROFILE] = _UNDEFINED
        directory[_ICC_PROFILE] = icc
    directory.tagtype[_STRIP_OFFSETS] = _LONG
    directory[_STRIP_OFFSETS] = 0  # Pillow adds where the directory ends
    return directory


def _described(exif: bytes | None) -> Mapping[int, object]:
    block = Image.Exif()
    if exif:
        block.load(exif)
    found: dict[int, object] = dict(block)
    for tag in (34665, 34853):
        if tag in found:
            below = dict(block.get_ifd(tag))
            below.pop(_INTEROPERABILITY, None)
            found[tag] = below
    return found
