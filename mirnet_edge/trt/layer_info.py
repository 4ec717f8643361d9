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
from contextlib import suppress

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
_DESCRIPTIONS = ("Format/Datatype", "Datatype", "DataType", "Type", "Format")
_NUMBERS = {"two": 2, "four": 4, "eight": 8, "sixteen": 16, "thirty-two": 32}
MOVES_NOTHING = {"noop", "constant", "shapecall", "shape_call", "signal", "wait"}
"""Layer types, in lower case, that are views, stored values or markers."""
COPIES = {"reformat", "noop", "constant", "shuffle", "slice", "concat", "copy", "move", "scale"}
"""Layer types, in lower case, whose names may hold a convolution's although they are none."""


def read_layers(text: str) -> tuple[LayerFacts, ...]:
    """Read the layers, in the order they run, of what ``EngineInspector.get_engine_information``
    gives as JSON; none where it is no such JSON."""
    # TensorRT prints NaN and infinity as no JSON has them.
    for candidate in (text, re.sub(r"(?<=[:\[,])\s*-?(nan|inf)\b", " null", text)):
        with suppress(ValueError):
            described = json.loads(candidate, strict=False)
            layers = described.get("Layers") if isinstance(described, dict) else None
            return tuple(map(_layer, layers)) if isinstance(layers, list) else ()
    return ()


def convolutions(layers: Iterable[LayerFacts]) -> list[LayerFacts]:
    """Choose those that convolve or multiply matrices, as far as their type or name tells."""
    found = []
    for layer in layers:
        kind = layer.kind.lower()
        convolves = re.search(r"conv|gemm|matmul|matrixmultiply", kind)
        named = "Conv" in layer.name and not re.search(r"pool|plugin", kind)
        if (convolves or named) and kind not in COPIES and "pointwise" not in kind:
            found.append(layer)
    return found


def nodes_of(layer: LayerFacts) -> list[str]:
    """Split a layer's name into those of the ONNX nodes that it was fused of, and whatever else
    TensorRT writes beside them."""
    # It joins them by " + " or as arguments.
    return [name for name in re.split(r"[^\w./:-]+", layer.name) if name]


def _layer(described: object) -> LayerFacts:
    if not isinstance(described, dict):  # with less verbosity a layer is its name
        return LayerFacts(str(described), "", UNKNOWN, 0)
    kind = str(described.get("LayerType", ""))
    inputs, outputs = _tensors(described.get("Inputs")), _tensors(described.get("Outputs"))
    weights = described.get("Weights")
    of_weights = _type(str(weights.get("Type")))[0] if isinstance(weights, dict) else UNKNOWN
    precisions = [of_weights, *(precision for precision, _ in (*inputs, *outputs))]
    if of_weights != UNKNOWN and inputs and inputs[0][0] == "INT8":
        precisions = ["INT8"]  # whatever its weights are listed as
    still = kind.lower() in MOVES_NOTHING
    return LayerFacts(
        name=str(described.get("Name", "")),
        kind=kind,
        precision=next((name for name in precisions if name != UNKNOWN), UNKNOWN),
        bytes_moved=0 if still else sum(size_bytes for _, size_bytes in (*inputs, *outputs)),
        tactic=str(described.get("TacticName", "")),
    )


def _tensors(listed: object) -> list[tuple[str, int]]:
    """Precision and bytes of each tensor, with the channels that its layout pads it to."""
    tensors = []
    for item in listed if isinstance(listed, list) else ():
        if not isinstance(item, dict):
            continue
        texts = [text for key in _DESCRIPTIONS if isinstance(text := item.get(key), str)]
        text = next((text for text in texts if _type(text)[0] != UNKNOWN), "")
        precision, value_bytes = _type(text)
        dims = item.get("Dimensions")
        if not isinstance(dims, list) or not all(isinstance(d, int) and d >= 0 for d in dims):
            dims = [0]
        if len(dims) >= 3:
            multiple = _channel_multiple(text)
            dims = [*dims[:-3], -(-dims[-3] // multiple) * multiple, *dims[-2:]]
        tensors.append((precision, math.ceil(math.prod(dims) * value_bytes)))
    return tensors


def _type(text: str) -> tuple[str, float]:
    """Precision and bytes of a value in a description of a tensor or of weights."""
    for words, name, size in _TYPES:
        if re.search(rf"\b({words})\b", text, re.IGNORECASE):
            return name, size
    return UNKNOWN, 0.0


def _channel_multiple(description: str) -> int:
    """Read what the layout rounds the number of channels up to."""
    found = re.search(
        r"([\w-]+) wide channel|channel % (\d+) == 0|channel == (\d+)", description, re.IGNORECASE
    )
    wide, multiple, exact = found.groups() if found else ("", "1", "")
    return _NUMBERS.get(wide.lower(), 1) if wide else max(int(multiple or exact), 1)
