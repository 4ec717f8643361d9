"""Run tiles through a graph and observe its tensors: extremes, then histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge.errors import CalibrationError, first_line
from mirnet_edge.graph.file import dims_of
from mirnet_edge.graph.session import session_options
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
    unknown = [name for name in names if name not in float32]
    if unknown or not names:
        found = f"{unknown[0]!r} is none of its {len(float32)} float32" if unknown else "it has no"
        raise CalibrationError(f"cannot calibrate the graph: {found} tensors to measure")
    wanted = set(names)
    groups: list[list[str]] = []
    filled = GROUP_BYTES
    for name in [name for name in dict.fromkeys(_order(sized)) if name in wanted]:
        size_bytes = 4 * math.prod(dims_of(float32[name]))
        if filled + size_bytes > GROUP_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size_bytes
    return groups


def _order(proto: ModelProto) -> Iterator[str]:
    yield from (value.name for value in proto.graph.input)
    for node in proto.graph.node:
        yield from node.output


def extremes(
    sized: ModelProto, names: Sequence[str], tiles: NDArray[np.float32], step: Callable[[], None]
) -> dict[str, tuple[float, float]]:
    """Least and greatest value of each tensor, by reductions added to the graph."""
    onnx = require("onnx", "calibration")
    reduced = onnx.ModelProto()
    reduced.CopyFrom(sized)
    added = [(operator, name) for name in names for operator in ("ReduceMin", "ReduceMax")]
    outputs = [f"mirnet_edge.{operator}.{name}" for operator, name in added]
    for (operator, name), output in zip(added, outputs):
        reduced.graph.node.append(onnx.helper.make_node(operator, [name], [output], keepdims=0))
    results = [value.name for value in sized.graph.output]
    measured = [*(name for _, name in added), *results]
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    session = _Session(reduced, [*outputs, *results])
    for index, tile in enumerate(tiles):
        found = session.run(tile)
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
    onnx = require("onnx", "calibration")
    for group in groups:
        histograms = {name: Histogram(amax[name]) for name in group}
        shown = onnx.ModelProto()
        shown.CopyFrom(sized)
        unneeded = _last_maker(sized, group) + 1
        del shown.graph.node[unneeded:]
        session = _Session(shown, group)
        for tile in tiles:
            for name, values in zip(group, session.run(tile)):
                histograms[name].add(values)
            step()
        yield from histograms.items()


def _last_maker(proto: ModelProto, names: Sequence[str]) -> int:
    """Index of the last node that makes one of the tensors, -1 where none does."""
    wanted = set(names)
    makers = [i for i, node in enumerate(proto.graph.node) if not wanted.isdisjoint(node.output)]
    return max(makers, default=-1)


class _Session:
    """A graph on ONNX Runtime that returns the tensors called ``outputs``."""

    def __init__(self, proto: ModelProto, outputs: Sequence[str]) -> None:
        ort = require("onnxruntime", "calibration")
        self._input = proto.graph.input[0].name
        self._outputs = list(outputs)
        self._made = [name for name in outputs if name != self._input]
        self._session: Any = None
        if not self._made:
            return
        del proto.graph.output[:]
        for name in self._made:
            proto.graph.output.add(name=name)
        try:
            self._session = ort.InferenceSession(
                proto.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise CalibrationError(
                f"ONNX Runtime {ort.__version__} cannot run the graph: {first_line(error)}"
            ) from error

    def run(self, tile: NDArray[np.float32]) -> list[NDArray[Any]]:
        """The outputs for one (C, H, W) tile, in the order asked for."""
        found = {self._input: tile[None]}
        if self._session is not None:
            try:
                values = self._session.run(self._made, found)
            except Exception as error:
                raise CalibrationError(
                    f"ONNX Runtime failed on a tile of shape {tile.shape}: {first_line(error)}"
                ) from error
            found.update(zip(self._made, values))
        return [found[name] for name in self._outputs]
