"""Many small tensors in one piece of memory, so that one copy moves them all."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

ALIGNMENT_BYTES = 256
"""Of the address of each tensor: what CUDA's own allocations have, and all that TensorRT asks."""
_WORD_BYTES = 4


class BlockLayout:
    """Where float32 tensors lie in a block, each at an aligned offset.

    Args:
        shapes: by name, in the order of the block.

    Attributes:
        words: float32 values of the block, gaps between tensors counted.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = dict(shapes)
        self._first: dict[str, int] = {}
        self.words = 0
        step = ALIGNMENT_BYTES // _WORD_BYTES
        for name, shape in self._shapes.items():
            self._first[name] = self.words
            self.words += -(-math.prod(shape) // step) * step

    def addresses(self, base: int) -> dict[str, int]:
        """Of each tensor by name, in a block at ``base``."""
        return {name: base + _WORD_BYTES * first for name, first in self._first.items()}

    def views(self, block: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The tensors by name, as views of a (`words`,) float32 block."""
        return {
            name: block[first : first + math.prod(self._shapes[name])].reshape(self._shapes[name])
            for name, first in self._first.items()
        }
