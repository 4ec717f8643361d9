"""Which tile a `Restorer` takes: the caller's, checked, or one that fits in memory, and how frames
are cut into it."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Literal

import psutil

from mirnet_edge.errors import TilingError
from mirnet_edge.facts import ModelFacts, SizeRule
from mirnet_edge.tiling.even import even_tile
from mirnet_edge.tiling.geometry import Tiling

log = logging.getLogger(__name__)
AUTO_MEMORY_BYTES = 192 * 2**20
AUTO_TILE_PX = (128, 1024)
AUTO_STEP_PX = 32
DEVICE_TILE_PX = 2048  # of a frame that is cut: larger ones would leave less in common
ASSUMED_BYTES_PER_PIXEL = 4096
ENGINE_OVERHEAD = 2.1  # ONNX Runtime 1.32 took 2.1 times the graph's live tensors (edge-s, 512x512)

WHOLE = 1.25
"""How many times the automatic tile's pixels a frame may have and still be restored whole, where
nobody limits the memory: cut in two it would compute more."""

Size = tuple[int, int]
Tile = int | Size | None | Literal["auto"]


def checked_tile(tile: Tile, fixed: Size | None) -> Size | Literal["auto"] | None:
    """Check what a caller may ask for, and return it as (height, width), "auto" or None; ``fixed``
    is the only tile that the engine takes."""
    if isinstance(tile, str):
        if tile != "auto":
            raise TilingError(f'tile={tile!r}: need pixels, (height, width), None or "auto"')
        return fixed or "auto"
    if tile is None:
        if fixed:
            raise TilingError(
                f"tile=None asks for whole frames, but this model takes only {fixed[0]}x{fixed[1]} "
                "pixels; export it with dynamic height and width"
            )
        return None
    pair = tuple(tile) if isinstance(tile, (tuple, list)) else (tile, tile)
    if len(pair) != 2 or not all(isinstance(side, int) for side in pair):
        raise TilingError(f"tile={tile!r}: need whole pixels, as 512 or (height, width)")
    if fixed and pair != fixed:
        raise TilingError(f"tile={pair}: this model takes only {fixed}; leave tile out")
    return pair


def auto_tile(facts: ModelFacts, halo: int, blend: int, memory_limit: int | None = None) -> int:
    """Side of the largest square tile, a multiple of 32 (of 36 where the network needs multiples of
    12), whose activations fit in a quarter of the memory at hand and in ``memory_limit``, or
    `AUTO_MEMORY_BYTES` where there is none; within `AUTO_TILE_PX`, but as small as halo and blend
    allow where ``memory_limit`` asks for that. It may still be too large for that (see
    `require_memory`)."""
    steps = SizeRule(facts.size_rule.up(AUTO_STEP_PX), 0)
    most_bytes = AUTO_MEMORY_BYTES if memory_limit is None else memory_limit
    side = _side_within(facts, min(most_bytes, psutil.virtual_memory().available // 4))
    needed = 2 * halo + 3 * blend + facts.size_multiple
    least, most = steps.up(AUTO_TILE_PX[0]), steps.down(AUTO_TILE_PX[1])
    if memory_limit is not None:
        # Below 128 pixels most of a tile is halo; but whoever sets a limit wants slow, not none.
        least = min(least, steps.up(max(needed, facts.min_size_px)))
    side = max(least, min(most, steps.down(side)))
    if needed > side:
        raise TilingError(
            f"halo={halo} and blend={blend} need tiles of at least {needed} pixels, but automatic "
            f"ones are {side} here; take a smaller halo, or set tile"
        )
    return side


def device_tile(facts: ModelFacts, halo: int, blend: int, most_px: int) -> int:
    """Side of the largest square tile of so many pixels, as `auto_tile` on a device of its own."""
    steps = SizeRule(facts.size_rule.up(AUTO_STEP_PX), 0)
    side = steps.down(min(math.isqrt(most_px), DEVICE_TILE_PX))
    needed = max(2 * halo + 3 * blend + facts.size_multiple, facts.min_size_px)
    if needed > side:
        raise TilingError(
            f"halo={halo} and blend={blend} need tiles of at least {needed} pixels, and there is "
            f"memory for {side}; close what else uses the device, or take a smaller halo"
        )
    return side


@dataclass(frozen=True)
class Cut:
    """How frames of any size are cut for one network.

    Attributes:
        tile: (height, width); None for whole frames.
        halo, blend: see `Tiling`.
        fixed: whether the engine takes this very tile.
        whole_px: a frame of no more pixels is restored whole.
        is_automatic: whether frames that are cut may have smaller tiles, which cover them with
            less to spare.
        memory_limit: bytes that a whole frame's activations may take; None is no limit.
    """

    facts: ModelFacts
    tile: Size | None
    halo: int
    blend: int
    fixed: bool = False
    whole_px: int = 0
    is_automatic: bool = False
    memory_limit: int | None = None

    def __post_init__(self) -> None:
        if self.tile is not None:  # what cannot be is said now, and not at the first large frame
            self._tiling(self.tile)

    @classmethod
    def of(
        cls,
        facts: ModelFacts,
        tile: Tile,
        fixed: Size | None,
        halo: int,
        blend: int,
        memory_limit: int | None = None,
        most_px: int | None = None,
    ) -> Cut:
        """Choose by what a caller asks for and the only tile that the engine takes, if any;
        ``memory_limit`` is of an automatic tile, as are ``most_px``, for which the engine itself
        says that it has memory.

        Raises:
            TilingError: a tile that cannot be, or none that halo and blend leave anything of.
        """
        chosen = checked_tile(tile, fixed)
        if not isinstance(halo, int) or not isinstance(blend, int):
            raise TilingError(f"halo={halo!r}, blend={blend!r}: need whole pixels")
        if chosen != "auto":
            return cls(facts, chosen, halo, blend, fixed is not None)
        if most_px is not None:
            side = device_tile(facts, halo, blend, most_px)
            return cls(facts, (side, side), halo, blend, whole_px=most_px, is_automatic=True)
        side = auto_tile(facts, halo, blend, memory_limit)
        log.info("tiles of %d pixels, halo %d, by the memory at hand", side, halo)
        whole_px = int(side * side * (WHOLE if memory_limit is None else 1))
        return cls(facts, (side, side), halo, blend, whole_px=whole_px, is_automatic=True)

    def tiling(self, height: int, width: int) -> Tiling:
        """Cut a frame of ``height`` x ``width`` pixels.

        Raises:
            TilingError: a whole frame that exceeds ``memory_limit``.
        """
        if self.tile is not None and height * width > self.whole_px:
            tile = self.tile
            if self.is_automatic:
                most_px, rule = math.prod(tile), self.facts.size_rule
                tile = even_tile((height, width), most_px, self.halo, self.blend, rule) or tile
            return self._tiling(tile)
        rule = self.facts.size_rule
        whole = (rule.padded(height), rule.padded(width))
        if self.tile is None:
            require_memory(self.facts, whole, self.memory_limit)
        return Tiling(whole, halo=0, multiple=rule.multiple, least=rule.least)

    def _tiling(self, tile: Size) -> Tiling:
        facts = self.facts
        return Tiling(
            tile, self.halo, self.blend, facts.size_multiple, facts.min_size_px, self.fixed
        )


def require_memory(facts: ModelFacts, tile: tuple[int, int], memory_limit: int | None) -> None:
    """Check that the activations of a tile fit in ``memory_limit`` bytes; None is no limit."""
    needed = tile_bytes(facts, tile)
    if memory_limit is None or needed <= memory_limit:
        return
    side = facts.size_rule.down(_side_within(facts, memory_limit))
    smaller = f", or take a tile of at most {side}" if facts.size_rule.allows(side) else ""
    raise TilingError(
        f"memory_limit={memory_limit:,} bytes: a tile of {tile[0]}x{tile[1]} pixels takes about "
        f"{needed:,} with this model; allow that{smaller}"
    )


def tile_bytes(facts: ModelFacts, tile: tuple[int, int]) -> int:
    """Estimate the activations of a tile on the portable engine."""
    return math.ceil(_bytes_per_pixel(facts) * tile[0] * tile[1])


def _side_within(facts: ModelFacts, budget_bytes: int) -> int:
    return math.isqrt(int(budget_bytes / _bytes_per_pixel(facts)))


def _bytes_per_pixel(facts: ModelFacts) -> float:
    return ENGINE_OVERHEAD * (facts.bytes_per_pixel or ASSUMED_BYTES_PER_PIXEL)
