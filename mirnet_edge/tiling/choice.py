"""Which tile a `Restorer` takes: the caller's, checked, or one that fits in memory."""

from __future__ import annotations

import math
from typing import Literal

import psutil

from mirnet_edge.errors import TilingError
from mirnet_edge.facts import ModelFacts, SizeRule

AUTO_MEMORY_BYTES = 192 * 2**20
AUTO_TILE_PX = (128, 1024)
AUTO_STEP_PX = 32
ASSUMED_BYTES_PER_PIXEL = 4096
ENGINE_OVERHEAD = 2.1  # ONNX Runtime 1.32 took 2.1 times the graph's live tensors (edge-s, 512x512)

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


def require_memory(facts: ModelFacts, tile: tuple[int, int], memory_limit: int | None) -> None:
    """Check that the activations of a tile fit in ``memory_limit`` bytes; None is no limit."""
    needed = math.ceil(_bytes_per_pixel(facts) * tile[0] * tile[1])
    if memory_limit is None or needed <= memory_limit:
        return
    side = facts.size_rule.down(_side_within(facts, memory_limit))
    smaller = f", or take a tile of at most {side}" if facts.size_rule.allows(side) else ""
    raise TilingError(
        f"memory_limit={memory_limit:,} bytes: a tile of {tile[0]}x{tile[1]} pixels takes about "
        f"{needed:,} with this model; allow that{smaller}"
    )


def _side_within(facts: ModelFacts, budget_bytes: int) -> int:
    return math.isqrt(int(budget_bytes / _bytes_per_pixel(facts)))


def _bytes_per_pixel(facts: ModelFacts) -> float:
    return ENGINE_OVERHEAD * (facts.bytes_per_pixel or ASSUMED_BYTES_PER_PIXEL)
