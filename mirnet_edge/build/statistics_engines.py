"""The engines beside a plain one that are given the frame's statistics, and gather them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirnet_edge._files import require_new
from mirnet_edge._imports import require
from mirnet_edge.build.graphs import build_key, typed_graphs
from mirnet_edge.build.job import BuildJob
from mirnet_edge.build.placing import cached
from mirnet_edge.build.settings import Settings
from mirnet_edge.engines.card import Kind, kind_path
from mirnet_edge.errors import GraphError
from mirnet_edge.graph.file import dims_of, graph_sha256, has_qdq, with_shape
from mirnet_edge.graph.pooling import apply_graph, gather_graph, pools_of
from mirnet_edge.graph.rewrite import rewritten_for_tensorrt
from mirnet_edge.quantize.qdq import CONVOLUTIONS, insert_qdq
from mirnet_edge.quantize.ranges import Ranges, TensorRange

MAKERS: dict[Kind, Callable[[Any], Any]] = {"apply": apply_graph, "gather": gather_graph}
NAMED = 3
LEVELS = 127
"""To either side of zero, of a symmetric INT8 tensor."""


class StatisticsEngines:
    """The apply and the gather engine of a job.

    Args:
        job: of the plain engine.
        engine: where that one lies, or will.
        settings: of all three.
        overwrite: whether other engines may be replaced.

    Raises:
        GraphError: the network's pools are not known, or the graph is quantized already.
        OutputError: an engine must not be replaced.
    """

    def __init__(self, job: BuildJob, engine: Path, settings: Settings, overwrite: bool) -> None:
        self._job, self._settings = job, settings
        source = job.source
        if source.quantized:
            raise GraphError(
                f"{source.path} is quantized and so rewritten for TensorRT, from which no apply or "
                "gather graph is made; build with statistics from the float graph, with "
                "precision='int8' for INT8"
            )
        self._pools = pools_of(source.sized)
        self._missing: list[tuple[Kind, Path, Any, str]] = []
        for kind, make in MAKERS.items():
            proto = with_shape(make(source.sized), settings.batch, *settings.tile)
            if source.rewrites:
                proto = rewritten_for_tensorrt(proto, settings.batch, settings.tile)
            keyed = proto
            if settings.precision != "int8":  # else the pairs come later, and cost minutes
                keyed = typed_graphs(proto, settings.precision, settings.io).strong
            decisive = {**job.decisive(settings), "kind": kind}
            key, path = build_key(keyed, decisive, job.target.identity), kind_path(engine, kind)
            if cached(path, key) is None:
                require_new(path, overwrite)
                self._missing.append((kind, path, proto, key))

    def build(self) -> None:
        """Build those that are not there already.

        Raises:
            MirnetEdgeError: as `build_engine`.
        """
        for kind, path, proto, key in self._missing:
            settings = self._settings
            notes: tuple[str, ...] = ()
            if settings.precision == "int8":
                proto, notes = with_pairs_of(self._job.quantized(settings)[0], proto)
                if not has_qdq(proto):
                    settings = replace(settings, precision="fp16")
            self._job.place(
                self._job.attempts(proto, settings), settings, key, path, kind, self._pools, notes
            )


def with_pairs_of(quantized: Any, proto: Any) -> tuple[Any, tuple[str, ...]]:
    """A copy of a sized apply or gather graph with the Q/DQ pairs of the plain one: before every
    convolution that reads the same tensor there and here. And notes on those that do not.

    Raises:
        GraphError: the pairs cannot be inserted.
    """
    graph = quantized.graph
    writers = {node.output[0]: node for node in graph.node}
    scales = {tensor.name: tensor for tensor in graph.initializer if not tensor.dims}
    reads = {node.name: node.input[0] for node in proto.graph.node}
    tensors, same, others = {}, [], []
    for node in graph.node:
        pair = writers.get(node.input[0]) if node.op_type in CONVOLUTIONS else None
        if pair is None or pair.op_type != "DequantizeLinear":
            continue
        quantize = writers[pair.input[0]]
        if reads.get(node.name) != quantize.input[0]:
            others.append(node.name)
            continue
        same.append(node.name)
        amax = LEVELS * float(_array(scales[quantize.input[1]]))
        tensors[quantize.input[0]] = TensorRange(amax, -amax, amax)
    ranges = Ranges(graph_sha256(proto), "minmax", tensors, calibration_sha256="", tiles=0)
    notes: tuple[str, ...] = ()
    if others:
        names = ", ".join(others[:NAMED])
        notes = (
            f"{len(others)} of the {len(same) + len(others)} convolutions that are INT8 in the "
            f"plain engine read other tensors here, and are FP16: {names}",
        )
    batch, _, height, width = dims_of(proto.graph.input[0])
    return with_shape(insert_qdq(proto, ranges, same), batch, height, width), notes


def _array(tensor: Any) -> Any:
    return require("onnx.numpy_helper", "quantizing graphs").to_array(tensor)
