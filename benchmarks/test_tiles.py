"""How far tiles with their own statistics are from the untiled frame, for tile sizes and halos."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import mirnet_edge as me
from mirnet_edge.bundled import PHOTO
from mirnet_edge.images import read_image
from mirnet_edge.metrics import psnr
from mirnet_edge.tasks import add_gaussian_noise


def photos() -> list[np.ndarray]:
    """The bundled photo, or four images of the folder that MIRNET_EDGE_PHOTOS names."""
    folder = os.environ.get("MIRNET_EDGE_PHOTOS")
    if not folder:
        return [read_image(PHOTO).pixels]
    from mirnet_edge.evaluate import load_images

    return [image for _, image in list(load_images(folder, []))[:4]]


def test_tiles_against_the_untiled_frame(benchmark: Any) -> None:
    noisy = [add_gaussian_noise(image, 25, seed) for seed, image in enumerate(photos())]
    whole = me.Restorer("edge-s-denoise", tile=None)
    references = [whole(frame) for frame in noisy]
    decibels: dict[str, dict[str, float]] = {}

    def sweep() -> None:
        for tile in (128, 256):
            for halo in (8, 16, 32):
                restore = me.Restorer("edge-s-denoise", tile=tile, halo=halo)
                values = [psnr(restore(f), r) for f, r in zip(noisy, references, strict=True)]
                decibels.setdefault(f"tile {tile}", {})[f"halo {halo}"] = round(
                    float(np.mean(values)), 2
                )

    benchmark.pedantic(sweep, rounds=1)
    benchmark.extra_info |= {"photos": len(noisy), "psnr_against_untiled_db": decibels}
    assert min(min(row.values()) for row in decibels.values()) >= 40, decibels
