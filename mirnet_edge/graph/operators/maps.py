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


def is_map(editor: GraphEditor, value: Value) -> bool:
    """Whether the kernels can take a value for features (N, C, H, W)."""
    dims = editor.dims(value)
    return len(dims) == 4 and dims[1] % QUAD == 0 and dims[1] <= MOST_CHANNELS
