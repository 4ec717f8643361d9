"""Pure geometry: how equal tiles cover a frame.

Along each axis, tiles of one length lie at a constant stride, and the last one is pushed back to
end where the frame ends. Neighbours meet in the middle of their overlap, so that every kept pixel
is at least ``halo`` pixels from an edge of its tile that is not an edge of the frame. With
``blend``, the two fade into each other over that many pixels around the middle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import TilingError
from mirnet_edge.facts import SizeRule


@dataclass(frozen=True)
class Tiling:
    """How to cut frames into tiles.

    Attributes:
        tile: (height, width) of every tile in pixels, multiples of ``multiple``.
        halo: pixels at each inner edge of a tile that are computed and thrown away.
        blend: pixels over which neighbouring tiles fade into each other; 0 cuts. Even.
        multiple: tile origins and sizes are multiples of it, so that strided layers have the same
            phase in every tile.
        least: a tile is never smaller than this, the frame may be.
        fixed: True for an engine that takes this very tile; otherwise a tile shrinks to a smaller
            frame.

    Raises:
        TilingError: a tile that is no multiple of ``multiple``, below ``least``, or too small for
            halo and blend.
    """

    tile: tuple[int, int]
    halo: int = 16
    blend: int = 0
    multiple: int = 4
    least: int = 4
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.halo < 0 or self.blend < 0 or self.blend % 2:
            raise TilingError(
                f"halo={self.halo}, blend={self.blend}: neither may be negative, blend must be even"
            )
        for size in self.tile:
            if not self.size_rule.allows(size):
                raise TilingError(f"tile={self.tile}: height and width must be {self.size_rule}")
            # Less than two blends apart, three tiles would fade at one pixel.
            if self._stride(size) < max(self.multiple, 2 * self.blend):
                raise TilingError(
                    f"tile={self.tile} is too small for halo={self.halo} and blend={self.blend}: a "
                    f"tile needs at least 2 x halo + 3 x blend, and {self.multiple} pixels more "
                    "than 2 x halo + blend; take a larger tile or a smaller halo"
                )

    @property
    def size_rule(self) -> SizeRule:
        """What ``multiple`` and ``least`` say."""
        return SizeRule(self.multiple, self.least)

    def _stride(self, size: int) -> int:
        return self.size_rule.down(size - 2 * self.halo - self.blend)

    def cover(self, height: int, width: int) -> Cover:
        """The tiles for a frame of ``height`` x ``width`` pixels.

        The last tiles of a frame that is no multiple of ``multiple`` reach beyond its right and
        bottom border.
        """
        rows, columns = self._spans(height, self.tile[0]), self._spans(width, self.tile[1])
        return Cover(rows, columns, self.blend)

    def _spans(self, length: int, size: int) -> tuple[Span, ...]:
        padded = self.size_rule.padded(length)
        if padded < size and not self.fixed:
            size = padded
        last = max(padded - size, 0)
        # Pushed back, not shrunk: one shape of tiles is one buffer, one plan and one CUDA graph.
        origins = [*range(0, last, self._stride(size)), last] if last else [0]
        # In the middle of the overlap, as far from both tiles' edges as can be.
        cuts = [(left + right + size) // 2 for left, right in pairwise(origins)]
        half = self.blend // 2
        return tuple(
            Span(
                origin=origin,
                size=size,
                start=cuts[i - 1] - half if i else 0,
                stop=cuts[i] + half if i < len(cuts) else length,
                fade_in=self.blend if i else 0,
                fade_out=self.blend if i < len(cuts) else 0,
            )
            for i, origin in enumerate(origins)
        )


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in frame pixels.

    Attributes:
        origin, size: what the tile covers.
        start, stop: what is kept of it, the faded pixels included.
        fade_in, fade_out: pixels after ``start`` and before ``stop`` shared with a neighbour.
    """

    origin: int
    size: int
    start: int
    stop: int
    fade_in: int
    fade_out: int

    @property
    def source(self) -> slice:
        """What the tile covers, in frame pixels; may reach beyond the frame's end."""
        return slice(self.origin, self.origin + self.size)

    @property
    def kept(self) -> slice:
        """What is kept, in pixels of the tile."""
        return slice(self.start - self.origin, self.stop - self.origin)

    @property
    def settled(self) -> slice:
        """What is final once this tile is done, in frame pixels: all kept but ``fade_out``."""
        return slice(self.start, self.stop - self.fade_out)

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """Weight of each kept pixel: raised-cosine ramps that sum to one with the neighbour's."""
        weights = np.ones(self.stop - self.start, np.float32)
        if self.fade_in:
            weights[: self.fade_in] = _ramp(self.fade_in)
        if self.fade_out:
            weights[-self.fade_out :] = 1.0 - _ramp(self.fade_out)
        return weights


@dataclass(frozen=True)
class Cover:
    """All tiles of one frame: every pair of a row span and a column span."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    blend: int

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        """Tiles in reading order."""
        return ((row, column) for row in self.rows for column in self.columns)


def partition(spans: Sequence[Span], rule: SizeRule) -> list[slice]:
    """Of the tiles along one axis, which of its pixels each tile alone counts for.

    The regions begin and end at the rule's multiples and partition the padded frame: what an
    untiled run would see. Where the halo is such a multiple, they lie a halo away from inner tile
    edges, like what is kept.
    """
    middles = [(a.origin + a.size + b.origin) // 2 for a, b in pairwise(spans)]
    cuts = [0, *map(rule.down, middles), rule.padded(spans[-1].stop)]
    return [
        slice(start - span.origin, stop - span.origin)
        for span, (start, stop) in zip(spans, pairwise(cuts))
    ]


def _ramp(length: int) -> NDArray[np.float32]:
    phase = (np.arange(length, dtype=np.float64) + 0.5) / length
    return (0.5 - 0.5 * np.cos(np.pi * phase)).astype(np.float32)
