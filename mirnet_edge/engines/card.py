"""The card beside an engine: what it was made of, what it needs, what it was measured to be."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mirnet_edge._files import atomic_path, read_json
from mirnet_edge._typed import dataclass_of
from mirnet_edge.errors import EngineError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.pooling.vectors import Pool

CARD_FORMAT = 1
DTYPES = ("float32", "float16", "int8", "uint8", "int32", "int64", "bool", "bf16", "fp8")
"""What a tensor may be; TensorRT's names where numpy has none."""
Kind = Literal["plain", "apply", "gather"]
"""What an engine does: restore tiles with the pooled vectors of each, with given ones, or with
either and gather them (see `mirnet_edge.graph.pooling`)."""
BESIDE: tuple[Kind, Kind] = ("apply", "gather")  # a plain engine, in the order they are loaded


@dataclass(frozen=True)
class LayerFacts:
    """One layer as TensorRT built it.

    Attributes:
        name: TensorRT's, made of the names of the ONNX nodes fused into it.
        kind: TensorRT's layer type ("CaskConvolution", "PointWiseV2", …).
        precision: of its arithmetic, read off the weights and inputs: "INT8", "FP16", "FP32", ….
        bytes_moved: of the tensors it reads and writes, as laid out.
        tactic: the kernel's name, "" where TensorRT does not tell.
        module: of the network, that its nodes came from; "" where that is not known.
        macs: multiplications of its convolutions.
    """

    name: str
    kind: str
    precision: str
    bytes_moved: int
    tactic: str = ""
    module: str = ""
    macs: int = 0


@dataclass(frozen=True)
class DeviceBytes:
    """Device memory of an engine: its weights, what it computes on the way, and a batch of tiles in
    and out."""

    weights: int
    activations: int
    tiles: int

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.activations + self.tiles


@dataclass(frozen=True)
class TensorFacts:
    """An input or output: shape (N, C, H, W), dtype as numpy spells it, and TensorRT's description
    of the layout."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> TensorFacts:
        """Read what `dataclasses.asdict` made, on its way through JSON."""
        # JSON has no tuples, and a list would compare unequal to what was written.
        return cls(**{**stored, "shape": tuple(stored["shape"])})

    @property
    def size_bytes(self) -> int:
        """Of the tensor, without gaps."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Measured:
    """What the engine was measured to do on the machine that built it.

    Attributes:
        enqueue_ms, graph_ms: medians of one batch, launched layer by layer and as a CUDA graph.
        psnr_vs_fp32_db: least over the calibration tiles, of the output against ONNX Runtime in
            FP32; None where it was not measured.
        task_loss_db: mean PSNR lost on the clean images behind them, None where there are none.
        tiles: how many calibration tiles.
        fp16_graph_ms: of the FP16 engine of the same graph and tile, for INT8 engines.
    """

    enqueue_ms: float
    graph_ms: float
    psnr_vs_fp32_db: float | None = None
    task_loss_db: float | None = None
    tiles: int = 0
    fp16_graph_ms: float | None = None


@dataclass(frozen=True)
class EngineCard:
    """What stands in ``NAME.engine.json`` beside ``NAME.engine``.

    Attributes:
        key: hash of everything the build depends on; the same key means the same engine.
        engine_sha256, engine_bytes: of the plan.
        source: name of the ONNX file it was built from.
        graph_sha256: of that graph, before rewrites.
        precision: asked for, "fp32", "fp16" or "int8".
        strongly_typed: whether TensorRT took the types from the graph alone.
        tile: (height, width) of its input.
        batch: tiles of one run.
        inputs, outputs: of the engine, the image first.
        activation_bytes: device memory of one execution context.
        options: of the build (workspace, optimization level, …).
        versions: tensorrt, cuda, driver, mirnet_edge.
        device: name, compute_capability, memory_bytes, integrated, multiprocessors, shared_bytes.
        measured: time and accuracy on that device, None where the builder could not run it.
        notes: what a user should know: fallbacks, precision that was asked for and not given.
        build_seconds: of TensorRT alone.
        kind: which graph of the network it was built from.
        pools: of an apply or gather engine: the statistics it is given, in their order.
    """

    key: str
    engine_sha256: str
    engine_bytes: int
    source: str
    graph_sha256: str
    facts: ModelFacts
    precision: str
    strongly_typed: bool
    tile: tuple[int, int]
    batch: int
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    layers: tuple[LayerFacts, ...]
    activation_bytes: int
    options: dict[str, Any]
    versions: dict[str, str]
    device: dict[str, Any]
    measured: Measured | None = None
    notes: tuple[str, ...] = ()
    build_seconds: float = 0.0
    kind: Kind = "plain"
    pools: tuple[Pool, ...] = ()
    format: int = CARD_FORMAT

    @property
    def device_bytes(self) -> DeviceBytes:
        """Of this engine alone, without those beside it."""
        tiles = sum(tensors[0].size_bytes for tensors in (self.inputs, self.outputs))
        return DeviceBytes(self.engine_bytes, self.activation_bytes, tiles)

    @property
    def bytes_moved(self) -> int:
        """Bytes that all layers read and write in one run."""
        return sum(layer.bytes_moved for layer in self.layers)

    def layers_by_precision(self) -> dict[str, int]:
        """Count the layers that run in each precision."""
        return dict(sorted(Counter(layer.precision for layer in self.layers).items()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the card as JSON, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        with atomic_path(path) as temporary:
            text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EngineCard:
        """Read a card.

        Raises:
            EngineError: there is none, or it is damaged or of a newer mirnet-edge.
        """
        path, again = Path(path), "build the engine again"
        try:
            stored = read_json(path)
        except FileNotFoundError as error:
            raise EngineError(f"{path}: no such file") from error
        except (OSError, ValueError) as error:
            raise EngineError(f"{path}: no engine card ({error}); {again}") from error
        # Before all else: what another format holds may be called the same and mean another.
        version = stored.get("format") if isinstance(stored, dict) else None
        if type(version) is int and version != CARD_FORMAT:
            raise EngineError(
                f"{path}: a card of format {version}, this mirnet-edge reads format "
                f"{CARD_FORMAT}; {again}"
            )
        try:
            # Those of other releases may hold facts that this one has no use for.
            facts = ModelFacts.known(stored["facts"])
            card = dataclass_of(cls, {**stored, "facts": facts})
            card.check()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{path}: not a whole engine card ({error}); {again}") from error
        return card

    def check(self) -> None:
        """Raise ValueError where what is used of a card cannot be used."""
        if self.format != CARD_FORMAT:
            raise ValueError(f"format is {self.format}")
        if not self.inputs or not self.outputs:
            raise ValueError("it has no inputs or no outputs")
        for tensor in (*self.inputs, *self.outputs):
            if tensor.dtype not in DTYPES or min(tensor.shape, default=1) < 1:
                raise ValueError(f"tensor {tensor.name!r:.40} is {tensor.dtype!r} {tensor.shape}")
        counts = (self.engine_bytes, self.activation_bytes, *self.tile, self.batch)
        if min(counts) < 0 or 0 in (*self.tile, self.batch):
            raise ValueError(f"its sizes are {counts}")
        if self.measured and not min(self.measured.enqueue_ms, self.measured.graph_ms) > 0:
            raise ValueError(f"it was measured to take {self.measured.graph_ms} ms")
        for told, names in (
            (self.device, ("name", "compute_capability")),
            (self.versions, ("tensorrt", "cuda")),
        ):
            if missing := [name for name in names if name not in told]:
                raise ValueError(f"{missing[0]} is missing")


def card_path(engine: str | os.PathLike[str]) -> Path:
    """Tell where the card of ``engine`` lies: ``x.engine.json`` beside ``x.engine``."""
    engine = Path(engine)
    return engine.with_name(engine.name + ".json")


def kind_path(engine: str | os.PathLike[str], kind: Kind) -> Path:
    """Tell where the engine of another kind lies: ``x.apply.engine`` beside ``x.engine``."""
    engine = Path(engine)
    return engine if kind == "plain" else engine.with_suffix(f".{kind}{engine.suffix}")
