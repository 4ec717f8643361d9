"""What a vector is made of by two pointwise convolutions with an activation between them, as in
channel attention, context blocks and selective kernel fusion."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.graph.operators.maps import MOST_CHANNELS
from mirnet_edge.graph.rewrite.edit import (
    GraphEditor,
    attribute,
    input_of,
    is_pointwise_conv,
    source_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx_ir import Value

SLOPES = {"Relu": 0.0, "LeakyRelu": 0.01}
"""Below zero, where a node names none."""


@dataclass(frozen=True)
class Squeeze:
    """expand leaky(squeeze source). Tables are transposed, as the kernels read them.

    Attributes:
        inner: what ``expand`` is applied to.
    """

    source: Value
    inner: Value
    squeeze: NDArray[Any]
    expand: NDArray[Any]
    slope: float

    def constants(self, editor: GraphEditor, name: str) -> list[Value]:
        """Both tables, as initializers of names that begin with ``name``."""
        tables = {"squeeze": self.squeeze, "expand": self.expand}
        return [
            editor.constant(f"{name}/{key}", np.ascontiguousarray(table, np.float32))
            for key, table in tables.items()
        ]


def squeeze_of(
    editor: GraphEditor,
    value: Value,
    most: int = MOST_CHANNELS,
    activations: Collection[str] = ("LeakyRelu",),
) -> Squeeze | None:
    """How ``value`` is made, where it is made so, with one of some ``activations`` (of `SLOPES`),
    and of no more than ``most`` channels."""
    expand = value.producer()
    between = input_of(expand).producer() if is_pointwise_conv(expand) else None
    if between is None or between.op_type not in activations:
        return None
    squeeze = source_of(between, "Conv")
    if not is_pointwise_conv(squeeze) or not is_pointwise_conv(expand):
        return None
    tables = [editor.array(conv.inputs[1]) for conv in (squeeze, expand)]
    known = [table[:, :, 0, 0].T for table in tables if table is not None]
    if len(known) < 2 or max(max(table.shape) for table in known) > most:
        return None
    slope = attribute(between, "alpha", SLOPES[between.op_type])
    return Squeeze(input_of(squeeze), input_of(expand), known[0], known[1], slope)
