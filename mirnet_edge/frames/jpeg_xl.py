"""What the head of a JPEG XL file says: asked before the plugin decodes the whole of it.

By ISO/IEC 18181-1, headers of image and metadata: bits from the lowest of the first byte on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

_BARE = b"\xff\x0a"
_BOXES = b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a"
_HEAD_BYTES = 1 << 16
_SIDES = ((1, 9), (1, 13), (1, 18), (1, 30))
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_PREVIEWS = ((1, 6), (65, 8), (321, 10), (1345, 12))
_PREVIEWS_IN_EIGHTS = ((16, 0), (32, 0), (1, 5), (33, 9))
_GRAY = 1


@dataclass(frozen=True)
class JxlFacts:
    """Size in pixels, bits a channel, and what else decides whether it can be read whole."""

    width: int
    height: int
    bits: int = 8
    is_gray: bool = False
    is_animated: bool = False


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._value, self._place = int.from_bytes(data, "little"), 0

    def take(self, count: int) -> int:
        """The next ``count`` bits."""
        found = (self._value >> self._place) & ((1 << count) - 1)
        self._place += count
        return found

    def choice(self, *ways: tuple[int, int]) -> int:
        """A number in one of four ways, each an offset and a count of bits."""
        offset, count = ways[self.take(2)]
        return offset + self.take(count)


def jxl_facts(file: BinaryIO) -> JxlFacts | None:
    """Read the head of a JPEG XL file, and go back to its start; None for any other file."""
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    stream = _codestream(head)
    return None if stream is None else _facts(_Bits(stream[len(_BARE) : 200]))


def _codestream(head: bytes) -> bytes | None:
    if head.startswith(_BARE):
        return head
    if not head.startswith(_BOXES):
        return None
    place = 0
    while place + 8 <= len(head):
        length, kind = int.from_bytes(head[place : place + 4], "big"), head[place + 4 : place + 8]
        begin = place + (16 if length == 1 else 8)
        if length == 1:
            length = int.from_bytes(head[place + 8 : place + 16], "big")
        if kind in (b"jxlc", b"jxlp"):
            return head[begin + (4 if kind == b"jxlp" else 0) :]
        if length < 8:
            break
        place += length
    return None


def _facts(bits: _Bits) -> JxlFacts:
    width, height = _size(bits)
    if bits.take(1):  # all is as by default
        return JxlFacts(width, height)
    is_animated = False
    if bits.take(1):
        bits.take(3)  # orientation
        if bits.take(1):  # the size that it is meant for
            _size(bits)
        if bits.take(1):
            _preview(bits)
        is_animated = bool(bits.take(1))
        if is_animated:
            bits.choice((100, 0), (1000, 0), (1, 10), (1, 30))
            bits.choice((1, 0), (1001, 0), (1, 8), (1, 10))
            bits.choice((0, 0), (0, 3), (0, 16), (0, 32))
            bits.take(1)
    depth = _depth(bits)
    return JxlFacts(width, height, depth, _is_gray(bits), is_animated)


def _size(bits: _Bits) -> tuple[int, int]:
    in_eights = bits.take(1)
    height = 8 * (1 + bits.take(5)) if in_eights else bits.choice(*_SIDES)
    ratio = bits.take(3)
    if ratio:
        times, over = _RATIOS[ratio - 1]
        return height * times // over, height
    return (8 * (1 + bits.take(5)) if in_eights else bits.choice(*_SIDES)), height


def _preview(bits: _Bits) -> None:
    in_eights = bits.take(1)
    ways = _PREVIEWS_IN_EIGHTS if in_eights else _PREVIEWS
    bits.choice(*ways)
    if not bits.take(3):
        bits.choice(*ways)


def _depth(bits: _Bits) -> int:
    if bits.take(1):  # floating point
        depth = bits.choice((32, 0), (16, 0), (24, 0), (1, 6))
        bits.take(4)
        return depth
    return bits.choice((8, 0), (10, 0), (12, 0), (1, 6))


def _is_gray(bits: _Bits) -> bool:
    """Whether colours are gray; False where that cannot be read without more of the standard."""
    bits.take(1)  # whether buffers of 16 bits suffice
    if bits.choice((0, 0), (1, 0), (2, 4), (1, 12)):  # extra channels, whose descriptions follow
        return False
    bits.take(1)  # whether it is coded in XYB
    if bits.take(1):  # sRGB
        return False
    bits.take(1)  # whether a profile is embedded
    return bits.choice((0, 0), (1, 0), (2, 4), (18, 6)) == _GRAY
