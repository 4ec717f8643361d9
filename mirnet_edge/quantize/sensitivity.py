"""What INT8 costs: the PSNR that quantizing a layer, or all of them, takes from the output.

Simulated: ONNX Runtime computes a graph with Q/DQ pairs in FP32 between the pairs, so the figures
hold the rounding and clipping of INT8 and nothing of any GPU.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import CalibrationError
from mirnet_edge.frame_path import Progress
from mirnet_edge.graph.session import TileSession
from mirnet_edge.quantize.qdq import keep_pairs, macs_of

if TYPE_CHECKING:
    from onnx import ModelProto

MOST_GROUPS = 64
"""Layers are quantized by groups of the network's modules, so that no more are to be tried."""
ASSUMED_PSNR_DB = 32.0
"""Of the task, where there are no clean images to measure it: an error of the restored image that
quantization adds to."""


@dataclass(frozen=True)
class Loss:
    """PSNR lost, mean over tiles, and that mean's standard error; dB, negative where gained."""

    mean_db: float
    error_db: float

    @property
    def upper_db(self) -> float:
        """The mean and its standard error: what a budget is held against."""
        return self.mean_db + self.error_db


@dataclass(frozen=True)
class Group:
    """Convolutions that are quantized together or not at all.

    Attributes:
        name: of their weight, or of the module that holds their weights.
        nodes: their names.
        macs: multiplications of all of them.
        cost_db: PSNR to be lost when they alone are quantized (see `Judge.cost_db`); NaN before it
            is measured.
        int8: whether a plan quantizes them.
    """

    name: str
    nodes: tuple[str, ...]
    macs: int
    cost_db: float = math.nan
    int8: bool = False


class Judge:
    """Measures the loss of graphs against their FP32 original on the same tiles.

    Against clean targets the loss is of PSNR, outputs clamped to [0, 1]. Without, quantization is
    taken to add its error to that of a restoration of 32 dB:
    ``10 log10(1 + MSE(quantized, FP32) / 10**-3.2)``.

    Args:
        proto: in FP32, without Q/DQ pairs.
        tiles: (N, C, H, W) float32 that the graph takes one by one.
        targets: the clean tiles, or None.

    Raises:
        CalibrationError: targets of another shape, or no tiles.
        GraphError: ONNX Runtime cannot run the graph.
    """

    def __init__(
        self, proto: ModelProto, tiles: NDArray[np.float32], targets: NDArray[np.float32] | None
    ) -> None:
        if not len(tiles):
            raise CalibrationError("no tiles: the loss of a graph is measured on one or more")
        self.tiles, self._targets = tiles, targets
        self._reference = run_tiles(proto, tiles)
        if targets is None:
            self._base = np.full(len(tiles), 10 ** (-ASSUMED_PSNR_DB / 10))
        elif targets.shape != self._reference.shape:
            raise CalibrationError(
                f"targets of shape {targets.shape}, but the graph restores tiles of "
                f"{self._reference.shape}"
            )
        else:
            self._base = _errors(self._reference.clip(0, 1), targets)

    def loss(self, proto: ModelProto) -> Loss:
        """Of a quantized graph, over all tiles."""
        outputs = run_tiles(proto, self.tiles)
        if self._targets is None:
            lost = self._lost(self._base + _errors(outputs, self._reference))
        else:
            lost = self._lost(_errors(outputs.clip(0, 1), self._targets))
        spread = float(lost.std(ddof=1)) / math.sqrt(len(lost)) if len(lost) > 1 else 0.0
        return Loss(float(lost.mean()), spread)

    def cost_db(self, proto: ModelProto, count: int | None = None) -> float:
        """The loss to be expected of a quantized graph on the first ``count`` tiles (None: all), as
        if the error it adds were independent of the restoration's own.

        Over few tiles the product of both errors is chance, and larger than what one layer costs:
        of a trained denoiser one layer seemed to gain 0.29 dB on a dark tile, and added an error of
        0.01 dB there. The cost is never negative.
        """
        outputs = run_tiles(proto, self.tiles[:count])
        added = _errors(outputs, self._reference[:count])
        return float(self._lost(self._base[:count] + added).mean())

    def _lost(self, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        # A restoration without an error is no division by zero.
        least = np.finfo(np.float64).tiny
        base = np.maximum(self._base[: len(errors)], least)
        lost: NDArray[np.float64] = 10 * np.log10(np.maximum(errors, least) / base)
        return lost


def _errors(images: NDArray[np.float32], references: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean squared error of each."""
    squares = np.square(images.astype(np.float64) - references)
    means: NDArray[np.float64] = squares.reshape(len(squares), -1).mean(1)
    return means


def run_tiles(proto: ModelProto, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs of a graph for (N, C, H, W) tiles, run one by one on the CPU."""
    session = TileSession(proto)
    return np.concatenate([session.run(tile)[0] for tile in tiles])


def groups_of(proto: ModelProto, nodes: Collection[str], most: int = MOST_GROUPS) -> list[Group]:
    """Convolutions grouped by their weights (which several passes share) or, where that makes more
    than ``most`` groups, by the innermost modules that hold their weights and make no more."""
    macs, wanted = macs_of(proto), set(nodes)
    chosen = [node for node in proto.graph.node if node.name in wanted]
    depth = max((node.input[1].count(".") for node in chosen), default=0) + 1
    while True:
        members: dict[str, list[str]] = defaultdict(list)
        for node in chosen:
            members[".".join(node.input[1].split(".")[:depth])].append(node.name)
        if len(members) <= most or depth == 1:
            break
        depth -= 1
    return [Group(name, tuple(n), sum(macs[node] for node in n)) for name, n in members.items()]


def sensitivity(
    quantized: ModelProto, judge: Judge, groups: Sequence[Group], tiles: int, progress: Progress
) -> list[Group]:
    """The groups with what each costs when it alone is quantized, on so many of the judge's tiles;
    ``quantized`` has Q/DQ pairs on all of them. Progress is (groups done, groups)."""
    measured = []
    for done, group in enumerate(groups, 1):
        cost_db = judge.cost_db(keep_pairs(quantized, group.nodes), tiles)
        measured.append(replace(group, cost_db=cost_db))
        progress(done, len(groups))
    return measured


def search(
    quantized: ModelProto,
    judge: Judge,
    groups: Sequence[Group],
    budget_db: float,
    progress: Progress,
) -> tuple[list[Group], Loss]:
    """The groups to quantize, with as many multiplications as the budget allows, and their loss.

    The cost of each group by itself orders them: those that cost most for a multiplication become
    float first. How many must is found by bisection on the loss of the graph as a whole, since
    losses do not add up exactly; its mean and standard error stay within the budget. Progress is
    (graphs measured, at most how many).
    """
    order = sorted(groups, key=lambda group: group.cost_db / group.macs)
    rounds = 1 + math.ceil(math.log2(len(order) + 1))
    done = itertools.count(1)

    def measure(count: int) -> Loss:
        nodes = [name for group in order[:count] for name in group.nodes]
        loss = judge.loss(keep_pairs(quantized, nodes))
        progress(next(done), rounds)
        return loss

    # Where all groups fit the budget, this is the only graph measured.
    loss = measure(len(order))
    if loss.upper_db <= budget_db:
        return order, loss
    best, loss, too_many = 0, Loss(0.0, 0.0), len(order)
    while too_many - best > 1:
        middle = (best + too_many) // 2
        found = measure(middle)
        if found.upper_db <= budget_db:
            best, loss = middle, found
        else:
            too_many = middle
    return order[:best], loss
