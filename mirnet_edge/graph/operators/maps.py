"""Which maps our operators take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.graph.rewrite.edit import GraphEditor

if TYPE_CHECKING:
    from onnx_ir import Value

OCTET = 8
"""Channels that a thread moves at once: those of a map lie in whole octets, the last one filled up
with zeros."""
QUAD = 4
"""Of which a map's channels must be a multiple: numbers of a vector that a thread reads at once."""
MOST_CHANNELS = 512
"""That a block of threads adds up."""
MOST_ROWS, OCTETS_A_ROW = 264, 2048
"""Blocks of threads of a pass, each with its row of partial sums: two for each of an H100's 132
multiprocessors, which is what runs there at once; fewer where not each thread would have four
octets. Any number is correct."""


def is_map(editor: GraphEditor, value: Value) -> bool:
    """Whether the kernels can take a value for features (N, C, H, W)."""
    dims = editor.dims(value)
    return len(dims) == 4 and dims[1] % QUAD == 0 and dims[1] <= MOST_CHANNELS


def rows_of(editor: GraphEditor, value: Value) -> int:
    """How many rows of partial sums a pass over a map writes."""
    channels, height, width = editor.dims(value)[1:]
    octets = -(-channels // OCTET) * height * width
    return min(-(-octets // OCTETS_A_ROW), MOST_ROWS)
