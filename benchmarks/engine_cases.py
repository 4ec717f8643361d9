"""What `engines.py` measures: its cases, their graphs, and what PyTorch makes of five photos.

Networks other than the bundled one have seeded weights that keep every layer alive (`weights_of`):
graphs travel without them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirnet_edge.model.config import MIRNetV2Config

TILE = 256
PHOTOS = 5
PRESETS = ("edge-m", "mirnet-v2", "mirnet")
BUNDLED = "edge-s-denoise"
TINY = MIRNetV2Config(channels=(8, 12, 16), groups=(1,), n_mrb=1)
SIGMA = 25


@dataclass(frozen=True)
class Case:
    """An engine: of which network, at which precision, and how TensorRT is to build it."""

    network: str
    precision: str = "fp16"
    batch: int = 1
    level: int = 1
    tile: tuple[int, int] = (TILE, TILE)
    rewrite: bool = True
    statistics: bool = False


CASES = {
    "edge-s-denoise-fp16": Case(BUNDLED, statistics=True),
    "edge-s-denoise-fp32": Case(BUNDLED, "fp32", statistics=True),
    "edge-s-denoise-int8": Case(BUNDLED, "int8"),
    "edge-s-denoise-b4-fp16": Case(BUNDLED, batch=4),
    **{f"{name}-{precision}": Case(name, precision, level=level)
       for name, level in (("edge-m", 1), ("mirnet", 1), ("mirnet-v2", 2))
       for precision in ("fp16", "int8")},
    "mirnet-v2-plain-fp16": Case("mirnet-v2", level=2, rewrite=False),
    "tiny": Case("tiny", tile=(720, 1280)),
}  # fmt: skip
"""By name. "plain" is the export without rewrites. "tiny" is a network of hardly any work whose
tile is a 720p frame, for what happens around an engine. An engine in INT8 brings its twin in FP16,
which stands for the case of that name."""


def weights_of(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Seeded by the name; scaled so that a convolution halves what it is given. MIRNet-v2 then adds
    a residual of 0.11 to the image, as a denoiser does. With weights that keep the size it adds
    one of 32, and FP16 with FP32 sums (ONNX Runtime) is 53 dB from FP32 whatever the engine."""
    random = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    size = 2 * float(np.prod(shape[1:])) ** 0.5
    return (random.standard_normal(shape) / size).astype(np.float32)


def prepare(folder: Path, photos: list[str]) -> None:
    """Graphs without weights, five noisy crops, and what PyTorch makes of them in FP32."""
    import onnx
    import torch

    import mirnet_edge as me
    from mirnet_edge.bundled import bundled_model
    from mirnet_edge.frames.images import read_image
    from mirnet_edge.frames.noise import add_gaussian_noise, unit_range

    folder.mkdir(parents=True, exist_ok=True)
    crops = [_middle(read_image(photo).pixels) for photo in photos[:PHOTOS]]
    clean = np.stack([unit_range(crop).transpose(2, 0, 1) for crop in crops])
    noisy = [add_gaussian_noise(crop, SIGMA, seed) for seed, crop in enumerate(crops)]
    tiles = np.stack([tile.transpose(2, 0, 1) for tile in noisy])
    np.savez(folder / "photos.npz", clean=clean, tiles=tiles)
    for preset in (*PRESETS, "tiny"):
        network = me.create_model(TINY if preset == "tiny" else preset, seed=0)
        path = folder / f"{preset}.onnx"
        me.export_onnx(network, path, rewrite=False)
        proto = onnx.load(path)
        state = dict(network.named_parameters(remove_duplicate=False))
        for tensor in proto.graph.initializer:
            if tensor.name in state and state[tensor.name].numel() > 1:
                values = torch.from_numpy(weights_of(tensor.name, tuple(tensor.dims)))
                state[tensor.name].data.copy_(values)
                tensor.ClearField("raw_data")
        path.write_bytes(proto.SerializeToString())
        _save_reference(folder, preset, network, tiles)
    trained = bundled_model(BUNDLED)
    assert trained is not None
    _save_reference(folder, BUNDLED, me.load_model(trained.weights), tiles)


def _middle(pixels: np.ndarray) -> np.ndarray:
    top, left = ((side - TILE) // 2 for side in pixels.shape[:2])
    return pixels[top : top + TILE, left : left + TILE]


def _save_reference(folder: Path, name: str, network: Any, tiles: np.ndarray) -> None:
    import torch

    with torch.inference_mode():
        outputs = [network(torch.from_numpy(tile[None]))[0].numpy() for tile in tiles]
    np.save(folder / f"{name}.reference.npy", np.stack(outputs))


def graph_of(folder: Path, name: str) -> Path:
    """The ONNX file of a network, with its weights."""
    import onnx

    from mirnet_edge.bundled import bundled_model

    trained = bundled_model(name)
    if trained is not None:
        return trained.onnx
    whole = folder / f"{name}.whole.onnx"
    if not whole.exists():
        proto = onnx.load(folder / f"{name}.onnx", load_external_data=False)
        for tensor in proto.graph.initializer:
            if not tensor.raw_data and np.prod(tensor.dims) > 1:
                tensor.raw_data = weights_of(tensor.name, tuple(tensor.dims)).tobytes()
        whole.write_bytes(proto.SerializeToString())
    return whole


def with_every_candidate_in_int8(folder: Path, network: str, onnx: Path) -> Path:
    """The graph with Q/DQ pairs, for random weights, which have no accuracy to lose."""
    from mirnet_edge.graph.file import load_graph
    from mirnet_edge.graph.rewrite import rewritten_for_tensorrt
    from mirnet_edge.quantize.qdq import candidates, inputs_of, insert_qdq
    from mirnet_edge.quantize.ranges import collect_ranges

    path = folder / f"{network}.int8.onnx"
    proto = rewritten_for_tensorrt(load_graph(onnx), 1, (TILE, TILE))
    tiles = np.load(folder / "photos.npz")["tiles"][:1]
    names = candidates(proto)
    ranges = collect_ranges(proto, tiles, "minmax", inputs_of(proto, names))
    path.write_bytes(insert_qdq(proto, ranges, names).SerializeToString())
    return path
