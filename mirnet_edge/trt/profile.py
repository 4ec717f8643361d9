"""Where an engine's time goes: by kind of layer and by module of the network, beside the least that
its bytes and its arithmetic could take on this device."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from mirnet_edge.cuda import DeviceBuffer, Event, Stream
from mirnet_edge.engines.card import LayerFacts
from mirnet_edge.errors import EngineError
from mirnet_edge.trt.engine import TensorRTEngine

COPY_BYTES = 1 << 28  # more than any cache holds
COPIES, WARM_UP = 30, 5
NOT_TOLD = "not told"
MODULE_DEPTH = 5
"""As deep as the parts of a block: "body.0.body.1.dau_top"."""


@dataclass(frozen=True)
class Rates:
    """Of this device, measured: bytes read and written by a copy, and multiplications of a large
    convolution, each a second."""

    bytes_per_second: float
    macs_per_second: float

    def floor_ms(self, layer: LayerFacts) -> float:
        """The least time of a layer, in milliseconds: what is longer, its bytes or its
        arithmetic."""
        seconds = layer.bytes_moved / self.bytes_per_second, layer.macs / self.macs_per_second
        return 1e3 * max(seconds)


@dataclass(frozen=True)
class Part:
    """Some layers together.

    Attributes:
        time_ms: each timed by itself, so that all together exceed the time of a run.
        bytes_moved, macs: of all.
        floor_ms: the sum of what each could take at least.
    """

    name: str
    layers: int
    time_ms: float
    bytes_moved: int
    macs: int
    floor_ms: float


@dataclass(frozen=True)
class EngineProfile:
    """All layers of an engine, seen in two ways.

    Attributes:
        graph_ms: of a run as a CUDA graph, or layer by layer where there is none.
        all: of all layers.
        kinds: by TensorRT's kind of layer and its precision, slowest first.
        modules: by part of the network's blocks, "*" for any number in its name, slowest first.
    """

    rates: Rates
    graph_ms: float
    all: Part
    kinds: tuple[Part, ...]
    modules: tuple[Part, ...]


def profile_engine(engine: TensorRTEngine, macs_per_second: float, runs: int = 20) -> EngineProfile:
    """Time each layer of an engine by itself, and a copy on its device.

    Raises:
        EngineError: it has no card, or one without layers.
    """
    if engine.card is None or not engine.card.layers:
        raise EngineError(
            f"{engine.path.name} has no card that lists its layers; build it again to profile it"
        )
    layers = engine.card.layers
    rates = Rates(copy_rate(engine.stream), macs_per_second)
    enqueue_ms, graph_ms = engine.measure(runs)
    times_ms = engine.layer_times(runs)
    told = {layer.name for layer in layers}
    # What the inspector does not list, the profiler may time all the same.
    others = (LayerFacts(name, NOT_TOLD, "", 0) for name in times_ms if name not in told)
    listed = (*layers, *others)

    def parts(name_of: Callable[[LayerFacts], str]) -> tuple[Part, ...]:
        groups: dict[str, list[LayerFacts]] = {}
        for layer in listed:
            groups.setdefault(name_of(layer), []).append(layer)
        made = [_part(name, group, times_ms, rates) for name, group in groups.items()]
        return tuple(sorted(made, key=lambda part: -part.time_ms))

    return EngineProfile(
        rates=rates,
        graph_ms=median(graph_ms or enqueue_ms),
        all=_part("all", listed, times_ms, rates),
        kinds=parts(lambda layer: f"{layer.kind} {layer.precision}".strip()),
        modules=parts(_module),
    )


def _module(layer: LayerFacts) -> str:
    name = ".".join(layer.module.split(".")[:MODULE_DEPTH])
    return re.sub(r"\b\d+\b", "*", name) or NOT_TOLD


def _part(
    name: str, layers: Iterable[LayerFacts], times_ms: dict[str, float], rates: Rates
) -> Part:
    group = list(layers)
    return Part(
        name=name,
        layers=len(group),
        time_ms=sum(times_ms.get(layer.name, 0.0) for layer in group),
        bytes_moved=sum(layer.bytes_moved for layer in group),
        macs=sum(layer.macs for layer in group),
        floor_ms=sum(map(rates.floor_ms, group)),
    )


def copy_rate(stream: Stream) -> float:
    """Measure bytes a second that a copy within the device's memory reads and writes."""
    device = stream.device
    size_bytes = min(COPY_BYTES, device.memory()[0] // 4)
    times_ms = []
    with (
        DeviceBuffer(device, size_bytes) as source,
        DeviceBuffer(device, size_bytes) as target,
        Event(device) as start,
        Event(device) as end,
    ):
        source.fill(1, stream=stream)
        for _ in range(WARM_UP + COPIES):
            start.record(stream)
            target.copy_from(source.address, size_bytes, stream=stream)
            end.record(stream)
            end.synchronize()
            times_ms.append(end.elapsed_ms(start))
    return 2 * size_bytes / (median(times_ms[WARM_UP:]) / 1e3)
