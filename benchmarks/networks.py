"""The networks that are timed: as PyTorch has them, and as graphs that travel without weights.

python benchmarks/networks.py FOLDER [NETWORK ...]       where PyTorch is: writes the graphs

FOLDER gets NETWORK.onnx, as `mirnet_edge.export_onnx` writes it, and NETWORK.plain.onnx, as
``torch.onnx.export`` does, which is what a peer builds. Weights do not matter to speed: those of
more than `SMALL` values stay behind, and `graph_of` fills in seeded ones that keep every layer
alive.
"""

from __future__ import annotations

import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge._files import atomic_path
from mirnet_edge.model.config import PRESETS, Config, MIRNetV2Config

if TYPE_CHECKING:
    from mirnet_edge.model.layers import Network

NETWORKS = ("edge-xs", "edge-s", "edge-m", "mirnet-v2")
SMALL = 1024
Shape = tuple[int, int, int]
"""Batch, height and width."""


def config_of(name: str) -> Config:
    """The configuration of a preset; of an edge network as denoisers have it, with the plane that
    tells the noise level."""
    config = PRESETS[name]
    if isinstance(config, MIRNetV2Config) and name.startswith("edge"):
        return replace(config, noise_level=True)
    return config


def network_of(name: str) -> Network:
    """The network, with seeded weights."""
    import mirnet_edge as me

    return me.create_model(config_of(name), seed=0)


def weights_of(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Seeded by the name; scaled so that a convolution halves what it is given. MIRNet-v2 then adds
    a residual of 0.11 to the image, as a denoiser does. With weights that keep the size it adds
    one of 32, and FP16 with FP32 sums (ONNX Runtime) is 53 dB from FP32 whatever the engine."""
    random = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    size = 2 * float(np.prod(shape[1:])) ** 0.5
    return (random.standard_normal(shape) / size).astype(np.float32)


def export(name: str, folder: Path) -> None:
    """Write both graphs of a network, without weights."""
    import onnx
    import torch

    import mirnet_edge as me

    network = network_of(name)
    ours, plain = folder / f"{name}.onnx", folder / f"{name}.plain.onnx"
    me.export_onnx(network, ours, task="denoise")
    side = 8 * network.config.size_multiple
    axes = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings(), torch.no_grad():
        # TensorRT 8.6 reads opset 17, which torch's newer exporter does not write.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.rand(1, network.config.in_planes, side, side),),
            str(plain),
            dynamo=False,
            opset_version=17,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": axes, "output": axes},
        )
    for path in (ours, plain):
        proto = onnx.load(path)
        for tensor in proto.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > SMALL:
                tensor.ClearField("raw_data")
        path.write_bytes(proto.SerializeToString())


def graph_of(folder: Path, name: str, plain: Shape | None = None) -> Path:
    """The ONNX file of a network with weights; of its plain export for one shape of input, as
    whoever writes a graph for TensorRT would fix it."""
    import onnx

    kind = "whole" if plain is None else "plain.{}x{}x{}".format(*plain)
    path = folder / f"{name}.{kind}.onnx"
    if path.exists():
        return path
    source = folder / (f"{name}.onnx" if plain is None else f"{name}.plain.onnx")
    proto = onnx.load(source)
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > SMALL:
            tensor.raw_data = weights_of(tensor.name, tuple(tensor.dims)).tobytes()
    if plain is not None:
        for value in (*proto.graph.input, *proto.graph.output):
            dims = value.type.tensor_type.shape.dim
            for axis, side in zip((0, 2, 3), plain, strict=True):
                dims[axis].Clear()
                dims[axis].dim_value = side
    with atomic_path(path) as temporary:  # two peers may want it at one time
        temporary.write_bytes(proto.SerializeToString())
    return path


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for each in sys.argv[2:] or NETWORKS:
        export(each, target)
        print(each, flush=True)
