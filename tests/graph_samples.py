"""Small graphs with one of everything that precision and quantization decide about."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser

from mirnet_edge.graph.file import graph_sha256
from mirnet_edge.quantize.ranges import Ranges, TensorRange

SHAPES = {
    "w.first": (16, 3, 3, 3),
    "w.one": (16, 16, 3, 3),
    "w.shared": (16, 16, 3, 3),
    "w.padded": (16, 16, 3, 3),
    "w.mask": (1, 16, 1, 1),
    "w.gate": (16, 16, 1, 1),
    "w.up": (16, 24, 3, 3),
    "w.down": (16, 24, 3, 3),
    "w.last": (3, 16, 3, 3),
    "b.one": (16,),
}

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
network (float[1,3,20,28] input) => (float[1,3,20,28] output)
<int64[8] pads = {0,0,1,1,0,0,1,1}>
{
  [first] start = Conv <pads = [1,1,1,1]> (input, "w.first")
  [start] a = LeakyRelu <alpha = 0.2> (start)
  [one] b = Conv <pads = [1,1,1,1]> (a, "w.one", "b.one")
  [leaky] c = LeakyRelu <alpha = 0.2> (b)
  [two] d = Conv <pads = [1,1,1,1]> (c, "w.shared")
  [residual] e = Add (d, a)
  [pad] p = Pad <mode = "reflect"> (e, pads)
  [padded] f = Conv (p, "w.padded")
  [mask] m = Conv (e, "w.mask")
  [spatial] s = Sigmoid (m)
  [masked] g = Mul (f, s)
  [pool] h = ReduceMean <axes = [2,3], keepdims = 1> (g)
  [gate] i = Conv (h, "w.gate")
  [channel] j = Sigmoid (i)
  [gated] k = Mul (g, j)
  [up] l = ConvTranspose <strides = [2,2], pads = [1,1,1,1], output_padding = [1,1]> (k, "w.up")
  [down] lower = Conv <strides = [2,2], pads = [1,1,1,1]> (l, "w.down")
  [lower] n = LeakyRelu <alpha = 0.2> (lower)
  [three] o = Conv <pads = [1,1,1,1]> (n, "w.shared")
  [side] q = Conv <pads = [1,1,1,1]> (n, "w.one")
  [sum] r = Add (o, q)
  [last] t = Conv <pads = [1,1,1,1]> (r, "w.last")
  [skip] output = Add (t, input)
}
"""
"""A first and a last convolution, a biased one, two passes of one weight, a padded one, a mask, a
gate on 1x1, a transposed one and a strided one. Sides of 20 and 28 pixels."""

QUANTIZABLE = ["one", "two", "up", "down", "three", "side"]


def parsed(text: str, seed: int = 0, **shapes: tuple[int, ...]) -> Any:
    """A model from onnx's text form, shapes inferred; its free names are random constants."""
    quoted = {name: name.replace(".", "_") for name in SHAPES}
    for name, plain in quoted.items():
        text = text.replace(f'"{name}"', plain)
    proto = parser.parse_model(text)
    shapes = {**{quoted[name]: shape for name, shape in SHAPES.items()}, **shapes}
    random = np.random.Generator(np.random.PCG64(seed))
    used = {name for node in proto.graph.node for name in node.input}
    for name, shape in shapes.items():
        if name in used:
            values = random.standard_normal(shape, np.float32) / np.sqrt(np.prod(shape[1:]) or 1)
            proto.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    onnx.checker.check_model(inferred, full_check=True)
    return inferred


def network(seed: int = 0) -> Any:
    """`NETWORK` with random weights."""
    return parsed(NETWORK, seed)


def ranges_of(proto: Any, amax: float = 2.0) -> Ranges:
    """Ranges for every tensor of a graph, the n-th of them ``amax + n / 100``."""
    names = [
        proto.graph.input[0].name,
        *(name for node in proto.graph.node for name in node.output),
    ]
    tensors = {
        name: TensorRange(amax + index / 100, -amax, amax) for index, name in enumerate(names)
    }
    return Ranges(graph_sha256(proto), "minmax", tensors, "0" * 64, 1)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Of the extent of what is expected."""
    return float(np.abs(found - expected).max() / np.ptp(expected))


def run(proto: Any, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """The output for a random input of the graph's shape and type, as float32."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    value = session.get_inputs()[0]
    tiles = np.random.Generator(np.random.PCG64(seed)).random(value.shape, np.float32) * scale
    tiles = tiles.astype(np.float16).astype(np.float32)
    kind = np.float16 if value.type == "tensor(float16)" else np.float32
    return session.run(None, {value.name: tiles.astype(kind)})[0].astype(np.float32)
