"""Which layers of a graph are INT8, and what was measured to decide it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._files import atomic_path
from mirnet_edge._typed import dataclass_of
from mirnet_edge._version import __version__
from mirnet_edge.errors import GraphError
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.graph.file import graph_sha256
from mirnet_edge.quantize.qdq import candidates, inputs_of, insert_qdq, keep_pairs, macs_of
from mirnet_edge.quantize.ranges import FORMAT, METHODS, Ranges, collect_ranges, load_json
from mirnet_edge.quantize.sensitivity import Group, Judge, groups_of, search, sensitivity

if TYPE_CHECKING:
    from onnx import ModelProto

SENSITIVITY_TILES = 4
"""Of the calibration set, at most, to order the groups by; what is chosen is measured on all."""
SENSITIVITY_MACS = 10e12
"""Multiplications to spend on that order, unless one tile for each group takes more: about two
minutes on two cores."""


@dataclass(frozen=True)
class QuantizationPlan:
    """The choice for one graph.

    Attributes:
        graph_sha256: of the graph without pairs.
        method: of the ranges.
        budget_db: PSNR that INT8 may cost.
        loss_db, loss_error_db: what the plan costs on the calibration tiles, and the standard error
            of that mean.
        against: "targets" where clean tiles were restored, "fp32" where the output in FP32 stood
            for them (see `sensitivity.Judge`).
        all_int8_loss_db: what every candidate in INT8 costs, for each method tried.
        macs: multiplications of all convolutions.
        groups: the candidates; every other layer is float.
    """

    graph_sha256: str
    method: str
    budget_db: float
    loss_db: float
    loss_error_db: float
    against: str
    all_int8_loss_db: dict[str, float]
    macs: int
    groups: tuple[Group, ...]
    version: str = __version__

    @property
    def int8_nodes(self) -> list[str]:
        """Names of the nodes to quantize."""
        return [name for group in self.groups if group.int8 for name in group.nodes]

    @property
    def int8_share(self) -> float:
        """Of all convolutions' multiplications, in INT8."""
        return sum(group.macs for group in self.groups if group.int8) / max(self.macs, 1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file.

        Raises:
            OutputError: it cannot be written.
        """
        with atomic_path(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """Write what a file holds."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> QuantizationPlan:
        """Read what `save` wrote; see `load_json`."""
        return load_json(path, "quantization plan", partial(dataclass_of, cls))


def make_plan(
    proto: ModelProto,
    tiles: NDArray[np.float32],
    targets: NDArray[np.float32] | None,
    *,
    methods: Sequence[str] = METHODS,
    budget_db: float = 0.1,
    progress: StageProgress | None = None,
    names: Sequence[str] | None = None,
    asymmetric: bool = False,
) -> tuple[QuantizationPlan, Ranges, ModelProto]:
    """Choose ranges and layers, and quantize.

    Every method's ranges are tried with all candidates in INT8; the one that loses least is kept.
    Then groups of layers become float until the loss is within the budget.

    Args:
        proto: float32, with all shapes known for tiles of this size.
        tiles, targets: (N, C, H, W); targets None where there are no clean tiles.
        names: of the convolutions to choose from; None takes `qdq.candidates`.
        asymmetric: see `insert_qdq`.

    Returns:
        The plan, the ranges, and the graph with Q/DQ pairs.

    Raises:
        CalibrationError: tiles or targets that cannot be.
        GraphError: no convolution can be quantized, or the graph does not run.
    """
    names = candidates(proto) if names is None else names
    if not names:
        raise GraphError(
            "no convolution of this network gains from INT8: all are the first or last one, below "
            "16 channels, on a 1x1 map, or behind a pad; build it in fp16"
        )
    step = progress or (lambda *_: None)
    judge = Judge(proto, tiles, targets)
    losses, found = {}, {}
    # Of no other tensors: each takes a histogram, and a share of a pass.
    read = inputs_of(proto, names)
    for method in methods:
        report = partial(step, f"ranges, {method}")
        found[method] = collect_ranges(proto, judge.tiles, method, read, report)
        all_int8 = insert_qdq(proto, found[method], names, asymmetric)
        losses[method] = judge.loss(all_int8).mean_db
    ranges = found[min(losses, key=losses.__getitem__)]
    quantized = insert_qdq(proto, ranges, names, asymmetric)
    macs = sum(macs_of(proto).values())
    groups = groups_of(proto, names)
    # Each group is run on these tiles alone: with large networks, one tile must do.
    affordable = int(SENSITIVITY_MACS / (macs * len(groups)))
    count = min(max(affordable, 1), SENSITIVITY_TILES)
    groups = sensitivity(quantized, judge, groups, count, partial(step, "sensitivity"))
    chosen, loss = search(quantized, judge, groups, budget_db, partial(step, "search"))
    plan = QuantizationPlan(
        graph_sha256=graph_sha256(proto),
        method=ranges.method,
        budget_db=budget_db,
        loss_db=loss.mean_db,
        loss_error_db=loss.error_db,
        against="fp32" if targets is None else "targets",
        all_int8_loss_db=losses,
        macs=macs,
        groups=tuple(dataclasses.replace(group, int8=group in chosen) for group in groups),
    )
    return plan, ranges, keep_pairs(quantized, plan.int8_nodes)
