"""A frame and what was made of it, as pictures: to be looked at, sent and kept."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirnet_edge._files import make_folder
from mirnet_edge.frames.images import ImageFile, upright_rgb, write_image
from mirnet_edge.frames.noise import to_uint8
from mirnet_edge.stream.raw_frames import blended

JPEG_QUALITY = 85
Picture = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Pair:
    """One frame before and after.

    Attributes:
        number: of the frame since the view was opened.
        before: as the source gave it.
        after: as the model did, or the same where none took part.
        strength: with which it is shown: 0 is before, 1 after.
        latency_ms: from leaving the source to being ready.
    """

    number: int
    before: NDArray[Any]
    after: NDArray[Any]
    strength: float = 1.0
    latency_ms: float = 0.0

    @property
    def is_restored(self) -> bool:
        """Whether a model took part."""
        return self.after is not self.before

    @cached_property
    def pictures(self) -> tuple[Picture, Picture]:
        """Both as (H, W, 3) uint8, the second as it is shown, which may be larger."""
        before = picture(self.before)
        if not self.is_restored:
            return before, before
        after = picture(self.after)
        if self.strength < 1:
            after = blended(resized(before, after.shape[:2]), after, self.strength)
        return before, after

    def packed(self, most_px: int) -> bytes:
        """As one message: the length of a JSON head in 4 bytes, least first, the head, and two JPEG
        files, no side longer than ``most_px``; where no model took part only one."""
        files = [jpeg(smaller(shown, most_px)) for shown in self.pictures[: 1 + self.is_restored]]
        height, width = self.pictures[1].shape[:2]
        head = json.dumps(
            {
                "number": self.number,
                "width": width,
                "height": height,
                "restored": self.is_restored,
                "sizes": [len(file) for file in files],
            }
        ).encode()
        return struct.pack("<I", len(head)) + head + b"".join(files)

    def save(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write both as PNG files, the folder too where it is missing; OutputError says why they
        cannot be."""
        make_folder(folder)
        paths = folder / f"{name}_before.png", folder / f"{name}_after.png"
        for path, pixels in zip(paths, self.pictures):
            write_image(path, pixels)
        return paths


def picture(frame: NDArray[Any]) -> Picture:
    """A frame of any kind as (H, W, 3) uint8."""
    if frame.ndim == 3 and frame.shape[2] == 1:
        frame = frame[:, :, 0]
    if frame.dtype.kind == "f":
        frame = to_uint8(frame)
    return upright_rgb(ImageFile(frame))


def resized(shown: Picture, size: tuple[int, int]) -> Picture:
    """A picture of (height, width), bicubically."""
    if shown.shape[:2] == size:
        return shown
    height, width = size
    return np.asarray(Image.fromarray(shown).resize((width, height), Image.Resampling.BICUBIC))


def smaller(shown: Picture, most_px: int) -> Picture:
    """A picture no side of which is longer than that, by means over its pixels."""
    height, width = shown.shape[:2]
    share = most_px / max(height, width)
    if share >= 1:
        return shown
    size = max(1, round(width * share)), max(1, round(height * share))
    return np.asarray(Image.fromarray(shown).resize(size, Image.Resampling.BOX))


def jpeg(shown: Picture) -> bytes:
    """A picture as a JPEG file."""
    file = io.BytesIO()
    # Half the chroma, as cameras have it, but not for small pictures, where it shows.
    sampling = 2 if min(shown.shape[:2]) > 720 else 0
    Image.fromarray(shown).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=sampling)
    return file.getvalue()
