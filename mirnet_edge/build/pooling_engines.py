"""The engines beside a plain one that are given the frame's pooled vectors, and gather them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge._files import require_new
from mirnet_edge.build.graphs import build_key, typed_graphs
from mirnet_edge.build.job import BuildJob, Wanted, cached
from mirnet_edge.build.settings import Settings
from mirnet_edge.engines.card import Kind, kind_path
from mirnet_edge.errors import GraphError
from mirnet_edge.graph.file import has_qdq, with_shape
from mirnet_edge.graph.pooling import apply_graph, gather_graph, pools_of
from mirnet_edge.graph.rewrite import rewritten_for_tensorrt

if TYPE_CHECKING:
    import onnx

MAKERS: dict[Kind, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "apply": apply_graph,
    "gather": gather_graph,
}


def plan_beside(
    job: BuildJob, engine: Path, settings: Settings, overwrite: bool
) -> list[tuple[onnx.ModelProto, Wanted]]:
    """Choose what `build_beside` has to build beside ``engine``, with the graph of each. What
    cannot be is known before minutes are spent on the plain one.

    Raises:
        GraphError: the network's pools are not known, or the graph is quantized already.
        OutputError: an engine must not be replaced.
    """
    source = job.source
    if source.quantized:
        raise GraphError(
            f"{source.path} is quantized and so rewritten for TensorRT, from which no apply or "
            "gather graph is made; build with statistics from the float graph, with "
            "precision='int8' for INT8"
        )
    pools = pools_of(source.sized)
    missing = []
    for kind, make in MAKERS.items():
        proto = make(source.sized)
        if source.rewrites:
            proto = rewritten_for_tensorrt(proto, settings.batch, settings.tile)
        else:
            proto = with_shape(proto, settings.batch, *settings.tile)
        keyed = proto
        if settings.precision != "int8":  # else the pairs come later, and cost minutes
            keyed = typed_graphs(proto, settings.precision, settings.io).strong
        decisive = {**job.decisive(settings), "kind": kind}
        key, path = build_key(keyed, decisive, job.target.identity), kind_path(engine, kind)
        if cached(path, key) is None:
            require_new(path, overwrite)
            missing.append((proto, Wanted(path, settings, key, kind, pools)))
    return missing


def build_beside(job: BuildJob, missing: list[tuple[onnx.ModelProto, Wanted]]) -> None:
    """Build what `plan_beside` chose, after the plain engine, whose pairs these take."""
    for proto, wanted in missing:
        if wanted.settings.precision == "int8":
            proto, notes = job.pairs.put_into(proto)
            wanted = replace(wanted, notes=notes)
            if not has_qdq(proto):
                wanted = replace(wanted, settings=replace(wanted.settings, precision="fp16"))
        job.build(job.attempts(proto, wanted.settings), wanted)
