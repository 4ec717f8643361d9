"""INT8 for a CPU: pairs that OpenVINO runs, which may be finer than TensorRT's.

Activations have a zero point (uint8), so that what a LeakyReLU leaves, hardly any of it below zero,
has all 256 levels; TensorRT takes symmetric ones alone. Before that the channels of what a
convolution reads are brought to about one height, by a multiplication that becomes part of the
quantization, and its weights take the inverse (SmoothQuant, Xiao et al. 2022, arXiv 2211.10438,
equation 4). Both are exact where nothing is rounded. All 3x3 convolutions of edge-s-denoise in INT8
lose on the calibration set 0.228 dB as TensorRT has them, 0.169 with zero points, 0.151 with both.

The graph keeps its open size, and its pools: none of it is rewritten for TensorRT.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._imports import require
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.graph.file import graph_sha256, set_nodes, shapes_by_name, with_shape
from mirnet_edge.graph.session import TileSession
from mirnet_edge.quantize.calibration import CalibrationSet
from mirnet_edge.quantize.plan import make_plan
from mirnet_edge.quantize.qdq import LEFT_OUT, candidates, inputs_of, insert_qdq
from mirnet_edge.quantize.ranges.histogram import PERCENTILE
from mirnet_edge.quantize.ranges.observe import grouped
from mirnet_edge.quantize.recorded import QuantizedGraph

if TYPE_CHECKING:
    from onnx import ModelProto

TENSORRT_ALONE = "shares a convolution's output"
"""A rule of `LEFT_OUT` that is for a fault of TensorRT's."""
STRENGTH = 0.8
"""How far channels are brought to one height, from 0 to 1, at the weights' cost: SmoothQuant
takes 0.5. Loss of edge-s-denoise as above: 0.173 dB at 0.3, 0.158 at 0.5, 0.147 at 0.7, 0.151 at
0.8, 0.150 at 1; alone, its worst layer loses least at 0.8."""
LEAST_PEAK = 1e-6
"""Below, a channel counts as empty."""
PEAK_TILES = 8


def quantized_for_cpu(
    original: ModelProto,
    images: CalibrationSet,
    *,
    methods: Sequence[str] = ("percentile",),
    budget_db: float,
    progress: StageProgress | None = None,
) -> QuantizedGraph:
    """Measure and quantize a graph for the CPU; the result is of the original's sizes.

    Raises:
        CalibrationError, GraphError: as `make_plan`.
    """
    height, width = images.tiles.shape[2:]
    sized = with_shape(original, 1, height, width)
    names = candidates(sized, [name for name in LEFT_OUT if name != TENSORRT_ALONE])
    report = progress or (lambda *_: None)
    tiles = images.tiles[:PEAK_TILES]
    peaks = channel_peaks(
        sized, inputs_of(sized, names), tiles, lambda done: report("channels", done, len(tiles))
    )
    smooth = smoothed(sized, names, peaks)
    plan, ranges, _ = make_plan(
        smooth,
        images.tiles,
        images.targets,
        methods=methods,
        budget_db=budget_db,
        progress=progress,
        names=names,
        asymmetric=True,
    )
    # Anew with the chosen ones alone: elsewhere a multiplication would stand for nothing.
    chosen = smoothed(sized, plan.int8_nodes, peaks)
    sha256 = graph_sha256(chosen)
    read = set(inputs_of(chosen, plan.int8_nodes))
    tensors = {name: found for name, found in ranges.tensors.items() if name in read}
    ranges = replace(ranges, graph_sha256=sha256, tensors=tensors)
    proto = insert_qdq(chosen, ranges, plan.int8_nodes, asymmetric=True)
    return QuantizedGraph(
        _of_any_size(proto, original), replace(plan, graph_sha256=sha256), ranges, images
    )


def channel_peaks(
    sized: ModelProto,
    names: Sequence[str],
    tiles: NDArray[np.float32],
    step: Callable[[int], None] = lambda _: None,
) -> dict[str, NDArray[np.float32]]:
    """How tall each channel of these tensors is: the `PERCENTILE` of its magnitudes, the mean over
    tiles. By the largest magnitude instead, smoothing lost more than it gained: all convolutions of
    edge-s-denoise 0.40 dB."""
    helper = require("onnx.helper", "quantizing graphs")
    peaks = {name: np.zeros(0, np.float32) for name in names}
    for done, group in enumerate(groups := grouped(sized, names), 1):
        shown = copy.deepcopy(sized)
        del shown.graph.output[:]
        shown.graph.output.extend(helper.make_tensor_value_info(n, 1, None) for n in group)
        session = TileSession(shown)
        for tile in tiles:
            for name, found in zip(group, session.run(tile)):
                size = np.abs(found[0]).reshape(found.shape[1], -1)
                # The one of that rank, without sorting all.
                rank = min(math.ceil(PERCENTILE / 100 * size.shape[1]), size.shape[1]) - 1
                tall = np.partition(size, rank, axis=1)[:, rank] / np.float32(len(tiles))
                peaks[name] = peaks[name] + tall if peaks[name].size else tall
        step(len(tiles) * done // len(groups))
    return peaks


def smoothed(
    proto: ModelProto, nodes: Collection[str], peaks: Mapping[str, NDArray[np.float32]]
) -> ModelProto:
    """A copy in which the named convolutions read what they read divided, channel by channel, and
    multiply by that in their weights: the graph computes the same. All shapes are known."""
    onnx = require("onnx", "quantizing graphs")
    changed = copy.deepcopy(proto)
    graph, shapes, wanted = changed.graph, shapes_by_name(proto), set(nodes)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    array, tensor = onnx.numpy_helper.to_array, onnx.numpy_helper.from_array
    made = []
    for node in graph.node:
        source = node.input[0] if node.input else ""
        # Grouped convolutions read each channel with other weights' shapes; none is 3x3 here.
        if node.name in wanted and weights[node.input[1]].dims[1] == peaks[source].size:
            name, kernel = f"{node.name}/smooth", array(weights[node.input[1]])
            scale = _scales(peaks[source], np.abs(kernel).max(axis=(0, 2, 3)))
            column = scale.reshape(1, -1, 1, 1)
            graph.initializer.append(tensor(1 / column, f"{name}/by"))
            graph.initializer.append(tensor(kernel * column, f"{node.input[1]}/{node.name}"))
            made.append(onnx.helper.make_node("Mul", [source, f"{name}/by"], [name], name=name))
            graph.value_info.append(onnx.helper.make_tensor_value_info(name, 1, shapes[source]))
            node.input[1] = f"{node.input[1]}/{node.name}"
            node.input[0] = name
        made.append(node)
    set_nodes(changed, made)
    return changed


def _scales(peaks: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """SmoothQuant's, of a geometric mean of one."""
    size = np.maximum(peaks, LEAST_PEAK).astype(np.float64)
    kernel = np.maximum(weights, LEAST_PEAK).astype(np.float64)
    logs = STRENGTH * np.log(size) - (1 - STRENGTH) * np.log(kernel)
    scales: NDArray[np.float32] = np.exp(logs - logs.mean()).astype(np.float32)
    return scales


def _of_any_size(proto: ModelProto, original: ModelProto) -> ModelProto:
    """The graph with the original's open sizes; nothing in it depends on that of the tile."""
    graph = proto.graph
    for kind in ("input", "output"):
        del getattr(graph, kind)[:]
        getattr(graph, kind).extend(getattr(original.graph, kind))
    del graph.value_info[:]
    return proto
