"""Tiny networks that are told a noise level, and tiny networks of super-resolution: made here, so
that no torch is needed, on a device either."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper, parser

from mirnet_edge.facts import ModelFacts

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
network (float[1,{planes},height,width] input) => (float[1,3,height,width] output)
<int64[1] start = {{0}}, int64[1] stop = {{3}}, int64[1] axis = {{1}}>
{{
  [first] a = Conv <pads = [1,1,1,1]> (input, "w.first", "b.first")
  [leaky] b = LeakyRelu <alpha = 0.2> (a)
  [pool] c = ReduceMean <axes = [2,3], keepdims = 1> (b)
  [gate] d = Conv (c, "w.gate")
  [channel] e = Sigmoid (d)
  [gated] f = Mul (b, e)
  [last] g = Conv <pads = [1,1,1,1]> (f, "w.last")
  [colours] h = Slice (input, start, stop, axis)
  [skip] output = Add (g, h)
}}
"""
FEATURES = 8


def edge_network(noise_level: bool = False, scale: int = 1) -> Any:
    """The graph of open size. All it is given matters to what comes out: neighbours, the mean over
    the frame, and the noise level, by 0.02 for a step of 25/255."""
    multiple = 12 if scale == 3 else 8 if scale < 3 else 16
    facts = ModelFacts(
        task="super-resolution" if scale > 1 else "denoise",
        scale=scale,
        noise_level=noise_level,
        size_multiple=multiple,
        min_size_px=multiple,
        bytes_per_pixel=64,
    )
    proto = parser.parse_model(NETWORK.format(planes=facts.in_planes))
    random = np.random.default_rng(3)
    shapes = {
        "w.first": (FEATURES, facts.in_planes, 3, 3),
        "b.first": (FEATURES,),
        "w.gate": (FEATURES, FEATURES, 1, 1),
        "w.last": (3, FEATURES, 3, 3),
    }
    for name, shape in shapes.items():
        values = random.normal(0, 0.1, shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    helper.set_model_props(proto, facts.to_metadata())
    return proto
