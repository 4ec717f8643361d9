"""Pictures for tests of the calibration set: different scenes, and the same one a moment later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Frame = np.ndarray[Any, np.dtype[np.uint8]]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def scene(seed: int, height: int = 60, width: int = 84) -> Frame:
    """A picture of its own colours, gradient and texture."""
    random = generator(seed)
    coarse = random.integers(0, 256, (2 + seed % 5, 3 + seed % 4, 3), np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((width, height))).astype(np.int16)
    texture = random.normal(0, 3 * (seed % 7), picture.shape)
    return (picture + texture).clip(0, 255).astype(np.uint8)


def alike(frame: Frame, seed: int) -> Frame:
    """The same picture a moment later: sensor noise, and a little more or less light."""
    random = generator(seed)
    changed = frame + random.normal(0, 1, frame.shape) + random.integers(-1, 2)
    return changed.clip(0, 255).astype(np.uint8)


def save(path: Path, frame: Frame) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame).save(path)
    return path
