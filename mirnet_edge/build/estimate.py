"""How long a device would take for a frame, by its data sheet: where none is at hand to measure.

An engine's time is taken for the sum of what its launches take, and of its bytes and its arithmetic
at a share of the device's published rates. Both constants are fitted to records of this package
(``benchmarks/calibrate_estimate.py``), of engines with our plugins and of plain ones each by
itself, and so is how far off they are.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirnet_edge._files import PACKAGE
from mirnet_edge.build.device_facts import GIB, DeviceFacts
from mirnet_edge.build.frame import HALO_PX, needed_bytes
from mirnet_edge.build.graphs import open_source, typed_for_tensorrt
from mirnet_edge.bundled import bundled_model
from mirnet_edge.errors import DeviceMemoryError, GraphError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.graph.cost import kernels_of
from mirnet_edge.graph.file import load_graph, read_facts, with_shape
from mirnet_edge.graph.operators import BLOCKS, GROUPS, groups_for, with_plugins
from mirnet_edge.graph.precision import Precision
from mirnet_edge.quantize.qdq import macs_of
from mirnet_edge.tiling.even import frame_tiles

if TYPE_CHECKING:
    from onnx import ModelProto

CALIBRATION = PACKAGE / "data" / "estimate.json"
SAMPLE = (1080, 1920)
"""Size at which a graph is counted; its bytes and arithmetic grow with the pixels."""
CHANNEL_BYTES = 2
"""Of a frame's values on the device, at most."""
FRAMES_HELD = 2
"""At one time, given and restored: the one in work and the next of a stream."""
SMALLER = (1, 3 / 2, 2, 3)
"""By which the sides of a frame are divided to reach a rate: 1080p, 720p, 540p, 360p."""


@dataclass(frozen=True)
class Work:
    """What an engine in FP16 launches, moves and multiplies; macs are multiplications."""

    launches: int
    bytes_moved: float
    macs: float


@dataclass(frozen=True)
class GraphWork:
    """A graph's work for each pixel of its input.

    Attributes:
        fixed_bytes: what each run moves whatever its size: weights.
    """

    launches: int
    bytes_per_pixel: float
    fixed_bytes: int
    macs_per_pixel: float

    def of(self, pixels: int) -> Work:
        """Of one run."""
        return Work(
            launches=self.launches,
            bytes_moved=self.bytes_per_pixel * pixels + self.fixed_bytes,
            macs=self.macs_per_pixel * pixels,
        )


@dataclass(frozen=True)
class Form:
    """How an engine is built."""

    precision: Precision
    plugins: bool = False

    def __str__(self) -> str:
        return f"{self.precision}, plugins" if self.plugins else self.precision


FORMS = (Form("fp16", plugins=True), Form("fp16"), Form("int8"), Form("fp32"))
"""What is estimated, the default of ``build`` first."""


@dataclass(frozen=True)
class Network:
    """A network and the graphs that TensorRT would be given of it.

    Attributes:
        plain: its graph without plugins.
        plugins: the graph with those that run on every device; None where it has no place for any.
        blocks: with those too that need much shared memory.
    """

    name: str
    facts: ModelFacts
    plain: GraphWork
    plugins: GraphWork | None = None
    blocks: GraphWork | None = None

    def graph(self, form: Form, device: DeviceFacts) -> GraphWork:
        """Choose the graph of an engine."""
        if not form.plugins:
            return self.plain
        chosen = self.blocks if BLOCKS in groups_for(device.shared_bytes) else self.plugins
        if chosen is None:
            raise GraphError(f"{self.name} has nothing that plugins replace; estimate it without")
        return chosen

    @property
    def forms(self) -> tuple[Form, ...]:
        """Those of `FORMS` that there are of it."""
        return tuple(form for form in FORMS if self.plugins or not form.plugins)


@dataclass(frozen=True)
class Fit:
    """What records say of engines of one kind.

    Attributes:
        launch_us: of a launch in a CUDA graph, with the wait for the one before, at the clock of
            the `Calibration`.
        share: of the published rates, that an engine reached.
        spread: by which the worst of the records is off, as a fraction.
    """

    launch_us: float
    share: float
    spread: float


@dataclass(frozen=True)
class Calibration:
    """What records say of devices beside their data sheets.

    Attributes:
        plain, plugins: of engines without plugins, and with them.
        best_share: of the published bandwidth, that kernels reached which only read and write.
        memory_factor: by which a Jetson's memory may fall short of its sheet more than an H100's.
        int8_factor: time of INT8, of FP16's, where both were measured.
    """

    plain: Fit
    plugins: Fit
    clock_mhz: float
    best_share: float
    memory_factor: float
    int8_factor: float

    def engine_ms(self, work: Work, device: DeviceFacts, form: Form) -> Range:
        """Estimate one run. INT8 is taken for as slow as it was measured; at best each of its bytes
        is half of FP16's, and its arithmetic at its own rate."""
        fit, is_int8 = self.plugins if form.plugins else self.plain, form.precision == "int8"
        launches_ms = work.launches * fit.launch_us / 1e3 * self.clock_mhz / device.clock_mhz
        of_fp16 = 1e3 * _floor_s(work, device, "fp16")
        floor_ms = 1e3 * _floor_s(work, device, form.precision)
        expected = launches_ms + (of_fp16 if is_int8 else floor_ms) / fit.share
        expected *= self.int8_factor if is_int8 else 1.0
        if device.is_measured and not is_int8:
            return Range(expected / (1 + fit.spread), expected, expected * (1 + fit.spread))
        # Kernels of a small GPU are long, so that launches and their ends matter less than where
        # this was measured: at best its engines do as well as kernels that only read and write.
        low = (launches_ms / 2 + floor_ms / self.best_share) / (1 + fit.spread)
        high = expected * (1 + fit.spread) * (self.memory_factor if device.is_integrated else 1)
        return Range(min(low, expected), expected, high)


@dataclass(frozen=True)
class Range:
    """Milliseconds: at best, as expected, and at worst."""

    low: float
    expected: float
    high: float

    def times(self, count: float) -> Range:
        """That many in a row."""
        return Range(self.low * count, self.expected * count, self.high * count)

    def verdict(self, budget_ms: float) -> str:
        """Say whether it is within a budget: "yes" at worst too, "likely" as expected, "unlikely"
        at best only, "no" not even so."""
        if self.high <= budget_ms:
            return "yes"
        if self.expected <= budget_ms:
            return "likely"
        return "unlikely" if self.low <= budget_ms else "no"


@dataclass(frozen=True)
class FrameEstimate:
    """What a frame would take.

    Attributes:
        frame: (height, width) as given.
        tile: (height, width), and how many of them.
        ms: the engine on all tiles, and the kernels that cut and store them.
        memory_bytes: of the engine, and of the frames on the device.
    """

    network: str
    form: Form
    frame: tuple[int, int]
    tile: tuple[int, int]
    tiles: int
    ms: Range
    memory_bytes: int


@cache
def calibration() -> Calibration:
    """Read what was fitted."""
    stored = _values(_stored()["constants"])
    plain, plugins = Fit(**stored.pop("plain")), Fit(**stored.pop("plugins"))
    return Calibration(plain, plugins, **stored)


def _values(stored: dict[str, Any]) -> dict[str, Any]:
    """Of constants that each stand beside where they are from, the values."""
    return {
        name: found["value"] if "value" in found else _values(found)
        for name, found in stored.items()
    }


@cache
def _stored() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CALIBRATION.read_text(encoding="utf-8"))
    return found


@cache
def preset_networks() -> dict[str, Network]:
    """The presets whose graphs were counted, which takes PyTorch, by name."""
    found = {}
    for name, stored in _stored()["presets"].items():
        graphs = {kind: GraphWork(**work) for kind, work in stored["graphs"].items()}
        found[name] = Network(name, ModelFacts(**stored["facts"]), **graphs)
    return found


def network_of(model: str | os.PathLike[str]) -> Network:
    """Count a model: an ``.onnx`` file of open sizes, a bundled model's name, or a preset's.

    Raises:
        GraphError: neither, no valid graph, or one of a fixed size.
        MissingDependencyError: onnx is not installed.
    """
    if (preset := preset_networks().get(os.fspath(model))) is not None:
        return preset
    bundled = bundled_model(os.fspath(model))
    path = bundled.onnx if bundled else Path(model)
    if path.suffix.lower() != ".onnx":
        names = ", ".join(preset_networks())
        raise GraphError(
            f"{model}: not a graph; give an .onnx file (mirnet-edge export makes one), a bundled "
            f"model's name, or one of {names}"
        )
    return counted(path, os.fspath(model))


def counted(path: Path, name: str) -> Network:
    """Count the graphs that TensorRT would be given, in FP16.

    Raises:
        GraphError, MissingDependencyError: as `network_of`.
    """
    rule = read_facts(load_graph(path)).size_rule
    height, width = map(rule.padded, SAMPLE)
    source = open_source(path, (height, width), 1, rewrites=True)
    macs = sum(macs_of(source.rewritten).values())

    def work_of(proto: ModelProto, shapes: ModelProto, bytes_of: float) -> GraphWork:
        """Count a graph whose values have so many times FP16's bytes."""
        elements = sum(math.prod(tensor.dims) for tensor in proto.graph.initializer)
        kernels = kernels_of(proto, shapes)
        fixed, pixels = 2 * elements, height * width
        return GraphWork(
            launches=kernels.launches,
            bytes_per_pixel=max(kernels.bytes_moved / bytes_of - fixed, 0) / pixels,
            fixed_bytes=fixed,
            macs_per_pixel=macs / pixels,
        )

    typed = typed_for_tensorrt(source.rewritten, "fp16", "float16").strong
    plain = with_shape(typed, 1, height, width)
    sized = with_shape(source.rewritten, 1, height, width)
    others = {}
    for kind, groups in (("plugins", groups_for(0)), ("blocks", GROUPS)):
        made, operators = with_plugins(sized, groups)
        if operators:  # all maps of which are in FP16, and still FP32 here
            others[kind] = work_of(made, sized, 2)
    return Network(name, source.facts, work_of(plain, plain, 1), **others)


def estimate_frame(
    network: Network,
    device: DeviceFacts,
    frame: tuple[int, int],
    form: Form | None = None,
    *,
    using: Calibration | None = None,
) -> FrameEstimate:
    """Estimate a frame of (height, width) pixels, whole or in the largest tiles that fit, as
    `build_engine` would choose them. What a camera, a codec or the host takes is not in it.

    Args:
        form: how the engine is built; the first of the network's by default.

    Raises:
        DeviceMemoryError: no tile fits into the device's memory.
        GraphError: the network has no place for plugins, which the form asks for.
    """
    facts, using, form = network.facts, using or calibration(), form or network.forms[0]
    graph = network.graph(form, device)
    height, width = (facts.scale * side for side in frame)
    values = frame[0] * frame[1] * facts.in_channels + height * width * facts.out_channels
    held = FRAMES_HELD * CHANNEL_BYTES * values
    fixed = held + graph.fixed_bytes
    tiles = [
        (tile, count, fixed + needed_bytes(facts, tile, 1, form.precision))
        for tile, count in frame_tiles((height, width), HALO_PX, facts.size_rule)
    ]
    chosen = next((found for found in tiles if found[2] <= device.usable_bytes), None)
    if chosen is None:
        (height, width), _, needed = tiles[-1]
        raise DeviceMemoryError(
            f"a frame of {frame[1]}x{frame[0]} fits with no tile: {network.name} needs "
            f"{needed / GIB:.1f} GiB with tiles of {width}x{height}, {held / GIB:.1f} of them for "
            f"the frames, and {device.title} has {device.usable_bytes / GIB:.1f} to give; take "
            "smaller frames, or a device with more memory"
        )
    tile, count, needed = chosen
    pixels = tile[0] * tile[1]
    one = using.engine_ms(graph.of(pixels), device, form)
    if form.plugins and not device.is_measured:
        # They have not run there: at worst they save nothing.
        without = using.engine_ms(network.plain.of(pixels), device, Form(form.precision))
        one = replace(one, high=max(one.high, without.high))
    # Cut and stored: the frame's bytes, and the tiles' in FP16.
    planes = facts.in_planes + facts.out_channels
    moved = values + 2 * planes * tile[0] * tile[1] * count
    around = 1e3 * moved / device.bytes_per_second / using.best_share
    ms = one.times(count)
    return FrameEstimate(
        network=network.name,
        form=form,
        frame=frame,
        tile=tile,
        tiles=count,
        ms=Range(ms.low + around, ms.expected + around, ms.high + around * using.memory_factor),
        memory_bytes=needed,
    )


def smaller_frames(frame: tuple[int, int]) -> list[tuple[int, int]]:
    """A frame's size, and smaller ones of its shape with even sides."""
    found = [(round(frame[0] / by / 2) * 2, round(frame[1] / by / 2) * 2) for by in SMALLER[1:]]
    return [frame, *(size for size in found if min(size) >= 64)]


def estimates(
    networks: Iterable[Network],
    device: DeviceFacts,
    frames: Iterable[tuple[int, int]],
    most_forms: int | None = None,
) -> list[FrameEstimate]:
    """Estimate every network in every form, or its first few, on every frame.

    Raises:
        DeviceMemoryError: one of them does not fit.
    """
    return [
        estimate_frame(network, device, frame, form)
        for network in networks
        for form in network.forms[:most_forms]
        for frame in frames
    ]


def _floor_s(work: Work, device: DeviceFacts, precision: Precision) -> float:
    """Seconds that bytes and arithmetic take one after another at the published rates."""
    size = {"fp32": 2.0, "fp16": 1.0, "int8": 0.5}[precision]
    moved = size * work.bytes_moved / device.bytes_per_second
    return moved + 2 * work.macs / device.flops_per_second[precision]
