"""The Q/DQ pairs of INT8 engines: chosen once, for the plain graph and for those beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mirnet_edge.build.comparison import Comparison
from mirnet_edge.build.graphs import SourceGraph
from mirnet_edge.build.settings import Settings
from mirnet_edge.errors import BuildError
from mirnet_edge.graph.file import dims_of, graph_sha256, load_graph, with_shape
from mirnet_edge.graph.rewrite import rewritten_for_tensorrt
from mirnet_edge.quantize.qdq import insert_qdq
from mirnet_edge.quantize.ranges import Ranges
from mirnet_edge.quantize.recorded import QuantizedGraph, quantized_graph, record_sha256
from mirnet_edge.trt.network import PhaseProgress

if TYPE_CHECKING:
    import onnx

NAMED = 3


@dataclass
class Pairs:
    """Chooses pairs for a graph that has none.

    Attributes:
        source: the graph.
        comparison: the tiles to measure on.
        settings: of the plain engine.
        progress: as `build_engine` takes it.
        notes: for the cards, of what was chosen.
    """

    source: SourceGraph
    comparison: Comparison
    settings: Settings
    progress: PhaseProgress | None
    notes: tuple[str, ...] = ()

    @property
    def _takes_record(self) -> bool:
        """As `quantize_onnx` does; records are of rewritten graphs."""
        return self.comparison.is_bundled and self.source.rewrites

    def decisive(self) -> dict[str, str]:
        """What makes an INT8 engine another one: the calibration set, and the record."""
        decisive = {}
        if self.comparison.tiles is not None:
            decisive["calibration"] = self.comparison.tiles.sha256
        if self._takes_record and (record := record_sha256(self.source.sha256)):
            decisive["record"] = record
        return decisive

    @cached_property
    def found(self) -> QuantizedGraph:
        """What was chosen, on one tile whatever the batch.

        Raises:
            BuildError: no convolution can be INT8 within the budget.
        """
        one = self.source.reference
        found = quantized_graph(
            load_graph(self.source.path),
            rewritten_for_tensorrt(one, 1, self.settings.tile) if self.source.rewrites else one,
            self.comparison.require_tiles,
            use_record=self._takes_record,
            method=self.settings.method,
            budget_db=self.settings.budget_db,
            progress=self.progress,
        )
        self.notes = found.notes
        if not found.plan.int8_nodes:
            least = min(found.plan.all_int8_loss_db.values())
            raise BuildError(
                f"no group of layers can be INT8 within a budget of {self.settings.budget_db:g} dB "
                f"(all of them cost {least:.3f} dB); allow more, or build it in fp16"
            )
        return found

    def said(self) -> dict[str, Any]:
        """What a card tells of them."""
        plan = self.found.plan
        return {
            "recorded": self.found.images is None,
            "method": plan.method,
            "simulated_loss_db": round(plan.loss_db, 4),
            "against": plan.against,
            "int8_share_of_macs": round(plan.int8_share, 4),
            "int8_nodes": len(plan.int8_nodes),
        }

    def put_into(self, proto: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        """Quantize the plain graph of the batch, or an apply or gather graph; see `pairs_put`."""
        found = self.found
        return pairs_put(proto, self.source.rewritten, found.ranges, found.plan.int8_nodes)


def pairs_put(
    proto: onnx.ModelProto, plain: onnx.ModelProto, ranges: Ranges, nodes: Sequence[str]
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Copy a sized graph with pairs before those of the convolutions that read the same tensor as
    in the plain graph; and notes on those that do not.

    Args:
        proto: without pairs.
        plain: whose convolutions were chosen, without pairs.
        ranges: of its tensors.
        nodes: names of these convolutions.

    Raises:
        GraphError: the pairs cannot be inserted.
    """
    here, there = ({n.name: n.input[0] for n in graph.graph.node} for graph in (proto, plain))
    same = [name for name in nodes if here.get(name) == there[name]]
    others = [name for name in nodes if name not in same]
    notes: tuple[str, ...] = ()
    if others:
        notes = (
            f"{len(others)} of the {len(nodes)} convolutions that are INT8 in the plain engine "
            f"read other tensors here, and are FP16: {', '.join(others[:NAMED])}",
        )
    # Rewrites count on the batch and the kind of graph, but name all they make alike: what was
    # measured on one tile of the plain graph holds for a tensor of the same name.
    fitted = replace(
        ranges,
        graph_sha256=graph_sha256(proto),
        tensors={there[name]: ranges.tensors[there[name]] for name in same},
    )
    batch, _, height, width = dims_of(proto.graph.input[0])
    return with_shape(insert_qdq(proto, fitted, same), batch, height, width), notes
