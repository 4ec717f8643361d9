"""What must hold of an engine before it is kept: its precision, and what INT8 is worth."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from mirnet_edge.engines.card import LayerFacts, Measured
from mirnet_edge.errors import BuildError
from mirnet_edge.quantize.sensitivity import ASSUMED_PSNR_DB
from mirnet_edge.trt.layer_info import UNKNOWN, convolutions, nodes_of

NAMED = 3
# What counts as the precision that was asked for.
NARROW = {"fp16": ("FP16", "INT8"), "int8": ("INT8",), "fp32": ("FP32",)}


def prove_precision(
    layers: Iterable[LayerFacts],
    precision: str,
    islands: Collection[str] = (),
    quantized: Collection[str] = (),
) -> list[str]:
    """Look for convolutions that run wider than they were asked to, and note them: TensorRT takes
    precision flags as a wish, and can build all in FP32 without a word. ``islands`` are nodes that
    were asked to compute in FP32, ``quantized`` those in INT8.

    Raises:
        BuildError: not one convolution got the precision.
    """
    found = [layer for layer in convolutions(layers) if layer.precision != UNKNOWN]
    if not found:
        return ["TensorRT does not tell the precision of its convolutions"]
    asked = found
    if precision == "int8":
        asked = [layer for layer in found if set(nodes_of(layer)) & set(quantized)]
    elif precision == "fp16":
        asked = [layer for layer in found if not set(nodes_of(layer)) & set(islands)]
    wider = [layer for layer in asked if layer.precision not in NARROW[precision]]
    if asked and len(wider) == len(asked):
        got = ", ".join(sorted({layer.precision for layer in wider}))
        raise BuildError(
            f"asked for {precision.upper()}, but TensorRT built all {len(asked)} convolutions in "
            f"{got}: {_some(wider)}. Another optimization level or a newer TensorRT may do better"
        )
    if not wider:
        return []
    return [
        f"{len(wider)} of {len(asked)} convolutions asked for {precision.upper()} run wider: "
        f"{_some(wider)}"
    ]


def _some(layers: list[LayerFacts]) -> str:
    names = ", ".join(f"{layer.name} ({layer.precision})" for layer in layers[:NAMED])
    return names + (f" and {len(layers) - NAMED} more" if len(layers) > NAMED else "")


def reasons_against_int8(measured: Measured | None, budget_db: float) -> list[str]:
    """Say why an INT8 engine is not worth keeping; nothing where it is.

    Where there were no clean tiles to lose PSNR on, its error on the worst tile is taken to add to
    that of a restoration of 32 dB, as in `sensitivity.Judge`.
    """
    if measured is None or measured.fp16_graph_ms is None:
        return ["neither its speed nor its accuracy could be measured"]
    reasons = []
    if measured.graph_ms >= measured.fp16_graph_ms:
        reasons.append(
            f"it is not faster than FP16 on this GPU ({measured.graph_ms:.3f} ms, FP16 "
            f"{measured.fp16_graph_ms:.3f} ms)"
        )
    loss = measured.task_loss_db
    if loss is None and measured.psnr_vs_fp32_db is not None:
        loss = 10 * math.log10(1 + 10 ** ((ASSUMED_PSNR_DB - measured.psnr_vs_fp32_db) / 10))
    if loss is not None and loss > budget_db:
        reasons.append(
            f"it loses {loss:.3f} dB on the calibration tiles, more than the budget of "
            f"{budget_db:g} dB"
        )
    return reasons
