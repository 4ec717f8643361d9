"""What TensorRT says of the layers it built, read into `LayerFacts`.

The engine inspector's JSON differs between releases: 8.6 describes a tensor as "Channel major FP16
format where channel % 8 == 0", 10 and 11 often by its type alone ("Half"). Whatever is not
understood counts as unknown; nothing here raises for it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from mirnet_edge.engines.card import LayerFacts

UNKNOWN = "unknown"
_TYPES = (
    # words of the description, precision, bytes of a value
    (r"int8", "INT8", 1.0),
    (r"uint8", "UINT8", 1.0),
    (r"fp8|float8\w*|e4m3\w*", "FP8", 1.0),
    (r"fp16|half|float16", "FP16", 2.0),
    (r"bf16|bfloat16", "BF16", 2.0),
    (r"fp32|float|float32", "FP32", 4.0),
    (r"int32", "INT32", 4.0),
    (r"int64", "INT64", 8.0),
    (r"bool", "BOOL", 1.0),
    (r"int4", "INT4", 0.5),
    (r"fp4", "FP4", 0.5),
)
_NUMBERS = {"two": 2, "four": 4, "eight": 8, "sixteen": 16, "thirty-two": 32}
MOVES_NOTHING = {"noop", "constant", "shapecall", "shape_call", "signal", "wait"}
"""Layer types, in lower case, that are views, stored values or markers."""
COPIES = {"reformat", "noop", "constant", "shuffle", "slice", "concat", "copy", "move", "scale"}
"""Layer types, in lower case, whose names may hold a convolution's although they are none."""


def read_layers(text: str) -> tuple[LayerFacts, ...]:
    """The layers in the JSON of ``EngineInspector.get_engine_information``, in the order they run;
    none where it is no such JSON."""
    described = _parsed(text)
    layers = described.get("Layers") if isinstance(described, dict) else None
    return tuple(map(_layer, layers)) if isinstance(layers, list) else ()


def convolutions(layers: Iterable[LayerFacts]) -> list[LayerFacts]:
    """Those that convolve or multiply matrices, as far as their type or name tells."""
    return [layer for layer in layers if _convolves(layer)]


def _parsed(text: str) -> Any:
    for candidate in (text, re.sub(r"(?<=[:\[,])\s*-?(nan|inf)\b", " null", text)):
        try:
            return json.loads(candidate, strict=False)
        except ValueError:
            continue
    return None


def _layer(described: Any) -> LayerFacts:
    if not isinstance(described, dict):  # with less verbosity a layer is its name
        return LayerFacts(str(described), "", UNKNOWN, 0)
    kind = str(described.get("LayerType", ""))
    inputs, outputs = _tensors(described, "Inputs"), _tensors(described, "Outputs")
    still = kind.lower() in MOVES_NOTHING
    return LayerFacts(
        name=str(described.get("Name", "")),
        kind=kind,
        precision=_precision(described, inputs, outputs),
        bytes_moved=0 if still else sum(map(_tensor_bytes, (*inputs, *outputs))),
        tactic=str(described.get("TacticName", "")),
    )


def _tensors(described: dict[str, Any], key: str) -> list[dict[str, Any]]:
    listed = described.get(key)
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _precision(
    described: dict[str, Any], inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]
) -> str:
    """INT8 where an input of a layer with weights is; else the type of the weights, of the first
    input, or of the first output."""
    of_inputs = [_type(_description(tensor))[0] for tensor in inputs]
    weights = described.get("Weights")
    kind = weights.get("Type") if isinstance(weights, dict) else None
    of_weights = _type(str(kind))[0] if kind else UNKNOWN
    if of_weights != UNKNOWN and "INT8" in of_inputs[:1]:
        return "INT8"
    of_outputs = [_type(_description(tensor))[0] for tensor in outputs]
    known = (name for name in (of_weights, *of_inputs, *of_outputs) if name != UNKNOWN)
    return next(known, UNKNOWN)


def _tensor_bytes(tensor: dict[str, Any]) -> int:
    """Of one tensor, with the channels its layout pads it to."""
    dims = tensor.get("Dimensions")
    if not isinstance(dims, list) or not all(isinstance(dim, int) and dim >= 0 for dim in dims):
        return 0
    description = _description(tensor)
    padded = list(dims)
    if len(padded) >= 3:
        multiple = _channel_multiple(description)
        padded[-3] = -(-padded[-3] // multiple) * multiple
    values: int = math.prod(padded)
    return math.ceil(values * _type(description)[1])


def _description(tensor: dict[str, Any]) -> str:
    for key in ("Format/Datatype", "Datatype", "DataType", "Type", "Format"):
        text = tensor.get(key)
        if isinstance(text, str) and _type(text)[0] != UNKNOWN:
            return text
    return ""


def _type(text: str) -> tuple[str, float]:
    """Precision and bytes of a value in a description of a tensor or of weights."""
    for words, name, size in _TYPES:
        if re.search(rf"\b({words})\b", text, re.IGNORECASE):
            return name, size
    return UNKNOWN, 0.0


def _channel_multiple(description: str) -> int:
    """What the layout rounds the number of channels up to."""
    wide = re.search(r"([\w-]+) wide channel", description, re.IGNORECASE)
    if wide:
        return _NUMBERS.get(wide[1].lower(), 1)
    multiple = re.search(r"channel % (\d+) == 0", description) or re.search(
        r"channel == (\d+)", description
    )
    return max(int(multiple[1]), 1) if multiple else 1


def _convolves(layer: LayerFacts) -> bool:
    kind = layer.kind.lower()
    if kind in COPIES or "pointwise" in kind:
        return False
    return bool(re.search(r"conv|gemm|matmul|matrixmultiply", kind)) or (
        "pool" not in kind and "Conv" in layer.name
    )
