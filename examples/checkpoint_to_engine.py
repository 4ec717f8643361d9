"""A checkpoint of MIRNet to an engine for this GPU: python checkpoint_to_engine.py NAME.pth WxH.

Without TensorRT, or a GPU, the portable engine runs the graph.
"""

import sys
from pathlib import Path

import numpy as np

import mirnet_edge as me

checkpoint, size = Path(sys.argv[1]), sys.argv[2]
width, height = map(int, size.split("x"))
graph, engine = checkpoint.with_suffix(".onnx"), checkpoint.with_suffix(".engine")
report = me.export_onnx(me.load_model(checkpoint), graph, task="denoise")
print(report)
try:
    me.build_engine(graph, engine, precision="fp16", frame=(height, width))
    model = engine
except (me.MissingDependencyError, me.DeviceError) as error:
    print(f"no engine: {error}")
    model = graph
with me.Restorer(model) as restore:
    clean = restore(np.full((height, width, 3), 128, np.uint8))
    print(model.name, clean.shape, restore.timings)
