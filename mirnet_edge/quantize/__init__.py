"""An exported graph to one with INT8 layers, within a budget of PSNR."""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from mirnet_edge._files import atomic_path, require_new
from mirnet_edge.errors import CalibrationError, GraphError
from mirnet_edge.facts import PREFIX, ModelFacts, SizeRule
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.graph.file import has_qdq, load_graph, read_facts, save_graph
from mirnet_edge.graph.rewrite import rewritten_for_tensorrt
from mirnet_edge.quantize.calibration import CalibrationSet
from mirnet_edge.quantize.for_cpu import quantized_for_cpu
from mirnet_edge.quantize.plan import QuantizationPlan
from mirnet_edge.quantize.ranges import METHODS
from mirnet_edge.quantize.recorded import QuantizedGraph, quantized_graph

if TYPE_CHECKING:
    from onnx import ModelProto

    from mirnet_edge.quantize.calibration.sources import Source

log = logging.getLogger(__name__)
Device = Literal["tensorrt", "cpu"]
DENOISING_SIGMA = 25.0
"""Of the noise added to the bundled clean images for a denoiser: the middle of what it is trained
for (`workstation.tasks.denoise`)."""
TOLD_SIGMAS = (5.0, 15.0, 25.0, 35.0, 50.0)
"""The same for one that is told the level, in turn: its ranges must hold for all that it is told.
"""
DEFAULT_TILE_PX = 256
"""Side of the tile where none is asked for; the next multiple that the network takes."""


@dataclass(frozen=True)
class QuantizeReport:
    """What was written.

    Attributes:
        path: the ONNX file, of a fixed size, with Q/DQ pairs.
        ranges_path, plan_path: JSON files beside it.
        plan: which layers are INT8, and the loss measured.
        tiles: of the calibration set.
        warnings: of the calibration set, and why a record was not used.
        seconds: it took.
        recorded: whether the ranges and plan that ship with a bundled model were used.
    """

    path: Path
    ranges_path: Path
    plan_path: Path
    plan: QuantizationPlan
    tiles: int
    warnings: tuple[str, ...]
    seconds: float
    recorded: bool = False


def quantize_onnx(
    onnx: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    calibration: Source | CalibrationSet = None,
    method: str = "auto",
    budget_db: float = 0.1,
    sigma: float | None = None,
    tile: tuple[int, int] | None = None,
    device: Device = "tensorrt",
    progress: StageProgress | None = None,
    overwrite: bool = True,
) -> QuantizeReport:
    """Write a copy of an exported graph whose layers are INT8 where that costs little.

    The graph is rewritten for TensorRT at the size of the tile, ranges are measured on the
    calibration set, each group of layers is quantized by itself to learn what it costs, and the
    most arithmetic is chosen that loses no more than ``budget_db``. For a bundled model, ranges
    and choice are recorded: they are used unless images, noise or another method are given, or the
    budget asks for another choice. Written are ``output``, ``output.ranges.json`` and
    ``output.plan.json``.

    Args:
        onnx: as `export_onnx` writes it, of open sizes or of the tile's.
        calibration: None for the bundled images; a folder, pattern, file, video or frames (see
            `CalibrationSet.open`); or an open set, whose own tiles are used.
        method: of the ranges, "minmax", "percentile", "entropy" or "mse"; "auto" tries all and
            keeps the one that loses least.
        budget_db: PSNR that INT8 may cost on the calibration set, mean and standard error.
        sigma: of the noise to add to the calibration images, in units of 1/255, which are then
            the clean targets; None adds noise for a denoiser on the bundled images (of 25; of 5 to
            50 where it is told the level), else none.
        tile: (height, width) of the graph that is written; None takes 256 for both, or the next
            that the network takes.
        device: "tensorrt" writes a graph for `build_engine`; "cpu" one for OpenVINO and ONNX
            Runtime, of open sizes and with its pools, by finer pairs (see `for_cpu`), always
            measured. ``tile`` is then that of the calibration alone, and the method percentile
            where it is "auto".
        progress: called with (step, done, total).

    Raises:
        CalibrationError: no images, a method that is none, or a tile that is not the set's.
        GraphError: the file is no graph, is quantized already, takes no such tile, or has no layer
            that gains from INT8 or fits the budget.
        OutputError: a file exists and ``overwrite`` is False, or cannot be written.
    """
    started, output = time.monotonic(), Path(output)
    _check(output, method, budget_db, device)
    ranges, plan = (Path(f"{output}.{kind}.json") for kind in ("ranges", "plan"))
    paths = (output, ranges, plan)
    # Before the minutes of measuring, not after them.
    for path in paths:
        require_new(path, overwrite)
    original = _float_graph(onnx)
    facts = read_facts(original)
    tile = _fitting(facts.size_rule, tile)
    images = partial(open_images, facts, tile, calibration, sigma)
    options: dict[str, Any] = {"budget_db": budget_db, "progress": progress}
    if device == "cpu":
        methods = ("percentile",) if method == "auto" else (method,)
        found = quantized_for_cpu(original, images(), methods=methods, **options)
    else:
        sized = rewritten_for_tensorrt(original, 1, tile)
        measure = calibration is not None or sigma is not None
        found = quantized_graph(
            original, sized, images, use_record=not measure, method=method, **options
        )
    _require_layers(found.plan)
    log.info("%s: %d groups of layers were weighed", output, len(found.plan.groups))
    _write(found, paths)
    warnings = (*found.notes, *(found.images.warnings if found.images else ()))
    seconds, recorded = time.monotonic() - started, found.images is None
    tiles = found.ranges.tiles
    return QuantizeReport(
        output, ranges, plan, found.plan, tiles, warnings, seconds, recorded=recorded
    )


def _float_graph(onnx: str | os.PathLike[str]) -> ModelProto:
    original = load_graph(onnx)
    if has_qdq(original):
        raise GraphError(f"{os.fspath(onnx)} has Q/DQ pairs already; give the graph it was made of")
    return original


def _fitting(rule: SizeRule, tile: tuple[int, int] | None) -> tuple[int, int]:
    if tile is None:
        return (rule.padded(DEFAULT_TILE_PX),) * 2
    if not rule.allows(*tile):
        near = "x".join(str(rule.padded(side)) for side in tile)
        raise GraphError(f"tile {tile[0]}x{tile[1]}: this network takes {rule}; the next is {near}")
    return tile


def _write(found: QuantizedGraph, paths: tuple[Path, ...]) -> None:
    """All three or none, the graph last, which the others are of."""
    _describe(found.proto, found.plan)
    with ExitStack() as stack:
        graph, ranges, plan = map(stack.enter_context, map(atomic_path, paths))
        save_graph(found.proto, graph)
        ranges.write_text(found.ranges.to_json(), encoding="utf-8")
        plan.write_text(found.plan.to_json(), encoding="utf-8")


def _check(output: Path, method: str, budget_db: float, device: str) -> None:
    if device not in get_args(Device):
        raise GraphError(f"device {device!r}: use one of {', '.join(get_args(Device))}")
    if output.suffix.lower() != ".onnx":
        raise GraphError(f"{output}: the name must end in .onnx")
    if method not in (*METHODS, "auto"):
        raise CalibrationError(f"method {method!r}: use auto or one of {', '.join(METHODS)}")
    if not budget_db >= 0:
        raise CalibrationError(f"budget_db={budget_db}: it may not be negative")


def _require_layers(plan: QuantizationPlan) -> None:
    if not plan.int8_nodes:
        cheapest = min(plan.groups, key=lambda group: group.cost_db)
        raise GraphError(
            f"no layer fits a budget of {plan.budget_db} dB: the cheapest, {cheapest.name}, alone "
            f"costs {cheapest.cost_db:.3g} dB; allow more, or build it in fp16"
        )


def open_images(
    facts: ModelFacts,
    tile: tuple[int, int],
    source: Source | CalibrationSet = None,
    sigma: float | None = None,
) -> CalibrationSet:
    """What a network is calibrated on; arguments and errors as of `quantize_onnx`."""
    if isinstance(source, CalibrationSet):
        if source.tiles.shape[1] != facts.in_planes:
            raise CalibrationError(
                f"the calibration tiles have {source.tiles.shape[1]} planes, but the network takes "
                f"{facts.in_planes}; open the set with in_channels={facts.in_channels} and "
                f"noise_level={facts.noise_level}"
            )
        if source.tiles.shape[2:] != tile:
            raise CalibrationError(
                f"the calibration tiles are {source.tiles.shape[2]}x{source.tiles.shape[3]}, but "
                f"the graph is made for {tile[0]}x{tile[1]}; open the set with that tile"
            )
        return source
    return CalibrationSet.open(
        source,
        tile=tile,
        sigma=sigma_for(facts) if sigma is None and source is None else sigma,
        in_channels=facts.in_channels,
        noise_level=facts.noise_level,
        scale=facts.scale,
    )


def sigma_for(facts: ModelFacts) -> float | tuple[float, ...] | None:
    """Of the noise added to the bundled images for a network: clean ones would leave a denoiser
    nothing to do."""
    if facts.task != "denoise":
        return None
    return TOLD_SIGMAS if facts.noise_level else DENOISING_SIGMA


def _describe(proto: ModelProto, plan: QuantizationPlan) -> None:
    """Say in the file's metadata what was quantized, for ``mirnet-edge info``."""
    told = {
        "method": plan.method,
        "budget_db": plan.budget_db,
        "loss_db": round(plan.loss_db, 4),
        "against": plan.against,
        "int8_layers": len(plan.int8_nodes),
        "int8_share_of_macs": round(plan.int8_share, 4),
    }
    proto.metadata_props.add(key=f"{PREFIX}quantization", value=json.dumps(told))
