"""How far a network in another precision is from FP32, and how much memory it takes, measured on
the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mirnet_edge.bundled import PHOTO
from mirnet_edge.engines.compiled.forms import Place
from mirnet_edge.engines.compiled.network import DTYPES, Precision
from mirnet_edge.engines.compiled.torch_device import translated
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.facts import NOISE_UNIT
from mirnet_edge.frames.images import read_image
from mirnet_edge.metrics import psnr

LEAST_PSNR_DB = 50.0
"""Against FP32, as `build.tune` asks of engines by default: a restoration of 40 dB is then 0.04 dB
worse, and no pixel differs visibly."""
PROOF_PX = 256
SIGMA = 15.0
"""Of the noise in what is restored, in units of 1/255."""
MOST_PSNR_DB = 200.0


@dataclass(frozen=True)
class Proof:
    """What a precision costs.

    Attributes:
        precision: that was measured.
        size: (height, width) of the tile.
        psnr_db: of what it restores against FP32; NaN where it gave values that are not finite.
        compiled: whether the network was compiled.
    """

    precision: Precision
    size: tuple[int, int]
    psnr_db: float
    compiled: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is within the bound."""
        return self.psnr_db >= LEAST_PSNR_DB  # False for NaN


def proof_tile(planes: int, size: tuple[int, int], noise_level: bool) -> Tiles:
    """A tile (1, planes, H, W): the bundled photo, mirrored to that size, with noise; and the level
    of that noise for a network that is told it."""
    photo = read_image(PHOTO).pixels.astype(np.float32) / 255
    pads = [(0, max(0, side - have)) for side, have in zip(size, photo.shape)]
    photo = np.pad(photo, (*pads, (0, 0)), mode="symmetric")[: size[0], : size[1]]
    photo += np.random.default_rng(0).normal(0, SIGMA / 255, photo.shape).astype(np.float32)
    colours = photo.clip(0, 1).transpose(2, 0, 1)
    tile = np.empty((1, planes, *size), np.float32)
    for plane in range(planes):
        tile[0, plane] = colours[plane % 3]
    if noise_level:
        tile[0, -1] = SIGMA / NOISE_UNIT
    return tile


def restored_by(place: Place, precision: Precision, tile: Tiles) -> Tiles:
    """Restore a tile operation by operation, in a precision, without memory of its own."""
    form = place.form("plain", precision)
    tf32 = precision == "tf32"
    with translated(f"{place.name} in {precision}"), place.torch.working(place.stream, tf32=tf32):
        image = torch.from_numpy(tile).to(place.torch.where, DTYPES[precision])
        found: Tiles = form(image)[0].float().cpu().numpy()
    return found


def difference_db(found: Tiles, reference: Tiles) -> float:
    """PSNR of restored tiles against a reference; NaN where a value is not finite."""
    if not np.isfinite(found).all():
        return float("nan")
    return min(psnr(found.clip(0, 1), reference.clip(0, 1)), MOST_PSNR_DB)
