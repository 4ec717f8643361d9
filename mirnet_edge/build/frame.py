"""An engine whose tile is a whole frame, or the largest part of one that fits into memory."""

from __future__ import annotations

from collections.abc import Callable

import psutil

from mirnet_edge.build.target import Target
from mirnet_edge.engines.card import EngineCard
from mirnet_edge.errors import DeviceMemoryError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.tiling.choice import ASSUMED_BYTES_PER_PIXEL
from mirnet_edge.tiling.even import frame_tiles

HALO_PX = 16
"""Between the parts of a frame that does not fit whole; what a `Restorer` takes by default."""
ACTIVATIONS = {"fp32": 1.35, "fp16": 0.67, "int8": 0.95}
"""Of the memory that the graph's tensors take in FP32, what an engine took at most: measured on an
H200 by TensorRT 8.6.0, 0.52 to 0.67 in FP16 (five networks), 0.95 in INT8; in FP32 twice FP16."""
GIB = 2**30


def needed_bytes(facts: ModelFacts, tile: tuple[int, int], batch: int, precision: str) -> int:
    """Estimate the device memory of an engine: its activations, and its tiles in and out."""
    graph = (facts.bytes_per_pixel or ASSUMED_BYTES_PER_PIXEL) * ACTIVATIONS[precision]
    tiles = 4 * (facts.in_planes + facts.out_channels)
    return int(batch * tile[0] * tile[1] * (graph + tiles))


def available_bytes(target: Target) -> int:
    """Device memory that an engine may take: all that a GPU of its own has; of one that shares the
    CPU's, what is free."""
    if target.device["integrated"]:
        return int(psutil.virtual_memory().available)
    return int(target.device["memory_bytes"])


def build_for_frame(
    build: Callable[[tuple[int, int], list[str]], EngineCard],
    frame: tuple[int, int],
    facts: ModelFacts,
    *,
    batch: int,
    precision: str,
    available: int,
    tell: Callable[[str], object],
) -> EngineCard:
    """Build with the largest tile of a frame that fits.

    Args:
        build: called with a tile and notes for its card; raises DeviceMemoryError where the
            memory does not suffice.
        frame: (height, width) as given; a network that enlarges has ``facts.scale`` times as much.
        available: bytes of device memory.
        tell: called with a sentence on the memory of a tile before it is built, and with what did
            not fit.

    Raises:
        DeviceMemoryError: no tile fits.
    """
    height, width = (facts.scale * side for side in frame)
    notes: list[str] = []
    tiles = frame_tiles((height, width), HALO_PX, facts.size_rule)
    for tile, count in tiles:
        needed = needed_bytes(facts, tile, batch, precision)
        what = f"{count} {'tile' if count == 1 else 'tiles'} of {tile[0]}x{tile[1]}"
        said = f"{what}: about {needed / GIB:.2f} GiB of the device's {available / GIB:.2f} GiB"
        if needed > available:
            notes.append(f"{said}: too much")
            tell(notes[-1])
            continue
        tell(said)
        try:
            return build(tile, notes)
        except DeviceMemoryError as error:
            notes.append(f"{what} did not fit: {error}")
            tell(notes[-1])
    raise DeviceMemoryError(
        f"no tile of a frame of {width}x{height} fits into the device's memory, down to "
        f"{tiles[-1][0][0]}x{tiles[-1][0][1]}: {notes[-1]}. Take a smaller network, or build with "
        "a smaller --tile"
    )
