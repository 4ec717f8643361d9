"""How frames are cut for an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mirnet_edge.engines.protocol import Engine, works_on_device
from mirnet_edge.facts import ModelFacts
from mirnet_edge.tiling.choice import Cut, Tile


def cut_for_engine(
    engine: Engine,
    facts: ModelFacts,
    tile: Tile,
    halo: int,
    blend: int,
    memory_limit: int | None,
) -> Cut:
    """Choose by what a caller asks for, the only tile that the engine takes, and the memory that
    one has which takes any on a device of its own; see `Cut.of`."""
    fixed: tuple[int, int] | None = getattr(engine, "fixed_size", None)
    pixels_within: Callable[[int | None], int] | None = getattr(engine, "pixels_within", None)
    most_px = None
    if pixels_within is not None and tile == "auto" and fixed is None:
        most_px = pixels_within(memory_limit)
    cut = Cut.of(facts, tile, fixed, halo, blend, memory_limit, most_px)
    # What an engine of the device takes is counted where it is allocated.
    return replace(cut, memory_limit=None if works_on_device(engine) else memory_limit)
