"""The engines beside a plain one that are given the frame's pooled vectors, and gather them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge._files import require_new
from mirnet_edge.build.graphs import build_key, rewritten, typed_graphs
from mirnet_edge.build.job import BuildJob, Wanted, cached
from mirnet_edge.build.settings import Settings
from mirnet_edge.engines.card import Kind, kind_path
from mirnet_edge.errors import GraphError
from mirnet_edge.graph.file import has_qdq, with_shape
from mirnet_edge.graph.pooling import apply_graph, gather_graph, pools_of

if TYPE_CHECKING:
    import onnx

MAKERS: dict[Kind, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "apply": apply_graph,
    "gather": gather_graph,
}


class PoolingEngines:
    """The apply and the gather engine of a job, planned before the plain one is built: what cannot
    be is known before minutes are spent.

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
        self._job = job
        self._missing: list[tuple[onnx.ModelProto, Wanted]] = []
        source = job.source
        if source.quantized:
            raise GraphError(
                f"{source.path} is quantized and so rewritten for TensorRT, from which no apply or "
                "gather graph is made; build with statistics from the float graph, with "
                "precision='int8' for INT8"
            )
        pools = pools_of(source.sized)
        for kind, make in MAKERS.items():
            proto = keyed = with_shape(make(source.sized), settings.batch, *settings.tile)
            if source.rewrites:
                proto = keyed = rewritten(proto, settings.batch, settings.tile)
            if settings.precision != "int8":  # else the pairs come later, and cost minutes
                keyed = typed_graphs(proto, settings.precision, settings.io).strong
            decisive = {**job.decisive(settings), "kind": kind}
            key, path = build_key(keyed, decisive, job.target.identity), kind_path(engine, kind)
            if cached(path, key) is None:
                require_new(path, overwrite)
                self._missing.append((proto, Wanted(path, settings, key, kind, pools)))

    def build(self) -> None:
        """Build those that are not there already.

        Raises:
            MirnetEdgeError: as `build_engine`.
        """
        for proto, wanted in self._missing:
            if wanted.settings.precision == "int8":
                proto, notes = self._job.pairs.put_into(proto)
                wanted = replace(wanted, notes=notes)
                if not has_qdq(proto):
                    wanted = replace(wanted, settings=replace(wanted.settings, precision="fp16"))
            self._job.build(self._job.attempts(proto, wanted.settings), wanted)
