"""PyTorch to ONNX, proved equal before the file is kept."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mirnet_edge._files import atomic_path, require_new
from mirnet_edge._imports import require
from mirnet_edge.engines.onnx_engine import OnnxEngine
from mirnet_edge.errors import EngineError, ExportError, OutputError, first_line
from mirnet_edge.facts import ModelFacts, SizeRule
from mirnet_edge.graph.cost import peak_activation_bytes
from mirnet_edge.graph.file import save_graph
from mirnet_edge.graph.half_weights import store_half
from mirnet_edge.graph.rewrite import PassReport
from mirnet_edge.graph.rewrite import rewrite as rewritten
from mirnet_edge.graph.rewrite.edit import ASSUMED_PX
from mirnet_edge.model.checkpoints import facts_of
from mirnet_edge.model.config import task_of
from mirnet_edge.model.layers import Network

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)
OPSETS = (17, 18)
IR_VERSION = 8  # of opset 17; newer ones shut out older runtimes for nothing
TOLERANCE = 1e-4
CHECK_SIZES = ((24, 40), (36, 100), (68, 44))
"""None a square, and with odd multiples of 4 among them, or of 8, 12 and 16 where a network needs
those and they are padded: swapped axes and wrong rounding show."""
CHECK_LEVEL = 0.5
"""What the plane of a noise level tells on these inputs."""


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path, facts, size_bytes: of the file.
        opset, nodes: of the graph.
        error: largest difference from PyTorch over the checked inputs, as a fraction of the
            output's range.
        seconds: the whole export took.
        passes: what each rewrite changed (see `mirnet_edge.graph.rewrite`); the first entry is the
            graph before them.
    """

    path: Path
    facts: ModelFacts
    opset: int
    nodes: int
    size_bytes: int
    error: float
    seconds: float
    passes: tuple[PassReport, ...] = ()


def export_onnx(
    model: Network,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    opset: int = 17,
    task: str | None = None,
    rewrite: bool = True,
    half_weights: bool = False,
    overwrite: bool = True,
) -> ExportReport:
    """Write a network as an ONNX file that any engine of the package runs.

    The graph is simplified by onnxsim, made cheaper by exact rewrites
    (`mirnet_edge.graph.rewrite`), then run by ONNX Runtime on three inputs and compared with
    PyTorch, before the file is moved into place. It has one input ``input`` (1, in, H, W), of which
    the last plane tells the noise level where the network takes one, and one output ``output``
    (1, out, H, W), float32, values in [0, 1], the output not clamped.

    Args:
        model: from `load_model` or `create_model`.
        size: (height, width) of the input, multiples of the network's; None leaves them open.
        opset: 17 or 18. TensorRT 8.6 reads 17.
        task: what the network restores, where its facts do not say
            (`mirnet_edge.model.config.TASKS`).
        rewrite: False keeps the graph as PyTorch's exporter and onnxsim made it.
        half_weights: round the weights to half precision and store them so: half the bytes, for a
            graph that computes in float32 as before. What PyTorch computes with the rounded weights
            is what it is compared with.

    Raises:
        ConfigError: there is no such task, or the facts know another.
        ExportError: a size or opset that cannot be; the exporter failed; or the graph differs from
            PyTorch by more than 1e-4 of the output's range.
        GraphError: a shape in the exported graph cannot be inferred.
        OutputError: the file exists and ``overwrite`` is False, or cannot be written.
    """
    started = time.monotonic()
    path, task = Path(path), task_of(model.facts.task, said=task)
    scale = model.facts.scale
    model = copy.deepcopy(model).eval().cpu()
    if half_weights:
        model = model.half().float()
    facts = facts_of(model, task, scale)
    _check_arguments(facts.size_rule, path, size, opset)
    require_new(path, overwrite)
    traced = copy.deepcopy(model)
    _fold_blocks(traced)
    proto = _simplified(_traced(traced, size))
    _describe(proto, facts, size)  # passes ask the graph which sizes it takes
    proto, passes = rewritten(proto) if rewrite else (proto, [])
    proto = _checked(proto, opset)
    height, width = size or (facts.size_rule.padded(ASSUMED_PX),) * 2
    peak_bytes = peak_activation_bytes(proto, height, width)
    facts = replace(facts, bytes_per_pixel=round(peak_bytes / (height * width)))
    _describe(proto, facts, size)
    nodes = len(proto.graph.node)
    log.info("%s: %d nodes, %d bytes a pixel at most", path, nodes, facts.bytes_per_pixel)
    if half_weights:
        store_half(proto)
    with atomic_path(path) as temporary:
        save_graph(proto, temporary)
        error = _difference(model, temporary, size)
    return ExportReport(
        path=path,
        facts=facts,
        opset=opset,
        nodes=nodes,
        size_bytes=path.stat().st_size,
        error=error,
        seconds=time.monotonic() - started,
        passes=tuple(passes),
    )


def _check_arguments(rule: SizeRule, path: Path, size: tuple[int, int] | None, opset: int) -> None:
    if path.suffix.lower() != ".onnx":
        raise ExportError(f"{path}: the name must end in .onnx")
    if not path.parent.is_dir():  # before minutes of tracing
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}; create it")
    if opset not in OPSETS:
        raise ExportError(f"opset={opset}: need one of {OPSETS}")
    if size and not rule.allows(*size):
        raise ExportError(f"size={size}: height and width must be {rule}")


def _fold_blocks(model: Network) -> None:
    """Let the first convolution read the frame itself instead of its blocks of pixels, in place: of
    kernel 3 s and stride s, with the same weights in the order of the pixels.

    Exact. As the exporter writes it, the pixel unshuffle is a chain of nodes in six dimensions.
    ONNX Runtime 1.32 took 3.0 ms for this convolution on one core, and 3.6 ms for a SpaceToDepth
    and the small one (4 planes of 512x512, s = 2, 32 features).
    """
    side, small = model.config.shuffle, model.conv_in
    if side == 1:
        return
    weight = torch.nn.functional.pixel_shuffle(small.weight.detach(), side)
    planes, features = model.config.in_planes, small.out_channels
    folded = torch.nn.Conv2d(planes, features, 3 * side, side, padding=side, bias=False)
    folded.weight = torch.nn.Parameter(weight)
    model.unshuffle, model.conv_in = torch.nn.Identity(), folded


def _traced(model: Network, size: tuple[int, int] | None) -> onnx.ModelProto:
    """The graph as torch's exporter writes it, in opset 18, the oldest that it knows."""
    require("onnxscript", "exporting to ONNX")  # torch's own message names no extra of ours
    config = model.config
    height, width = size or (8 * config.size_multiple, 10 * config.size_multiple)
    example = torch.rand(1, config.in_planes, height, width)
    least = max(config.min_size_px // config.size_multiple, 2)  # 0 and 1 would become constants
    open_sizes = {
        axis: config.size_multiple * torch.export.Dim(name, min=least, max=1 << 14)
        for axis, name in ((2, "rows"), (3, "columns"))
    }
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                dynamic_shapes=None if size else (open_sizes,),
                input_names=["input"],
                output_names=["output"],
                opset_version=18,
                verbose=False,
            )
        except (RuntimeError, torch.onnx.OnnxExporterError) as error:
            raise ExportError(
                f"torch {torch.__version__} could not export this network: {error}"
            ) from error
    proto: onnx.ModelProto = program.model_proto  # type: ignore[union-attr]  # None without dynamo
    return proto


def _simplified(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Constants folded, in opset 17."""
    onnxsim = require("onnxsim", "exporting to ONNX")
    simplified: onnx.ModelProto
    try:
        simplified, same = onnxsim.simplify(proto)
    except Exception as error:
        raise ExportError(f"onnxsim {onnxsim.__version__} failed: {error}") from error
    if not same:
        raise ExportError("onnxsim changed what the graph computes; please report this network")
    _lower_to_17(simplified)
    _tell_kernels(simplified)
    simplified.ir_version = IR_VERSION
    return simplified


def _tell_kernels(proto: onnx.ModelProto) -> None:
    """Say the kernel size of each convolution, in place: rewrites go by it. ONNX leaves it to the
    weight, and so do some versions of the exporter (onnxscript 0.6 with onnx-ir 0.1.16)."""
    onnx = require("onnx", "exporting to ONNX")
    sizes = {tensor.name: list(tensor.dims[2:]) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose") or node.input[1] not in sizes:
            continue
        if not any(item.name == "kernel_shape" for item in node.attribute):
            size = sizes[node.input[1]]
            node.attribute.append(onnx.helper.make_attribute("kernel_shape", size))


def _checked(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Raised to ``opset`` and checked."""
    onnx = require("onnx", "exporting to ONNX")
    try:
        if opset != OPSETS[0]:
            proto = onnx.version_converter.convert_version(proto, opset)
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        raise ExportError(f"the exported graph is no valid ONNX: {first_line(error)}") from error
    return proto


def _lower_to_17(proto: onnx.ModelProto) -> None:
    """Say in opset 17 what an opset 18 graph says, in place.

    Of the operators of both networks, opset 18 changed the reductions (axes became an input),
    Resize, Pad and Split (options that these graphs leave at their defaults). onnx's own converter
    has no way down for Pad.
    """
    onnx = require("onnx", "exporting to ONNX")
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    newer = {"noop_with_empty_axes", "antialias", "keep_aspect_ratio_policy", "num_outputs"}
    for node in proto.graph.node:
        kept = [item for item in node.attribute if item.name not in newer]
        if node.op_type.startswith("Reduce") and len(node.input) == 2:
            axes = onnx.numpy_helper.to_array(constants[node.input.pop()])
            kept.append(onnx.helper.make_attribute("axes", axes.tolist()))
        del node.attribute[:]
        node.attribute.extend(kept)
    used = {name for node in proto.graph.node for name in node.input}
    for tensor in constants.values():
        if tensor.name not in used:
            proto.graph.initializer.remove(tensor)
    proto.opset_import[0].version = 17


def _describe(proto: onnx.ModelProto, facts: ModelFacts, size: tuple[int, int] | None) -> None:
    if size is None:
        for value in (proto.graph.input[0], proto.graph.output[0]):
            dims = value.type.tensor_type.shape.dim
            dims[2].dim_param, dims[3].dim_param = "height", "width"
    proto.producer_name, proto.producer_version = "mirnet_edge", facts.version
    del proto.metadata_props[:]
    for key, text in facts.to_metadata().items():
        proto.metadata_props.add(key=key, value=text)


def _difference(model: Network, path: Path, size: tuple[int, int] | None) -> float:
    """Largest relative difference between PyTorch and ONNX Runtime over three inputs, at most
    `TOLERANCE`."""
    worst = 0.0
    random = np.random.Generator(np.random.PCG64(0))
    engine = OnnxEngine(path, provider="CPUExecutionProvider")
    for sides in (size,) * 3 if size else CHECK_SIZES:
        height, width = map(engine.facts.size_rule.padded, sides)
        tiles = random.random((1, engine.facts.in_planes, height, width), np.float32)
        tiles[:, engine.facts.in_channels :] = CHECK_LEVEL
        with torch.inference_mode():
            expected = model(torch.from_numpy(tiles)).numpy()
        try:
            found = engine.run(tiles)
        except EngineError as error:
            raise ExportError(f"the exported graph does not run: {error}") from error
        difference = float(np.abs(found - expected).max() / np.ptp(expected))
        if not difference <= TOLERANCE:
            raise ExportError(
                f"the exported graph differs from PyTorch by {difference:.2e} of the output's "
                f"range on a {height}x{width} input; at most {TOLERANCE:.0e} is accepted. Nothing "
                "was written."
            )
        worst = max(worst, difference)
    return worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on packages that we do not use off the user's screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
