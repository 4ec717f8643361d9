"""Ranges and plans that ship with the package: a bundled model is quantized without measuring."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge._files import resource_folder
from mirnet_edge.bundled import BundledModel, bundled_models
from mirnet_edge.errors import CalibrationError
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.graph.file import graph_sha256, load_graph
from mirnet_edge.graph.rewrite import rewrite
from mirnet_edge.quantize.calibration import CalibrationSet
from mirnet_edge.quantize.plan import QuantizationPlan, make_plan
from mirnet_edge.quantize.qdq import candidates, inputs_of, insert_qdq, macs_of
from mirnet_edge.quantize.ranges import METHODS, Ranges

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class QuantizedGraph:
    """A graph with Q/DQ pairs, and what they were chosen by.

    Attributes:
        proto: of the sizes of the graph that it was made of.
        plan, ranges: of that graph.
        images: what was measured on; None where the recorded plan and ranges were used.
        notes: sentences for the user: why a record was not used.
    """

    proto: ModelProto
    plan: QuantizationPlan
    ranges: Ranges
    images: CalibrationSet | None
    notes: tuple[str, ...] = ()


def quantized_graph(
    original: ModelProto,
    sized: ModelProto,
    images: Callable[[], CalibrationSet],
    *,
    use_record: bool,
    method: str = "auto",
    budget_db: float = 0.1,
    progress: StageProgress | None = None,
) -> QuantizedGraph:
    """Quantize by the record of a bundled model where there is one that fits; else measure.

    Args:
        original: the graph as its file holds it.
        sized: the same for one tile, rewritten for TensorRT, with all shapes known.
        images: opens the calibration set; called only to measure.
        use_record: False measures in any case: where the user gave images or noise.
        method, budget_db, progress: as `quantize_onnx` takes them.

    Raises:
        CalibrationError, GraphError: as `make_plan`.
    """
    notes: tuple[str, ...] = ()
    if use_record:
        try:
            if found := recorded_plan(original, sized, method, budget_db):
                plan, ranges = found
                quantized = insert_qdq(sized, ranges, plan.int8_nodes)
                return QuantizedGraph(quantized, plan, ranges, None)
        except CalibrationError as error:
            # An old record costs the user minutes, not the command.
            notes = (f"recorded ranges not used, measured instead: {error}",)
    opened = images()
    plan, ranges, quantized = make_plan(
        sized,
        opened.tiles,
        opened.targets,
        methods=METHODS if method == "auto" else (method,),
        budget_db=budget_db,
        progress=progress,
    )
    return QuantizedGraph(quantized, plan, ranges, opened, notes)


def recorded_plan(
    original: ModelProto, sized: ModelProto, method: str = "auto", budget_db: float = 0.1
) -> tuple[QuantizationPlan, Ranges] | None:
    """What is recorded for a bundled model, as if measured for ``sized``.

    The layers of these networks see neighbourhoods, so that a record serves tiles of any size; the
    loss that the plan tells stays that of the tiles it was measured on.

    Returns:
        None for a graph that is no bundled model's, a model without a record, and where the record
        is of another method or measuring might choose other layers for this budget.

    Raises:
        CalibrationError: the record is damaged, or of another graph or other layers than this
            package makes of the model.
    """
    model = _bundled(graph_sha256(original))
    if model is None:
        return None
    ranges_path, plan_path = record_files(model.name)
    if not (ranges_path.is_file() or plan_path.is_file()):
        return None
    ranges, plan = Ranges.load(ranges_path), QuantizationPlan.load(plan_path)
    if reason := _outdated(model.name, plan, ranges, record_key(original), sized):
        raise CalibrationError(
            f"{reason}; in a checkout, record again with: python benchmarks/record_ranges.py"
        )
    if method not in ("auto", plan.method) or not _serves(plan, budget_db):
        return None
    sha256, macs = graph_sha256(sized), macs_of(sized)
    # Multiplications are those of this tile; what the groups cost stays as it was measured.
    groups = tuple(replace(g, macs=sum(macs[name] for name in g.nodes)) for g in plan.groups)
    fitted = replace(plan, graph_sha256=sha256, budget_db=budget_db, macs=sum(macs.values()))
    return replace(fitted, groups=groups), replace(ranges, graph_sha256=sha256)


def record_files(name: str) -> tuple[Path, Path]:
    """Where the ranges and the plan of a bundled model are, or would be."""
    folder = resource_folder("calibration")
    return folder / f"{name}.ranges.json", folder / f"{name}.plan.json"


def record_sha256(sha256: str) -> str | None:
    """Of the files of a bundled model's record, by the hash of its graph; None without a record."""
    model = _bundled(sha256)
    files = [path for path in record_files(model.name) if path.is_file()] if model else []
    return hashlib.sha256(b"".join(map(Path.read_bytes, files))).hexdigest() if files else None


def record_key(original: ModelProto) -> str:
    """What the files of a record hold as ``graph_sha256``: of the graph of open sizes, after all
    rewrites for TensorRT that need no fixed one. Those that do change reductions alone."""
    return graph_sha256(rewrite(original, "tensorrt")[0])


def _bundled(sha256: str) -> BundledModel | None:
    """The bundled model whose graph has this hash, wherever its file lies."""
    return next((m for m in bundled_models() if graph_sha256(load_graph(m.onnx)) == sha256), None)


def _serves(plan: QuantizationPlan, budget_db: float) -> bool:
    """Whether the plan is what `sensitivity.search` would choose: it keeps the budget, and there is
    no room for more, because all is INT8 or because a larger budget had none."""
    complete = all(group.int8 for group in plan.groups)
    within = plan.loss_db + plan.loss_error_db <= budget_db
    return within and (complete or budget_db <= plan.budget_db)


def _outdated(
    name: str, plan: QuantizationPlan, ranges: Ranges, key: str, sized: ModelProto
) -> str | None:
    """Why a record may not be used, if anything speaks against it."""
    for kind, stored in (("ranges", ranges.graph_sha256), ("plan", plan.graph_sha256)):
        if stored != key:
            return (
                f"the {kind} of {name} are of the rewritten graph {stored[:16]}, which is now "
                f"{key[:16]}: the model or a rewrite changed"
            )
    if plan.method != ranges.method:
        return f"the plan of {name} is for ranges by {plan.method}, which are by {ranges.method}"
    planned = {node for group in plan.groups for node in group.nodes}
    possible = set(candidates(sized))
    if planned != possible:
        return (
            f"the plan of {name} is for {len(planned)} convolutions, but {len(possible)} may be "
            f"quantized now ({min(planned ^ possible)!r} is one of the difference)"
        )
    if lacking := set(inputs_of(sized, planned)) - ranges.tensors.keys():
        return f"the ranges of {name} lack the tensor {min(lacking)!r}"
    return None
