"""Exact algebra that makes an exported graph cheap.

Each pass is an identity: the graph computes the same before and after, up to rounding. Those of the
target "any" pay everywhere; those of "tensorrt" trade arithmetic for memory traffic, count on a
fixed tile, or on how TensorRT fuses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mirnet_edge.errors import GraphError
from mirnet_edge.graph.cost import bytes_moved
from mirnet_edge.graph.file import with_shape
from mirnet_edge.graph.rewrite.convolutions import (
    blur_pools,
    convolutions_before_upsampling,
    dense_groups,
    leaky_relus,
    strided_convolutions,
)
from mirnet_edge.graph.rewrite.edit import ASSUMED_SIZE, GraphEditor, sized
from mirnet_edge.graph.rewrite.fusion import attention_tails, weighted_sums
from mirnet_edge.graph.rewrite.pools import (
    means_through_linear_maps,
    spatial_softmaxes,
    staged_means,
)

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["ASSUMED_SIZE", "PASSES", "Pass", "PassReport", "rewrite", "rewritten_for_tensorrt"]

Target = Literal["any", "tensorrt"]


@dataclass(frozen=True)
class Pass:
    """A rewrite: its function changes the graph and returns how often it applied; ``target`` says
    where it pays."""

    run: Callable[[GraphEditor], int]
    target: Target = "any"

    @property
    def name(self) -> str:
        """Of the function."""
        return self.run.__name__


PASSES = (
    Pass(leaky_relus),
    Pass(weighted_sums),
    Pass(convolutions_before_upsampling),
    Pass(means_through_linear_maps),
    Pass(strided_convolutions, "tensorrt"),
    Pass(blur_pools, "tensorrt"),
    Pass(attention_tails, "tensorrt"),
    Pass(dense_groups, "tensorrt"),
    Pass(spatial_softmaxes, "tensorrt"),
    Pass(staged_means, "tensorrt"),
)
"""In the order they run: later ones find what earlier ones made."""


@dataclass(frozen=True)
class PassReport:
    """What one pass did.

    Attributes:
        name: of the pass.
        changes: how often it applied.
        nodes, bytes_moved: of the graph after it; bytes as
            `mirnet_edge.graph.cost.bytes_moved` counts them, at the graph's size or, where that is
            open, at 256x256.
    """

    name: str
    changes: int
    nodes: int
    bytes_moved: int


def rewrite(
    proto: ModelProto, target: Target = "any", without: Collection[str] = ()
) -> tuple[ModelProto, list[PassReport]]:
    """Apply all passes for ``target`` to a graph.

    Args:
        proto: of opset 17; of fixed size (see `graph.file.with_shape`) for the
            passes that count on one.
        target: "tensorrt" applies the passes of "any" too.
        without: names of passes to leave out.

    Returns:
        The new graph, and a report of each pass; the first one, "before", is of the graph as it
        came.

    Raises:
        GraphError: another opset, an unknown pass in ``without``, or a shape cannot be inferred.
    """
    unknown = set(without) - {item.name for item in PASSES}
    if unknown:
        names = ", ".join(item.name for item in PASSES)
        raise GraphError(f"no pass {sorted(unknown)[0]!r}; there are: {names}")
    opset = next(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx"))
    if opset != 17:
        raise GraphError(f"a graph of opset {opset}: rewrites are for opset 17; export it again")
    reports = [_report("before", 0, proto)]
    for item in PASSES:
        if item.name in without or (item.target == "tensorrt" and target != "tensorrt"):
            continue
        editor = GraphEditor(proto)
        changes = item.run(editor)
        if changes:
            proto = editor.to_proto()
            reports.append(_report(item.name, changes, proto))
        else:
            before = reports[-1]
            reports.append(PassReport(item.name, 0, before.nodes, before.bytes_moved))
    return proto, reports


def rewritten_for_tensorrt(proto: ModelProto, batch: int, tile: tuple[int, int]) -> ModelProto:
    """A copy for a batch of tiles, rewritten for TensorRT, with every tensor's shape inferred.

    Raises:
        GraphError: the graph takes no such tiles, or cannot be rewritten.
    """
    # Sized before, since some passes count on a fixed size, and after, for the shapes they made.
    return with_shape(rewrite(with_shape(proto, batch, *tile), "tensorrt")[0], batch, *tile)


def _report(name: str, changes: int, proto: ModelProto) -> PassReport:
    return PassReport(name, changes, len(proto.graph.node), bytes_moved(sized(proto)))
