"""Exact algebra that makes an exported graph cheap.

Each pass is an identity: the graph computes the same before and after, up to rounding. Those of the
target "any" pay everywhere; those of "tensorrt" trade arithmetic for memory traffic, count on a
fixed tile, or on how TensorRT fuses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mirnet_edge.errors import GraphError
from mirnet_edge.graph.cost import bytes_moved
from mirnet_edge.graph.file import with_shape
from mirnet_edge.graph.rewrite import convolutions, fusion, pools
from mirnet_edge.graph.rewrite.edit import GraphEditor

if TYPE_CHECKING:
    from onnx import ModelProto

Target = Literal["any", "tensorrt"]
FOR_ANY = (
    convolutions.leaky_relus,
    fusion.weighted_sums,
    convolutions.convolutions_before_upsampling,
    pools.means_through_linear_maps,
)
FOR_TENSORRT = (
    convolutions.strided_convolutions,
    convolutions.blur_pools,
    fusion.attention_tails,
    convolutions.dense_groups,
    pools.spatial_softmaxes,
    pools.staged_means,
)
"""Passes by the target where they pay, in the order they run: later ones find what earlier ones
made. Each yields its changes to a graph one by one: the values that go, each with the value that
takes its place (see `edit.GraphEditor.apply`)."""


@dataclass(frozen=True)
class PassReport:
    """What one pass did.

    Attributes:
        name: of the pass.
        changes: how often it applied.
        nodes, bytes_moved: of the graph after it; `cost.bytes_moved`, at `edit.ASSUMED_PX` if size
            is open.
    """

    name: str
    changes: int
    nodes: int
    bytes_moved: int


def rewrite(proto: ModelProto, target: Target = "any") -> tuple[ModelProto, list[PassReport]]:
    """Apply all passes for ``target`` to a graph.

    Args:
        proto: of opset 17; of fixed size (see `graph.file.with_shape`) for the passes that count
            on one.
        target: "tensorrt" applies the passes of "any" too.

    Returns:
        The new graph, and a report of each pass, after one named "before" of the graph that came.

    Raises:
        GraphError: another opset, or a shape cannot be inferred.
    """
    opset = next(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx"))
    # Reductions take their axes as an attribute up to 17, as an input from 18 on.
    if opset != 17:
        raise GraphError(f"a graph of opset {opset}: rewrites are for opset 17; export it again")
    editor = GraphEditor(proto)
    reports = [_report("before", 0, editor)]
    for run in FOR_ANY if target == "any" else (*FOR_ANY, *FOR_TENSORRT):
        if changes := editor.apply(run):
            proto = editor.to_proto()
            # Taken in anew for the next one, so that shapes are known of what this one made.
            editor = GraphEditor(proto)
            reports.append(_report(run.__name__, changes, editor))
        else:
            reports.append(replace(reports[-1], name=run.__name__, changes=0))
    return proto, reports


def rewritten_for_tensorrt(proto: ModelProto, batch: int, tile: tuple[int, int]) -> ModelProto:
    """A copy for a batch of tiles, rewritten for TensorRT, with every tensor's shape inferred."""
    # Sized before, since some passes count on a fixed size, and after, for the shapes they made.
    return with_shape(rewrite(with_shape(proto, batch, *tile), "tensorrt")[0], batch, *tile)


def _report(name: str, changes: int, made: GraphEditor) -> PassReport:
    return PassReport(name, changes, len(made.sized.graph.node), bytes_moved(made.sized))
