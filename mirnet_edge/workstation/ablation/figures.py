"""What is measured of a variant: what it costs, and how far its tiles are from the frame."""

from __future__ import annotations

import math
import tempfile
import timeit
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from mirnet_edge._imports import require
from mirnet_edge._version import __version__
from mirnet_edge.bundled import PHOTO
from mirnet_edge.engines.onnx_engine import OnnxEngine
from mirnet_edge.engines.protocol import fit_engine
from mirnet_edge.engines.torch_engine import TorchEngine
from mirnet_edge.errors import MirnetEdgeError, first_line
from mirnet_edge.frames.images import read_image, upright_rgb
from mirnet_edge.metrics import psnr
from mirnet_edge.model.layers import Network
from mirnet_edge.restore import Restorer
from mirnet_edge.system import usable_cores
from mirnet_edge.workstation.arithmetic import multiply_accumulates
from mirnet_edge.workstation.export import export_onnx
from mirnet_edge.workstation.protocols import protocol_for

WARM_UP_RUNS, RUNS = 3, 30
TILE_PX = 128
"""Of the bundled photo, 451x300: a dozen tiles, with the usual halo."""
SIZES = {"cpu": (256, 256), "cuda": (1088, 1920)}
"""(height, width) that is timed by default: that of the arithmetic, and a frame of 1080p."""


def cost_of(network: Network, device: str, size: tuple[int, int], compile: bool) -> dict[str, Any]:
    """Parameters, billions of multiply-accumulates for 256x256 pixels, and the median of the
    milliseconds for ``size``; where these cannot be measured, why."""
    found: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gmac_256": multiply_accumulates(network, network.facts.in_planes) / 1e9,
        "size": list(size),
        "on": device,
        "version": __version__,
        "torch": torch.__version__,
    }
    measure = _portable if device == "cpu" else _of_device
    try:
        return {**found, **measure(network, size, compile)}
    except (MirnetEdgeError, RuntimeError) as error:  # torch's are the latter
        return {**found, "ms": None, "error": first_line(error)}


def _portable(network: Network, size: tuple[int, int], compile: bool) -> dict[str, Any]:
    """On ONNX Runtime, as any machine would run it."""
    del compile
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "variant.onnx"
        export_onnx(network, path)
        engine = OnnxEngine(path, provider="CPUExecutionProvider")
        tiles = np.zeros((1, network.facts.in_planes, *size), np.float32)
        series = timeit.repeat(lambda: engine.run(tiles), number=1, repeat=WARM_UP_RUNS + RUNS)
    version = require("onnxruntime", "running the variant").__version__
    return {
        "ms": 1e3 * median(series[WARM_UP_RUNS:]),
        "engine": f"ONNX Runtime {version}",
        "device": f"CPU, {usable_cores()} threads",
    }


def _of_device(network: Network, size: tuple[int, int], compile: bool) -> dict[str, Any]:
    """On the GPU, as a CUDA graph in half precision."""
    from mirnet_edge.engines.compiled.engine import CompiledEngine

    with closing(CompiledEngine(network, mode="default" if compile else "off")) as engine:
        fit_engine(engine, size, steady=True)
        series = [times for times in engine.measure(RUNS) if times]
        return {
            "ms": min(map(median, series)),
            "engine": f"PyTorch {torch.__version__}, {engine.precision}",
            "device": engine.stream.device.facts.name,
        }


def tile_agreement_db(network: Network, device: torch.device) -> float | None:
    """PSNR of the bundled photo, spoilt as the network's task is tested, restored in tiles that
    know nothing of each other, against the whole at once; None where they are equal."""
    protocol = protocol_for(network.facts)
    sample = protocol.sample(upright_rgb(read_image(PHOTO)), seed=0)
    told: Any = {"noise": sample.noise} if network.facts.noise_level else {}
    engine = TorchEngine(network, device)
    with Restorer(engine, tile=None, **told) as restorer:
        whole = restorer(sample.given)
    with Restorer(engine, tile=TILE_PX, statistics="tile", **told) as restorer:
        found = psnr(restorer(sample.given), whole)
    return None if math.isinf(found) else found
