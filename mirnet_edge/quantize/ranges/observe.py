"""Run tiles through a graph and observe its tensors: extremes, then histograms."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge.errors import CalibrationError
from mirnet_edge.graph.file import dims_of
from mirnet_edge.graph.session import TileSession
from mirnet_edge.quantize.ranges.histogram import Histogram

if TYPE_CHECKING:
    from onnx import ModelProto

GROUP_BYTES = 512 * 2**20
"""Tensors that leave the graph in one run. More tensors take more runs, not more memory."""


def grouped(sized: ModelProto, names: Sequence[str]) -> list[list[str]]:
    """The names in the order in which the graph makes them, split where `GROUP_BYTES` are full."""
    graph = sized.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    float32 = {value.name: value for value in values if value.type.tensor_type.elem_type == 1}
    if unknown := [name for name in names if name not in float32]:
        raise CalibrationError(
            f"cannot calibrate the graph: {unknown[0]!r} is none of its {len(float32)} float32 "
            "tensors to measure"
        )
    made = (name for node in graph.node for name in node.output)
    wanted = set(names)
    groups: list[list[str]] = []
    # As if one were full: the first tensor begins another.
    filled = GROUP_BYTES
    for name in [name for name in (graph.input[0].name, *made) if name in wanted]:
        size_bytes = 4 * math.prod(dims_of(float32[name]))
        if filled + size_bytes > GROUP_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size_bytes
    return groups


def extremes(
    sized: ModelProto, names: Sequence[str], tiles: NDArray[np.float32], step: Callable[[], None]
) -> dict[str, tuple[float, float]]:
    """Least and greatest value of each tensor, by reductions added to the graph."""
    onnx = require("onnx", "calibration")
    reduced = copy.deepcopy(sized)
    # Reduced inside the graph: two numbers leave it for each tensor instead of a map.
    added = [(operator, name) for name in names for operator in ("ReduceMin", "ReduceMax")]
    outputs = [f"mirnet_edge.{operator}.{name}" for operator, name in added]
    for (operator, name), output in zip(added, outputs):
        reduced.graph.node.append(onnx.helper.make_node(operator, [name], [output], keepdims=0))
    results = [value.name for value in sized.graph.output]
    # The results are measured for nothing, and looked at: what is not finite ends up there.
    measured = [*(name for _, name in added), *results]
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    run = _watch(reduced, [*outputs, *results])
    for index, tile in enumerate(tiles):
        found = run(tile)
        for name, values in zip(measured, found):
            if not np.isfinite(values).all():
                raise CalibrationError(
                    f"tile {index} makes {name!r} NaN or infinite, so it has no range; check the "
                    "tiles, and that the FP32 graph restores them"
                )
        pairs = np.array(found[: len(added)], np.float64).reshape(-1, 2)
        low, high = np.minimum(low, pairs[:, 0]), np.maximum(high, pairs[:, 1])
        step()
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}


def histograms(
    sized: ModelProto,
    groups: list[list[str]],
    amax: dict[str, float],
    tiles: NDArray[np.float32],
    step: Callable[[], None],
) -> Iterator[tuple[str, Histogram]]:
    """The histogram of each tensor, one group of them at a time."""
    for group in groups:
        histograms = {name: Histogram(amax[name]) for name in group}
        shown = copy.deepcopy(sized)
        wanted = set(group)
        makers = [i for i, node in enumerate(sized.graph.node) if wanted & {*node.output}]
        # What comes later would be computed for nothing.
        del shown.graph.node[max(makers, default=-1) + 1 :]
        run = _watch(shown, group)
        for tile in tiles:
            for name, values in zip(group, run(tile)):
                histograms[name].add(values)
            step()
        yield from histograms.items()


def _watch(
    proto: ModelProto, names: Sequence[str]
) -> Callable[[NDArray[np.float32]], list[NDArray[Any]]]:
    """What runs a (C, H, W) tile and returns these tensors of the graph, its input among them;
    changes ``proto``."""
    image = proto.graph.input[0].name
    made = [name for name in names if name != image]
    del proto.graph.output[:]
    for name in made:
        proto.graph.output.add(name=name)
    # ONNX Runtime takes no graph without outputs, and needs none to show the input.
    session = TileSession(proto) if made else None

    def run(tile: NDArray[np.float32]) -> list[NDArray[Any]]:
        found = {image: tile[None]}
        if session is not None:
            found.update(zip(made, session.run(tile)))
        return [found[name] for name in names]

    return run
