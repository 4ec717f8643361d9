"""How far tiles are from the untiled frame, for statistics, tile sizes and halos."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import mirnet_edge as me
from mirnet_edge.bundled import PHOTO
from mirnet_edge.frame_statistics import MODES, StatisticsSettings
from mirnet_edge.images import read_image
from mirnet_edge.metrics import psnr
from mirnet_edge.tasks import add_gaussian_noise, unit_range

STILL_FRAMES = 3
"""Of a still scene; the last one is compared."""
Decibels = dict[str, dict[str, dict[str, float]]]
"""By mode, tile and halo."""


def photos() -> list[np.ndarray]:
    """The bundled photo, or four images of the folder that MIRNET_EDGE_PHOTOS names."""
    folder = os.environ.get("MIRNET_EDGE_PHOTOS")
    if not folder:
        return [read_image(PHOTO).pixels]
    from mirnet_edge.evaluate import load_images

    return [image for _, image in list(load_images(folder, []))[:4]]


def modes() -> dict[str, tuple[StatisticsSettings, int]]:
    """Settings and frames by what the record calls them."""
    once = {mode: (StatisticsSettings(mode), 1) for mode in MODES if mode != "stream"}
    return once | {
        f"stream, still frame {STILL_FRAMES}": (StatisticsSettings("stream"), STILL_FRAMES)
    }


def test_tiles_against_the_untiled_frame(benchmark: Any) -> None:
    clean = photos()
    noisy = [add_gaussian_noise(image, 25, seed) for seed, image in enumerate(clean)]
    whole = me.Restorer("edge-s-denoise", tile=None)
    references = [whole(frame) for frame in noisy]
    shared: Decibels = {}
    task: Decibels = {}
    engine_runs: Decibels = {}

    def sweep() -> None:
        for tile in (128, 256):
            for halo in (8, 16, 32):
                for name, (settings, frames) in modes().items():
                    restore = me.Restorer(
                        "edge-s-denoise", tile=tile, halo=halo, statistics=settings
                    )
                    outputs = [restored_last(restore, frame, frames) for frame in noisy]
                    place = f"tile {tile}", f"halo {halo}"
                    untiled = [psnr(a, b) for a, b in zip(outputs, references, strict=True)]
                    wanted = [psnr(a, unit_range(b)) for a, b in zip(outputs, clean, strict=True)]
                    note(shared, name, place, np.mean(untiled))
                    note(task, name, place, np.mean(wanted))
                    note(engine_runs, name, place, restore.timings.passes)

    benchmark.pedantic(sweep, rounds=1)
    untiled_task = np.mean([psnr(a, unit_range(b)) for a, b in zip(references, clean)])
    benchmark.extra_info |= {
        "photos": len(noisy),
        "psnr_against_untiled_db": shared,
        "psnr_against_clean_db": {"untiled": round(float(untiled_task), 2), **task},
        "passes_over_the_last_photo": engine_runs,
    }
    check(shared)


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
        assert shared["frame"][tile]["halo 32"] >= 90, shared
        assert shared["frame"][tile]["halo 16"] >= 70, shared
    for name in set(shared) - {"tile"}:
        assert shared[name]["tile 128"]["halo 32"] >= 60, (name, shared)
