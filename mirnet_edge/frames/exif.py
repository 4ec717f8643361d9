"""What image files say of a picture in EXIF: taken out of a file, and corrected for its size."""

from __future__ import annotations

import struct
from typing import Any

from PIL import Image

_PREFIX = b"Exif\0\0"
_DESCRIPTIVE_TAGS = (270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 33432, 34665, 34853)
"""What a TIFF's directory says of the picture (ImageDescription … GPS), not of the file."""
_EXIF_DIRECTORY = 34665
_SUB_DIRECTORIES = (_EXIF_DIRECTORY, 34853)
_WIDTHS, _HEIGHTS = (256, 40962), (257, 40963)
"""ImageWidth and ImageLength of the first directory, PixelXDimension and PixelYDimension of the
one that cameras add."""
_SHORT, _LONG = 3, 4
_ENTRY_BYTES = 12


def exif_of(image: Image.Image) -> bytes | None:
    """The EXIF block of an image that Pillow opened, with its prefix; None where there is none."""
    if image.format == "TIFF":
        # Copied tag by tag: where strips lie and how they are packed would lie about the new file.
        directory, described = image.tag_v2, Image.Exif()  # type: ignore[attr-defined]
        for tag in set(_DESCRIPTIVE_TAGS) & set(directory):
            is_pointer = tag in _SUB_DIRECTORIES
            described[tag] = image.getexif().get_ifd(tag) if is_pointer else directory[tag]
        return described.tobytes() if len(described) else None
    block = image.info.get("exif") or image.getexif().tobytes()
    if not block:
        return None
    return bytes(block) if block.startswith(_PREFIX) else _PREFIX + bytes(block)


def with_size(block: bytes, width: int, height: int) -> bytes:
    """The block with the pixel dimensions that it names, if it names any, set to these.

    Written over in place: what makers of cameras add holds addresses within the block, and would be
    lost where the block is put together anew. One that cannot be read stays as it is.
    """
    changed = bytearray(block)
    try:
        _set_size(changed, len(_PREFIX) if block.startswith(_PREFIX) else 0, width, height)
    except struct.error:
        return block
    return bytes(changed)


def _set_size(block: bytearray, start: int, width: int, height: int) -> None:
    order = {b"II": "<", b"MM": ">"}.get(bytes(block[start : start + 2]), "")
    if not order:
        return
    (first,) = struct.unpack_from(f"{order}I", block, start + 4)
    places = [first]
    # The list grows by the camera's directory; no more than that, whatever a file says.
    for place in places:
        (count,) = struct.unpack_from(f"{order}H", block, start + place)
        for number in range(count):
            entry = start + place + 2 + number * _ENTRY_BYTES
            tag, kind, values = struct.unpack_from(f"{order}HHI", block, entry)
            if tag == _EXIF_DIRECTORY and len(places) == 1:
                places.append(*_inline(block, entry, order))
            if kind in (_SHORT, _LONG) and values == 1 and tag in (*_WIDTHS, *_HEIGHTS):
                side = width if tag in _WIDTHS else height
                struct.pack_into(f"{order}HHII", block, entry, tag, _LONG, 1, side)


def _inline(block: bytearray, entry: int, order: str) -> Any:
    return struct.unpack_from(f"{order}I", block, entry + 8)
