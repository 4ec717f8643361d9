"""What apply and gather engines take and give beside the image: names, shapes, places in memory.

Many small tensors lie in one piece of memory, so that one copy moves them all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import Device, MirroredBuffer
from mirnet_edge.pooling.tensors import COLUMNS, GATHERED, LOG_MASS, OWN, ROWS, STATISTIC
from mirnet_edge.pooling.vectors import Pool

SIDE_TENSOR = re.compile(rf"{ROWS}|{COLUMNS}|{OWN}|(?:{STATISTIC}|{GATHERED}|{LOG_MASS})\.(\d+)")
ALIGNMENT_BYTES = 256  # of each tensor: what CUDA's own allocations have, and all TensorRT asks
_WORD_BYTES = 4

Shapes = dict[str, tuple[int, ...]]
Views = dict[str, NDArray[np.float32]]


def place_of(name: str) -> tuple[bool, str, int]:
    """Make a key to sort tensors by: the image first, then side tensors by name and number."""
    found = SIDE_TENSOR.fullmatch(name)
    return found is not None, name.partition(".")[0], int((found and found[1]) or 0)


def side_shapes(pools: Sequence[Pool], image: tuple[int, ...]) -> tuple[Shapes, Shapes, Shapes]:
    """Tell the shapes for an image (N, C, H, W): of what is given (each pooled vector and ``own``),
    of the kept regions, and of what is gathered."""
    batch, _, height, width = image
    given: Shapes = {OWN: (1, 1, 1, 1)}
    regions: Shapes = {ROWS: (batch, 1, height, 1), COLUMNS: (batch, 1, 1, width)}
    gathered: Shapes = {}
    for index, pool in enumerate(pools):
        given[f"{STATISTIC}.{index}"] = (1, pool.channels, 1, 1)
        gathered[f"{GATHERED}.{index}"] = (batch, pool.channels, 1, 1)
        if pool.kind == "softmax":
            gathered[f"{LOG_MASS}.{index}"] = (batch, 1, 1, 1)
    return given, regions, gathered


class BlockLayout:
    """Where float32 tensors lie in a block, in the order of ``shapes``, each at an aligned offset;
    the block has `words` values, gaps between tensors counted."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._first: dict[str, int] = {}
        self.words = 0
        step = ALIGNMENT_BYTES // _WORD_BYTES
        for name, shape in self._shapes.items():
            self._first[name] = self.words
            self.words += -(-math.prod(shape) // step) * step

    def addresses(self, base: int) -> dict[str, int]:
        """Give the address of each tensor in a block at ``base``."""
        return {name: base + _WORD_BYTES * first for name, first in self._first.items()}

    def views(self, block: NDArray[np.float32]) -> Views:
        """Show the tensors by name, as views of a (`words`,) float32 block."""
        return {
            name: block[first : first + math.prod(self._shapes[name])].reshape(self._shapes[name])
            for name, first in self._first.items()
        }


class TensorBlock(MirroredBuffer):
    """Float32 tensors in one piece of memory, all 0 at first, but kept regions: the whole of each
    tile counts. Nothing is uploaded yet."""

    def __init__(self, device: Device, shapes: Shapes) -> None:
        self.layout = BlockLayout(shapes)
        super().__init__(device, (self.layout.words,), np.float32)
        self.addresses = self.layout.addresses(self.address)
        self.array.fill(0)
        views = self.views()
        for name in {ROWS, COLUMNS} & views.keys():
            views[name][...] = len(views[name]) / views[name].size

    def views(self) -> Views:
        """Show the tensors of the host's side, which no view may outlive."""
        return self.layout.views(self.array)
