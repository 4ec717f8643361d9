"""Graphs with operators of ours, run by onnx's reference evaluator with their NumPy twins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from kernel_twins import fusions as twins
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

if TYPE_CHECKING:
    from onnx import ModelProto

DOMAIN = "mirnet_edge"


def with_rows(total: Any, mean: Any, rows: int) -> Any:
    """The sum, and rows that add up to the mean, no two alike."""
    shares = np.arange(1, rows + 1) / (rows * (rows + 1) / 2)
    return total.astype(np.float32), (mean[:, None] * shares[:, None]).astype(np.float32)


class MirnetResidualSum(OpRun):
    op_domain = DOMAIN

    def _run(self, branch: Any, skip: Any, rows: int, slope: float) -> Any:
        return with_rows(*twins.residual_sum(branch, skip, slope), rows)


class MirnetContextSum(OpRun):
    op_domain = DOMAIN

    def _run(self, branch: Any, skip: Any, context: Any, rows: int, slope: float) -> Any:
        made = twins.residual_sum(branch, skip, slope, context[..., 0, 0])
        return with_rows(*made, rows)


class MirnetContextRows(OpRun):
    op_domain = DOMAIN

    def _run(self, x: Any, mask: Any, rows: int) -> Any:
        """The one row, and as many of no positions."""
        row = twins.context_rows(x, mask)
        none = np.zeros((len(row), rows - 1, row.shape[2]))
        none[..., len(mask)] = np.finfo(np.float32).min
        return (np.concatenate([none, row], 1).astype(np.float32),)


class MirnetContextVector(OpRun):
    op_domain = DOMAIN

    def _run(self, rows: Any, squeeze: Any, expand: Any, slope: float) -> Any:
        vector = twins.context_vector(rows, squeeze, expand, slope)
        return (vector[..., None, None].astype(np.float32),)


class MirnetAttentionPools(OpRun):
    op_domain = DOMAIN

    def _run(self, y: Any, rows: int) -> Any:
        return with_rows(*twins.attention_pools(y), rows)


class MirnetChannelGate(OpRun):
    op_domain = DOMAIN

    def _run(self, *arrays: Any, slope: float) -> Any:
        return (twins.channel_gate(*arrays, slope)[..., None, None].astype(np.float32),)


class MirnetDualGate(OpRun):
    op_domain = DOMAIN

    def _run(self, y: Any, planes: Any, spatial: Any, gate: Any) -> Any:
        return (twins.dual_gate(y, planes, spatial, gate[..., 0, 0]).astype(np.float32),)


class MirnetResidualBlock(OpRun):
    op_domain = DOMAIN

    def _run(
        self, x: Any, first: Any, second: Any, rows: int, slope: float, last_slope: float
    ) -> Any:
        made = twins.residual_block(x, first, second, slope, last_slope, half=False)
        return with_rows(*made, rows)


class MirnetFusionGate(OpRun):
    op_domain = DOMAIN

    def _run(self, *arrays: Any, slope: float) -> Any:
        gate, mean = twins.fusion_gate(*arrays, slope)
        return gate[..., None, None].astype(np.float32), mean[:, None].astype(np.float32)


class MirnetGatedSum(OpRun):
    op_domain = DOMAIN

    def _run(self, x: Any, small: Any, gate: Any) -> Any:
        return (twins.gated_sum(x, small, gate[..., 0, 0]).astype(np.float32),)


class MirnetMeanRows(OpRun):
    op_domain = DOMAIN

    def _run(self, *maps: Any, rows: int) -> Any:
        return (with_rows(maps[0], twins.mean_of_sum(maps), rows)[1],)


class MirnetSelectGate(OpRun):
    op_domain = DOMAIN

    def _run(self, rows: Any, squeeze: Any, expand: Any, slope: float) -> Any:
        gates = twins.select_gate(rows, squeeze, expand, slope)
        return tuple(gates[..., None, None].astype(np.float32))


class MirnetSelectSum(OpRun):
    op_domain = DOMAIN

    def _run(self, *arrays: Any) -> Any:
        gates = [gate[..., 0, 0] for gate in arrays[3:]]
        return (twins.select_sum(arrays[:3], gates).astype(np.float32),)


class MirnetUnshuffle(OpRun):
    op_domain = DOMAIN

    def _run(self, image: Any, side: int) -> Any:
        return (twins.unshuffle(image, side),)


class MirnetShuffleAdd(OpRun):
    op_domain = DOMAIN

    def _run(self, image: Any, blocks: Any, side: int) -> Any:
        pixels = twins.shuffle(blocks, side)
        return (pixels + image[:, : pixels.shape[1]],)


class ConvTranspose(OpRun):
    """ONNX's own, whose evaluation in onnx takes a loop of Python for each number."""

    op_domain = ""

    def _run(self, maps: Any, weights: Any, *, group: int, **attributes: Any) -> tuple[Any]:
        batch, channels, height, width = maps.shape
        (down, right), more = attributes["strides"], attributes["output_padding"] or (0, 0)
        rows, columns = weights.shape[2:]
        taps = weights.reshape(group, channels // group, -1, rows, columns)
        parts = maps.reshape(batch, group, channels // group, height, width)
        size = ((height - 1) * down + rows + more[0], (width - 1) * right + columns + more[1])
        sums = np.zeros((batch, group * weights.shape[1], *size), maps.dtype)
        for row, column in np.ndindex(rows, columns):
            part = np.einsum("bgihw,gio->bgohw", parts, taps[..., row, column])
            rest = sums[:, :, row::down, column::right][:, :, :height, :width]
            rest += part.reshape(rest.shape)
        pads = attributes["pads"]
        return (sums[:, :, pads[0] : size[0] - pads[2], pads[1] : size[1] - pads[3]],)


OPERATORS = [
    ConvTranspose,
    MirnetResidualSum,
    MirnetResidualBlock,
    MirnetAttentionPools,
    MirnetChannelGate,
    MirnetDualGate,
    MirnetContextSum,
    MirnetContextRows,
    MirnetContextVector,
    MirnetFusionGate,
    MirnetGatedSum,
    MirnetUnshuffle,
    MirnetShuffleAdd,
    MirnetMeanRows,
    MirnetSelectGate,
    MirnetSelectSum,
]


def evaluated(proto: ModelProto, *inputs: Any) -> Any:
    """The first output of a graph."""
    names = [value.name for value in proto.graph.input]
    runner = ReferenceEvaluator(proto, new_ops=OPERATORS)
    # onnx takes exp of all values for a sigmoid, and then those that did not overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        return runner.run(None, dict(zip(names, inputs)))[0]
