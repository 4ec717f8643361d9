"""Operators of our own in place of chains that TensorRT does not fuse: see kernels/plugins.

They are put in last, once a graph has its types and its FP32 islands, and for TensorRT alone: no
other runtime knows their domain. What one computes is what the nodes it replaces do, in FP32 from
FP16 maps, each rounded once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from mirnet_edge.graph.operators.attentions import attentions
from mirnet_edge.graph.operators.blocks import BLOCK_SHARED_BYTES
from mirnet_edge.graph.operators.ends import shuffled_output, unshuffled_input
from mirnet_edge.graph.operators.fusions import fusions
from mirnet_edge.graph.operators.selections import selections
from mirnet_edge.graph.rewrite.edit import OWN_DOMAIN, GraphEditor

if TYPE_CHECKING:
    from onnx import ModelProto

FUSIONS, INPUT, OUTPUT, BLOCKS = "fusions", "input", "output", "blocks"
GROUPS = (FUSIONS, INPUT, OUTPUT, BLOCKS)
"""What may be asked for by itself, to be measured: selective kernel fusion with the residual sums
in front of it, and dual attention; the two ends of the network; and with the fusions, residual
blocks with both their convolutions."""


def groups_for(shared_bytes: int) -> tuple[str, ...]:
    """Choose those of `GROUPS` that run where a block of threads has so much shared memory."""
    return GROUPS if shared_bytes >= BLOCK_SHARED_BYTES else (FUSIONS, INPUT, OUTPUT)


def with_plugins(
    proto: ModelProto, groups: Collection[str] = GROUPS
) -> tuple[ModelProto, dict[str, int]]:
    """Put our operators into a graph that was rewritten for TensorRT, of fixed size.

    Args:
        proto: float32, without Q/DQ pairs.
        groups: which of `GROUPS`.

    Returns:
        The graph, in which no shapes are told, and how many of each operator it has.
    """
    editor = GraphEditor(proto)
    if FUSIONS in groups:
        editor.apply(lambda editor: fusions(editor, whole_blocks=BLOCKS in groups))
        editor.apply(selections)
        editor.apply(attentions)
    if INPUT in groups:
        editor.apply(unshuffled_input)
    if OUTPUT in groups:
        editor.apply(shuffled_output)
    counts = Counter(node.op_type for node in editor.nodes() if node.domain == OWN_DOMAIN)
    return (editor.to_proto() if counts else proto), dict(counts)
