"""How far tiles are from the untiled frame, for statistics, tile sizes and halos."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import weights_of

import mirnet_edge as me
from mirnet_edge.bundled import PHOTO
from mirnet_edge.frames.images import read_image
from mirnet_edge.frames.noise import add_gaussian_noise, unit_range
from mirnet_edge.metrics import psnr
from mirnet_edge.model.config import MIRNetConfig, MIRNetV2Config
from mirnet_edge.pooling.passes import MODES, StatisticsSettings

STILL_FRAMES = 3
"""Of a still scene; the last one is compared."""
Decibels = dict[str, dict[str, dict[str, float]]]
"""By mode, tile and halo."""
HALOS = 8, 16, 32
NARROW = {
    "mirnet": MIRNetConfig(channels=(8, 16, 32)),
    "mirnet-v2": MIRNetV2Config(channels=(8, 12, 16)),
}


@dataclass
class Sweep:
    """Untiled outputs, and for each mode, tile and halo the tiled ones, their mean PSNR against the
    untiled ones, and the passes they took."""

    references: list[np.ndarray]
    outputs: dict[tuple[str, str, str], list[np.ndarray]] = field(default_factory=dict)
    shared: Decibels = field(default_factory=dict)
    passes: Decibels = field(default_factory=dict)


def photos() -> list[np.ndarray]:
    """The bundled photo, or four images of the folder that MIRNET_EDGE_PHOTOS names."""
    folder = os.environ.get("MIRNET_EDGE_PHOTOS")
    if not folder:
        return [read_image(PHOTO).pixels]
    from mirnet_edge.workstation.evaluate import load_images

    return [image for _, image in list(load_images(folder, []))[:4]]


def modes() -> dict[str, tuple[StatisticsSettings, int]]:
    """Settings and frames by what the record calls them."""
    once = {mode: (StatisticsSettings(mode), 1) for mode in MODES if mode != "stream"}
    return once | {
        f"stream, still frame {STILL_FRAMES}": (StatisticsSettings("stream"), STILL_FRAMES)
    }


def swept(model: Any, noisy: list[np.ndarray], tiles: tuple[int, ...]) -> Sweep:
    """A model over all modes, tiles and halos."""
    whole = me.Restorer(model, tile=None)
    sweep = Sweep([whole(frame) for frame in noisy])
    for tile, halo in itertools.product(tiles, HALOS):
        for name, (settings, frames) in modes().items():
            restore = me.Restorer(model, tile=tile, halo=halo, statistics=settings)
            outputs = [restored_last(restore, frame, frames) for frame in noisy]
            place = f"tile {tile}", f"halo {halo}"
            pairs = zip(outputs, sweep.references, strict=True)
            note(sweep.shared, name, place, np.mean([psnr(a, b) for a, b in pairs]))
            note(sweep.passes, name, place, restore.timings.passes)
            sweep.outputs[(name, *place)] = outputs
    return sweep


def test_tiles_against_the_untiled_frame(benchmark: Any) -> None:
    clean = photos()
    noisy = [add_gaussian_noise(image, 25, seed) for seed, image in enumerate(clean)]
    sweep = benchmark.pedantic(swept, args=("edge-s-denoise", noisy, (128, 256)), rounds=1)
    task: Decibels = {}
    for (name, *place), outputs in sweep.outputs.items():
        note(task, name, (place[0], place[1]), mean_psnr(outputs, clean))
    untiled = round(mean_psnr(sweep.references, clean), 2)
    benchmark.extra_info |= {
        "photos": len(noisy),
        "psnr_against_untiled_db": sweep.shared,
        "psnr_against_clean_db": {"untiled": untiled, **task},
        "passes_over_the_last_photo": sweep.passes,
    }
    check(sweep.shared)


@pytest.mark.parametrize("name", NARROW)
def test_tiles_of_a_random_network(name: str, benchmark: Any, tmp_path: Path) -> None:
    """Of full depth, but narrow, so that it takes minutes."""
    network = me.create_model(NARROW[name], seed=0)
    for key, parameter in network.named_parameters():
        if parameter.numel() > 1:
            parameter.data.copy_(torch.from_numpy(weights_of(key, tuple(parameter.shape))))
    model = tmp_path / "narrow.onnx"
    me.export_onnx(network, model, task="denoise")
    noisy = [add_gaussian_noise(read_image(PHOTO).pixels, 25, seed=0)]
    sweep = benchmark.pedantic(swept, args=(model, noisy, (128,)), rounds=1)
    benchmark.extra_info |= {
        "channels": list(NARROW[name].channels),
        "psnr_against_untiled_db": sweep.shared,
        "passes": sweep.passes,
    }
    frame = sweep.shared["frame"]["tile 128"]
    assert frame["halo 32"] > sweep.shared["tile"]["tile 128"]["halo 32"], sweep.shared


def mean_psnr(restored: list[np.ndarray], clean: list[np.ndarray]) -> float:
    """Of images restored, against the clean ones."""
    return float(np.mean([psnr(a, unit_range(b)) for a, b in zip(restored, clean, strict=True)]))


def restored_last(restore: me.Restorer, frame: np.ndarray, frames: int) -> np.ndarray:
    """The last of equal frames, restored."""
    for _ in range(frames):
        restored = restore(frame)
    return np.asarray(restored)


def note(table: Decibels, name: str, place: tuple[str, str], value: Any) -> None:
    tile, halo = place
    table.setdefault(name, {}).setdefault(tile, {})[halo] = round(float(value), 2)


def check(shared: Decibels) -> None:
    """What the portable engine must hold."""
    assert min(min(row.values()) for row in shared["tile"].values()) >= 40, shared
    for tile in ("tile 128", "tile 256"):
        # Convolutions reach 96 pixels: a smaller halo leaves what the farthest of them saw.
        assert shared["frame"][tile]["halo 32"] >= 78, shared
        assert shared["frame"][tile]["halo 16"] >= 65, shared
    for name in set(shared) - {"tile"}:
        assert shared[name]["tile 128"]["halo 32"] >= 60, (name, shared)
