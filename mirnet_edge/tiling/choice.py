"""Which tile a `Restorer` takes: the caller's, checked, or one that fits in memory."""

from __future__ import annotations

import math
from typing import Literal

import psutil

from mirnet_edge.errors import TilingError
from mirnet_edge.facts import ModelFacts

AUTO_MEMORY_BYTES = 192 * 2**20
AUTO_TILE_PX = (128, 1024)
ASSUMED_BYTES_PER_PIXEL = 4096
ENGINE_OVERHEAD = 2.1  # ONNX Runtime 1.32 took 2.1 times the graph's live tensors (edge-s, 512x512)

Tile = int | tuple[int, int] | None | Literal["auto"]


def checked_tile(
    tile: Tile, fixed: tuple[int, int] | None
) -> tuple[int, int] | Literal["auto"] | None:
    """(height, width), "auto" or None of what a caller may ask for.

    Args:
        fixed: the only tile that the engine takes, or None.

    Raises:
        TilingError: no tile, or one that the engine does not take.
    """
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
    """Side of the largest square tile, a multiple of 32, whose activations fit in a quarter of the
    memory at hand and in ``memory_limit``, or `AUTO_MEMORY_BYTES` where there is none; never below
    `AUTO_TILE_PX`.

    Raises:
        TilingError: halo and blend need a larger one.
    """
    most_bytes = AUTO_MEMORY_BYTES if memory_limit is None else memory_limit
    budget = min(most_bytes, psutil.virtual_memory().available // 4)
    bytes_per_pixel = ENGINE_OVERHEAD * (facts.bytes_per_pixel or ASSUMED_BYTES_PER_PIXEL)
    side = math.isqrt(int(budget / bytes_per_pixel))
    least, most = AUTO_TILE_PX
    side = max(least, min(most, side - side % 32))
    needed = 2 * halo + 3 * blend + facts.size_multiple
    if needed > side:
        raise TilingError(
            f"halo={halo} and blend={blend} need tiles of at least {needed} pixels, but automatic "
            f"ones are {side} here; take a smaller halo, or set tile"
        )
    return side
