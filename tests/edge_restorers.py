"""Restorers of a tiny edge network, on the device and on the host, which are to agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from edge_networks import edge_network
from fake_tensorrt import write_plans

import mirnet_edge as me
from mirnet_edge.frames.pixel_formats import PixelFormat, pixel_format
from mirnet_edge.graph.file import with_shape

TILE = (48, 96)  # what every scale takes
FORMATS = ("gray", "rgb", "bgr", "rgba", "bgra", "nv12", "i420", "yuyv")


class Restorers:
    """Makes them, of plans in a folder of their own each."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._made = folder, 0

    def plan(self, batch: int = 1, image: str = "FLOAT", **network: Any) -> Path:
        self._made += 1
        folder = self._folder / str(self._made)
        folder.mkdir()
        return write_plans(folder, edge_network(**network), TILE, batch, image)

    def both(
        self,
        batch: int = 1,
        image: str = "FLOAT",
        network: dict[str, Any] | None = None,
        **options: Any,
    ) -> tuple[me.Restorer, me.Restorer]:
        """On the device, and on the host with the same tile."""
        network = network or {}
        path = self._folder / f"portable-{self._made}.onnx"
        onnx.save(with_shape(edge_network(**network), 1, *TILE), path)
        device = me.Restorer(self.plan(batch, image, **network), **options)
        return device, me.Restorer(path, provider="CPUExecutionProvider", **options)


Both = Callable[..., tuple[me.Restorer, me.Restorer]]


@pytest.fixture
def restorers(trt: ModuleType, tmp_path: Path) -> Restorers:
    return Restorers(tmp_path)


@pytest.fixture
def both(restorers: Restorers) -> Both:
    return restorers.both


def frame_in(name: str, height: int, width: int, seed: int = 0) -> tuple[np.ndarray, PixelFormat]:
    """A uint8 frame of that format, brighter to the right, and the format."""
    pixels = pixel_format(name, standard="bt601")
    shape = pixels.shape_of(height, width)
    ramp = np.linspace(40, 200, shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
    noise = np.random.default_rng(seed).integers(-24, 25, shape)
    return (ramp + noise).astype(np.uint8), pixels
