"""What a model becomes in a Triton server: its tile graph or plan as the server's own backends run
it, its files as `Restorer` opens them, and what a user should know of both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mirnet_edge._imports import require
from mirnet_edge.bundled import bundled_model
from mirnet_edge.cuda.driver import start_driver
from mirnet_edge.engine_choice import CHECKPOINT_SUFFIXES, PLAN_SUFFIXES
from mirnet_edge.engines.card import BESIDE, EngineCard, card_path, kind_path
from mirnet_edge.errors import ConfigError, DeviceError, EngineError, GraphError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.graph.file import dims_of, load_graph, read_facts, save_graph, with_shape
from mirnet_edge.graph.precision import typed_graph
from mirnet_edge.trt.plan import read_plan

if TYPE_CHECKING:
    from onnx import ModelProto

Backend = Literal["onnxruntime", "tensorrt"]
TilePrecision = Literal["fp32", "fp16"]
Io = Literal["float32", "float16"]
Content = bytes | Path
TYPED_PX = 1024
"""Height and width for which a graph of open size is typed: of larger maps no other sums would be
kept in FP32, and of smaller ones none would be needed that is not."""
OPEN_BATCH = 2
"""Any batch but 1, which with_shape would leave as it is."""


@dataclass(frozen=True)
class Tensor:
    """An input or output: all its dimensions, -1 where one is open; dtype as numpy spells it."""

    name: str
    dims: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Tiles:
    """A network without what `Restorer` does around it, for a backend of the server.

    Attributes:
        file: its name in the folder of a version.
        takes_batches: whether it takes any number of tiles at once.
    """

    backend: Backend
    file: str
    content: Content
    given: Tensor
    restored: Tensor
    takes_batches: bool


@dataclass(frozen=True)
class Source:
    """One model.

    Attributes:
        told: what it was called.
        fixed_size: (height, width) of the only tile that it takes, or None.
        files: what `Restorer` opens, by name; the first is the model.
        tiles: None where they were not asked for.
        is_plan: whether it needs a GPU.
        notes: what a user should know.
    """

    told: str
    facts: ModelFacts
    fixed_size: tuple[int, int] | None
    files: dict[str, Content]
    tiles: Tiles | None
    is_plan: bool = False
    notes: tuple[str, ...] = field(default=())


def read_source(
    model: str, tiles: bool = True, precision: TilePrecision = "fp32", io: Io = "float32"
) -> Source:
    """Read a model file, or a bundled model.

    Args:
        tiles: make its tile graph too.
        precision: of that graph, where the model is one in FP32; a plan has its own.
        io: of that graph's input and output, with "fp16".

    Raises:
        ConfigError: no model, or none that a server takes.
        GraphError, EngineError: it cannot be read, or not be had in that precision.
        MissingDependencyError: reading graphs needs the package onnx.
    """
    bundled = bundled_model(model)
    path = bundled.onnx if bundled else Path(model)
    if not path.is_file():
        raise ConfigError(
            f"{model:.300}: no such file, and no bundled model of that name (mirnet-edge models "
            "lists them)"
        )
    suffix = path.suffix.lower()
    if suffix in PLAN_SUFFIXES:
        return _plan_source(path, tiles)
    if suffix != ".onnx":
        way = "; mirnet-edge export makes an .onnx of it" if suffix in CHECKPOINT_SUFFIXES else ""
        raise ConfigError(f"{model:.300}: a server takes .onnx and .engine files{way}")
    proto = load_graph(path)
    shape = dims_of(proto.graph.input[0])
    if len(shape) != 4 or len(proto.graph.input) != 1 or len(proto.graph.output) != 1:
        raise GraphError(f"{path}: needs one (N, C, H, W) input and one output")
    fixed = (shape[2], shape[3]) if all(shape[2:]) else None
    made, notes = _tile_graph(proto, fixed, precision, io) if tiles else (None, ())
    return Source(model, read_facts(proto), fixed, {"model.onnx": path}, made, notes=notes)


def _tile_graph(
    proto: ModelProto, fixed: tuple[int, int] | None, precision: TilePrecision, io: Io
) -> tuple[Tiles, tuple[str, ...]]:
    """The graph opened to batches where that keeps its tiles apart; and why it is not."""
    side = read_facts(proto).size_rule.padded(TYPED_PX)
    size, takes_batches = fixed or (side, side), True
    notes: tuple[str, ...] = ()
    own_batch = dims_of(proto.graph.input[0])[0] or 1
    try:
        sized = with_shape(proto, OPEN_BATCH * own_batch, *size)
    except GraphError as error:
        takes_batches, notes = False, (f"tiles go one by one: {error}",)
        sized = with_shape(proto, own_batch, *size)
    # Typed by the shapes that it has here; those that are open lose them again.
    if precision == "fp16":
        sized = typed_graph(sized, "fp16", strongly_typed=True, io=io)
    del sized.graph.value_info[:]
    ends: list[Tensor] = []
    for value in (sized.graph.input[0], sized.graph.output[0]):
        dims = value.type.tensor_type.shape.dim
        if takes_batches:
            dims[0].dim_param = "batch"
        if fixed is None:
            dims[2].dim_param, dims[3].dim_param = "height", "width"
        found = tuple(dim.dim_value or -1 for dim in dims)
        ends.append(Tensor(value.name, found, io if precision == "fp16" else "float32"))
    require("onnx", "checking graphs").checker.check_model(sized)
    content = _sealed(sized)
    return Tiles("onnxruntime", "model.onnx", content, ends[0], ends[1], takes_batches), notes


def _sealed(proto: ModelProto) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save_graph(proto, Path(folder) / "model.onnx")
        return (Path(folder) / "model.onnx").read_bytes()


def _plan_source(path: Path, tiles: bool) -> Source:
    """Of an engine, which its card must vouch for."""
    _, plan, card = read_plan(path, trust=False)
    if card is None:
        raise EngineError(f"{path}: its card is missing; build the engine again")
    if card.kind != "plain":
        raise ConfigError(
            f"{path} is an engine of kind {card.kind!r}, which restores with statistics that it is "
            "given; name the engine beside it, whose name has no such word"
        )
    files: dict[str, Content] = {"model.engine": plan, "model.engine.json": card_path(path)}
    for kind in BESIDE:
        beside = kind_path(path, kind)
        if beside.is_file() and card_path(beside).is_file():
            name = kind_path("model.engine", kind)
            files |= {name.name: beside, card_path(name).name: card_path(beside)}
    made = None
    if tiles:
        given, restored = (
            Tensor(tensors[0].name, tensors[0].shape, tensors[0].dtype)
            for tensors in (card.inputs, card.outputs)
        )
        made = Tiles("tensorrt", "model.plan", plan, given, restored, takes_batches=False)
    return Source(
        str(path), card.facts, card.tile, files, made, is_plan=True, notes=tuple(_plan_notes(card))
    )


def _plan_notes(card: EngineCard) -> Iterator[str]:
    tensorrt, device = card.versions["tensorrt"], card.device
    name, capability = device["name"], device["compute_capability"]
    here = _gpu_here()
    elsewhere = (
        "" if here == (name, capability) else f", and here is {here[0] if here else 'no GPU'}"
    )
    yield (
        f"the engine was built with TensorRT {tensorrt} on {name} (compute capability "
        f"{capability}){elsewhere}: the server needs such a GPU, and a release of Triton with that "
        "TensorRT"
    )
    if card.options.get("plugins"):
        yield (
            "the engine uses plugins: Triton must load their library, by LD_PRELOAD or "
            "--backend-config=tensorrt,plugins=FILE"
        )
    if card.batch > 1:
        yield f"the engine takes {card.batch} tiles a run, neither more nor fewer"


def _gpu_here() -> tuple[str, str] | None:
    try:
        driver = start_driver()
        if driver is None or not driver.device_count():
            return None
        facts = driver.facts(0)
    except DeviceError:
        return None
    return facts.name, ".".join(map(str, facts.compute_capability))
